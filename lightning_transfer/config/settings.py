"""Check the plain values of a run's config."""

from collections.abc import Mapping
from typing import Any

from lightning_transfer.utils.suggestions import closest, did_you_mean

SETTINGS = (
    *("data", "task", "head", "finetuning", "optimizer", "scheduler", "objectives", "callbacks"),
    *("epochs", "seed", "skip", "init_from", "label_map", "monitor", "patience", "keep", "trainer"),
    *(
        "weight_transfer",
        "on_mismatch",
        "backbone",
        "tokenizer",
        "source_language",
        "target_language",
    ),
)
"""What a stage can be told."""

KEYS = (
    *(
        "name",
        "order",
        "baselines",
        "curve",
        "comparison",
        "seed",
        "seeds",
        "resume",
        "resume_every",
    ),
    *(
        "backbone",
        "tokenizer",
        "target_tokenizer",
        "trainer",
        "logger",
        "activation_cache",
        "stages",
    ),
)
"""What a run can be told; :data:`SETTINGS` stand below each stage."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Check the plain values of a run and its stages: names, numbers and choices.

    Args:
        config: The whole composed config as plain values.

    Raises:
        ValueError: If the run or a stage has an unknown key, or a value is out of its range.
    """
    for name in config:
        if name not in KEYS:
            below = [f"stages.target.{name}"] if name in SETTINGS else closest(str(name), KEYS)
            near = did_you_mean(below)
            raise ValueError(f"{name} is no key of a run, and nothing reads it{near}")
    _check_whole(config.get("resume_every", 1), "resume_every", least=1)
    if config["trainer"].get("limit_test_batches") == 0:
        raise ValueError("trainer.limit_test_batches=0 would leave nothing to score; set null")
    for stage, settings in config["stages"].items():
        where = f"stages.{stage}"
        if not isinstance(settings, Mapping):
            raise ValueError(f"{where} must be a mapping of settings, got {settings!r}")
        for name in settings:
            if name not in SETTINGS:
                near = did_you_mean(closest(str(name), SETTINGS))
                raise ValueError(f"{where}.{name} is no setting of a stage{near}")
        missing = [name for name in ("data", "task", "head", "finetuning") if name not in settings]
        if missing:
            raise ValueError(
                f"{where} lacks {', '.join(missing)}; add the stage by +stage@{where}=default"
            )
        _check_numbers(config, settings, where)


def _check_numbers(config: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> None:
    trainer = {**config["trainer"], **(settings.get("trainer") or {})}
    ends = (trainer.get("max_steps") or -1) > 0 or trainer.get("max_time")
    if settings.get("epochs") is not None or not (ends or trainer.get("max_epochs")):
        _check_whole(settings.get("epochs"), f"{where}.epochs", least=1)
    if settings.get("seed") is not None:
        _check_whole(settings["seed"], f"{where}.seed", least=0)
    if settings.get("patience") is not None:
        _check_whole(settings["patience"], f"{where}.patience", least=1)
        if trainer.get("limit_val_batches") == 0:
            raise ValueError(
                f"{where}.patience needs validations, and limit_val_batches=0 allows none; set "
                "one of them to null"
            )
    if settings.get("keep", "best") not in ("best", "last"):
        raise ValueError(f"{where}.keep must be best or last, got {settings['keep']!r}")
    if not isinstance(settings.get("skip", False), bool):
        raise ValueError(f"{where}.skip must be true or false, got {settings['skip']!r}")
    if not isinstance(settings.get("label_map") or {}, Mapping):
        raise ValueError(
            f"{where}.label_map must be a mapping {{old: new}}, got {settings['label_map']!r}"
        )


def _check_whole(value: Any, where: str, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where} must be a whole number >= {least}, got {value!r}")
