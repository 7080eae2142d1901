"""Instantiation of the objects of a stage from the plain values of its config."""

from collections.abc import Iterator, Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Callback

from lightning_transfer.adapters import Adapter
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.utils import allowed_targets


def build(spec: Any, kind: str, where: str, **extra: Any) -> Any:
    """Instantiate an object from its config, after a check of its targets.

    Args:
        spec: Plain mapping with a ``_target_``.
        kind: Kind of object; see :mod:`lightning_transfer.utils.allowed_targets`.
        where: Dotted key of ``spec``, for messages.
        extra: Arguments that are not in the config.

    Raises:
        ValueError: If a ``_target_`` is not allowed for this kind, or rejects its arguments.
        ImportError: If a ``_target_`` or a package that it needs cannot be imported.
    """
    allowed_targets.check(spec, kind, where=where)
    try:
        return hydra.utils.instantiate(spec, **extra, _convert_="all")
    except InstantiationException as error:
        # Hydra wraps the error once for each level of nested targets. Errors of the user's values
        # get the key in front; any other error is a bug and keeps its traceback.
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | TypeError):
            raise ValueError(f"{where}: {cause}") from error
        if isinstance(cause, ImportError):
            raise ImportError(f"{where}: {cause}") from error
        raise


def scheduler_key(settings: Mapping[str, Any]) -> str:
    """Return the key of a stage's schedule: its own, else that of its fine-tuning method."""
    return "scheduler" if settings.get("scheduler") else "finetuning.scheduler"


def build_recipe(settings: Mapping[str, Any], where: str, *, monitor: str, mode: str) -> Recipe:
    """Build optimizer, schedule and parameter groups of a stage.

    Args:
        settings: Config of the stage.
        where: Dotted key of the stage.
        monitor: Validation metric for schedules that depend on one.
        mode: ``max`` or ``min``, the better direction of the metric.
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
    """Build the callbacks of a stage: those of its fine-tuning method, then its own."""
    specs = _named_specs(settings, where, "callbacks")
    return [build(spec, "callback", key) for _, spec, key in specs]


def build_adapter(config: Mapping[str, Any], stage: str) -> Adapter | None:
    """Build the adapter of a stage's fine-tuning method, or return None without one.

    Args:
        config: The whole config of a run.
        stage: Name of the stage.
    """
    spec = config["stages"][stage]["finetuning"].get("adapter")
    return build(spec, "adapter", f"stages.{stage}.finetuning.adapter") if spec else None


def build_objectives(settings: Mapping[str, Any], where: str) -> dict[str, Weighted]:
    """Build the objectives of a stage by name.

    An objective of the stage replaces one of the same name of its fine-tuning method.
    """
    specs = _named_specs(settings, where, "objectives")
    return {name: _build_objective(spec, key) for name, spec, key in specs}


def _named_specs(
    settings: Mapping[str, Any], where: str, group: str
) -> Iterator[tuple[str, Any, str]]:
    """Yield name, config and dotted key of all callbacks or objectives of a stage.

    Those of the fine-tuning method come first, then those of the stage.
    """
    sections = {f"{where}.finetuning": settings["finetuning"], where: settings}
    for section, values in sections.items():
        for name, spec in (values.get(group) or {}).items():
            yield name, spec, f"{section}.{group}.{name}"


def _build_objective(spec: Mapping[str, Any], where: str) -> Weighted:
    """Build an objective with its weight; an objective without ``Weighted`` has weight 1."""
    if spec.get("_target_") != "lightning_transfer.objectives.Weighted":
        return Weighted(build(spec, "objective", where))
    # Not in one call: `Weighted` is not an objective itself, and the key of the error has to be
    # that of the objective.
    numbers = {k: v for k, v in spec.items() if k not in ("_target_", "objective")}
    return Weighted(build(spec.get("objective"), "objective", f"{where}.objective"), **numbers)


def backbone_spec(config: Mapping[str, Any], stage: str) -> tuple[Mapping[str, Any], str]:
    """Return the config of a stage's backbone and its dotted key.

    Without a backbone of the stage they are those of the run.
    """
    own = config["stages"][stage].get("backbone")
    return (own, f"stages.{stage}.backbone") if own else (config["backbone"], "backbone")


def load_arguments(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the arguments of :func:`lightning_transfer.checkpoints.load` for a stage's weights.

    A checkpoint cannot rebuild a head, backbone or adapter of the user's own class. They are built
    from the config instead.

    Args:
        config: The whole config of a run.
        stage: Name of the stage.
    """
    spec = config["stages"][stage]["head"]
    parts: dict[str, Any] = {"head": build(spec, "head", f"stages.{stage}.head")}
    backbone, where = backbone_spec(config, stage)
    # A backbone of this package is rebuilt from the checkpoint: built here, it would be downloaded.
    if not str(backbone["_target_"]).startswith("lightning_transfer.backbones."):
        parts["backbone"] = build(backbone, "backbone", where)
    adapter = config["stages"][stage]["finetuning"].get("adapter")
    if adapter and not str(adapter["_target_"]).startswith("lightning_transfer."):
        parts["adapter"] = build_adapter(config, stage)
    return parts
