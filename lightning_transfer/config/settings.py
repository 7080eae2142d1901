"""Checks of the plain values in the config of a run: keys, ranges and choices."""

from collections.abc import Mapping
from typing import Any

from lightning_transfer.utils.suggestions import closest, did_you_mean

SETTINGS = (
    *("data", "task", "head", "finetuning", "optimizer", "scheduler", "objectives", "callbacks"),
    *("epochs", "seed", "skip", "init_from", "label_map", "monitor", "patience", "keep", "trainer"),
    *("weight_transfer", "on_mismatch", "backbone", "tokenizer"),
    *("source_language", "target_language"),
)
"""Keys of a stage."""

KEYS = (
    *("name", "order", "baselines", "curve", "comparison", "seed", "seeds"),
    *("resume", "resume_every", "backbone", "tokenizer", "target_tokenizer", "trainer", "logger"),
    *("activation_cache", "stages"),
)
"""Keys of a run. Those in :data:`SETTINGS` are below each stage."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Check the keys and the plain values of a run and its stages.

    Args:
        config: The whole composed config as plain values.

    Raises:
        ValueError: If the run or a stage has an unknown key, if a stage lacks a required key, or if
            a value is out of its range.
    """
    for name in config:
        if name not in KEYS:
            # For a known key at the wrong level, the full address is the correction.
            near = [f"stages.target.{name}"] if name in SETTINGS else closest(str(name), KEYS)
            raise ValueError(f"unknown key {str(name)!r}{did_you_mean(near)}")
    _check_integer(config.get("resume_every", 1), "resume_every", least=1)
    if config["trainer"].get("limit_test_batches") == 0:
        raise ValueError(
            "trainer.limit_test_batches=0 leaves no batch to test on; set "
            "trainer.limit_test_batches=null"
        )
    for stage, settings in config["stages"].items():
        where = f"stages.{stage}"
        if not isinstance(settings, Mapping):
            raise ValueError(f"{where} must be a mapping of settings, got {settings!r}")
        for name in settings:
            if name not in SETTINGS:
                near = [f"{where}.{key}" for key in closest(str(name), SETTINGS)]
                raise ValueError(f"unknown key '{where}.{name}'{did_you_mean(near)}")
        missing = [name for name in ("data", "task", "head", "finetuning") if name not in settings]
        if missing:
            raise ValueError(
                f"{where} has no {', '.join(missing)}; add the stage with +stage@{where}=default"
            )
        _check_stage(config, settings, where)


def _check_stage(config: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> None:
    trainer = {**config["trainer"], **(settings.get("trainer") or {})}
    # Lightning's default of max_steps is -1, without a limit. A run with another end, in steps or
    # in time, needs no epochs.
    ends = (trainer.get("max_steps") or -1) > 0 or trainer.get("max_time")
    if settings.get("epochs") is not None or not (ends or trainer.get("max_epochs")):
        _check_integer(settings.get("epochs"), f"{where}.epochs", least=1)
    if settings.get("seed") is not None:
        _check_integer(settings["seed"], f"{where}.seed", least=0)
    if settings.get("patience") is not None:
        _check_integer(settings["patience"], f"{where}.patience", least=1)
        if trainer.get("limit_val_batches") == 0:
            raise ValueError(
                f"{where}.patience={settings['patience']} needs validation, but "
                f"trainer.limit_val_batches=0 turns it off; set {where}.patience=null or "
                "trainer.limit_val_batches=null"
            )
    if settings.get("keep", "best") not in ("best", "last"):
        raise ValueError(f"{where}.keep must be one of best, last, got {settings['keep']!r}")
    if not isinstance(settings.get("skip", False), bool):
        raise ValueError(f"{where}.skip must be true or false, got {settings['skip']!r}")
    if not isinstance(settings.get("label_map") or {}, Mapping):
        raise ValueError(
            f"{where}.label_map must be a mapping {{old: new}}, got {settings['label_map']!r}"
        )


def _check_integer(value: Any, where: str, *, least: int) -> None:
    # bool is a subclass of int, and YAML reads `yes` as True.
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where} must be an integer >= {least}, got {value!r}")
