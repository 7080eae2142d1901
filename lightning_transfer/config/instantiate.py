"""What a stage is made of, built from the plain values of its config."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Callback

from lightning_transfer.adapters import Adapter
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.utils import allowed_targets


def build(spec: Any, slot: str, where: str, **extra: Any) -> Any:
    """Instantiate a config slot, after a check that it holds what it may hold.

    Args:
        spec: Plain mapping with ``_target_``.
        slot: Name of the slot; see :mod:`lightning_transfer.utils.allowed_targets`.
        where: Dotted key for error messages.
        extra: Arguments that only the run knows.

    Raises:
        ValueError: If the ``_target_`` is not of the slot's kind, or refuses its arguments.
    """
    allowed_targets.check(spec, slot, where=where)
    try:
        return hydra.utils.instantiate(spec, **extra, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | TypeError):
            raise ValueError(f"{where}: {cause}") from error
        if isinstance(cause, ImportError):
            raise ImportError(f"{where}: {cause}") from error
        raise


def scheduler_key(settings: Mapping[str, Any]) -> str:
    """Return where a stage's schedule stands: one of its own is stronger than its strategy's."""
    return "scheduler" if settings.get("scheduler") else "finetuning.scheduler"


def build_recipe(settings: Mapping[str, Any], where: str, *, monitor: str, mode: str) -> Recipe:
    """Build optimizer, schedule and parameter groups of a stage.

    Args:
        settings: Of the stage.
        where: Dotted key of the stage.
        monitor: The validation metric for schedules that watch one.
        mode: ``max`` or ``min``: which way that metric is better.
    """
    finetuning = settings["finetuning"]
    scheduler = settings.get("scheduler") or finetuning.get("scheduler")
    return Recipe(
        build(settings["optimizer"], "optimizer", f"{where}.optimizer"),
        build(scheduler, "scheduler", f"{where}.{scheduler_key(settings)}"),
        build(finetuning["groups"], "groups", f"{where}.finetuning.groups"),
        monitor=monitor,
        mode=mode,
    )


def build_callbacks(settings: Mapping[str, Any], where: str) -> list[Callback]:
    """Build the callbacks of a stage's strategy, then those of the stage."""
    places = {f"{where}.finetuning": settings["finetuning"], where: settings}
    return [
        build(spec, "callback", f"{place}.callbacks.{name}")
        for place, group in places.items()
        for name, spec in (group.get("callbacks") or {}).items()
    ]


def build_adapter(config: Mapping[str, Any], stage: str) -> Adapter | None:
    """Build the adapter of a stage's strategy, if it has one."""
    spec = config["stages"][stage]["finetuning"].get("adapter")
    return build(spec, "adapter", f"stages.{stage}.finetuning.adapter") if spec else None


def build_objectives(settings: Mapping[str, Any], where: str) -> dict[str, Weighted]:
    """Build the extra losses of a stage's strategy and of the stage, which is stronger."""
    places = {f"{where}.finetuning": settings["finetuning"], where: settings}
    return {
        name: _objective(spec, f"{place}.objectives.{name}")
        for place, group in places.items()
        for name, spec in (group.get("objectives") or {}).items()
    }


def _objective(spec: Mapping[str, Any], where: str) -> Weighted:
    """Build an extra loss with its weight; one that is given bare weighs 1."""
    if spec.get("_target_") != "lightning_transfer.objectives.Weighted":
        return Weighted(build(spec, "objective", where))
    numbers = {k: v for k, v in spec.items() if k not in ("_target_", "objective")}
    return Weighted(build(spec.get("objective"), "objective", f"{where}.objective"), **numbers)


def backbone_spec(config: Mapping[str, Any], stage: str) -> tuple[Mapping[str, Any], str]:
    """Return the config of a stage's backbone, its own or the run's, and its dotted key."""
    own = config["stages"][stage].get("backbone")
    return (own, f"stages.{stage}.backbone") if own else (config["backbone"], "backbone")


def own_parts(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the parts of a stage that a checkpoint may not build: head, own backbone or adapter.

    Args:
        config: The whole config of a run.
        stage: Name of one of its stages.
    """
    spec = config["stages"][stage]["head"]
    parts: dict[str, Any] = {"head": build(spec, "head", f"stages.{stage}.head")}
    backbone, where = backbone_spec(config, stage)
    if not str(backbone["_target_"]).startswith("lightning_transfer.backbones."):
        parts["backbone"] = build(backbone, "backbone", where)
    adapter = config["stages"][stage]["finetuning"].get("adapter")
    if adapter and not str(adapter["_target_"]).startswith("lightning_transfer."):
        parts["adapter"] = build_adapter(config, stage)
    return parts
