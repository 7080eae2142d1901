"""Recipe of a task: optimizer, schedule and parameter groups."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    PolynomialLR,
    ReduceLROnPlateau,
)

from lightning_transfer.optim.parameter_groups import ParameterGroups
from lightning_transfer.optim.ratio_scheduler import RatioScheduler

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]
# Argument with the number of steps, in schedules of torch over a whole run. PolynomialLR's default,
# 5 steps, would train most of a stage with learning rate 0.
_LENGTH_ARGUMENTS = {CosineAnnealingLR: "T_max", PolynomialLR: "total_iters"}


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and parameter groups of a task.

    Args:
        optimizer: Called with the groups; None: AdamW with learning rate 1e-4.
        scheduler: Called with the optimizer; None: a constant learning rate. A schedule with an
            argument ``total_steps``, a ``CosineAnnealingLR`` or a ``PolynomialLR`` gets the number
            of optimizer steps of the stage, unless it is already set. A ``ReduceLROnPlateau`` gets
            ``mode`` in the same way. A scheduler is stepped after every optimizer step, a
            ``ReduceLROnPlateau`` after every validation (in modules other than the tasks of this
            package, after every epoch with a validation). All schedulers keep the ratios of the
            groups; see :class:`RatioScheduler`.
        groups: Returns the parameter groups.
        monitor: Validation metric of a ``ReduceLROnPlateau``; None: that of the task.
        mode: ``max`` or ``min``, the better direction of ``monitor``; None: that of the task.
    """

    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    groups: ParameterGroups = field(default_factory=ParameterGroups)
    monitor: str | None = field(default=None, kw_only=True)
    mode: str | None = field(default=None, kw_only=True)

    @property
    def watches_metric(self) -> bool:
        """True if the scheduler is a ``ReduceLROnPlateau``, which needs validation."""
        return self.scheduler is not None and _builds(self.scheduler, ReduceLROnPlateau)

    def configure(
        self, task: LightningModule, backbone: nn.Module, *, monitor: str, mode: str
    ) -> Any:
        """Return the result of ``LightningModule.configure_optimizers``.

        Args:
            task: Module to optimize, attached to a Trainer.
            backbone: Part of the task with an attribute ``layers``.
            monitor: Default of the monitored metric.
            mode: ``max`` or ``min``, the better direction of that metric.

        Raises:
            ValueError: If the schedule needs the length of the run and the run has no end, or if
                it needs a metric and the run has no validation.
        """
        optimizer = self._optimizer(task, backbone)
        if self.scheduler is None:
            # Without a RatioScheduler, the ratios are applied once.
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * group["lr_ratio"]
            return optimizer
        length = _missing_length(self.scheduler)
        arguments = {length: _total_steps(task)} if length else {}
        inner = _build(self.scheduler, optimizer, arguments, self.mode or mode)
        config = {"scheduler": RatioScheduler(inner), "interval": "step"}
        if isinstance(inner, ReduceLROnPlateau):
            config |= _plateau_config(task, self.monitor or monitor)
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _optimizer(self, task: nn.Module, backbone: nn.Module) -> Optimizer:
        factory = self.optimizer or partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
        return factory(self.groups(task, backbone))


def check_recipe(
    recipe: Recipe, task: LightningModule, *, where: str, scheduler: str = "scheduler"
) -> None:
    """Build parameter groups, optimizer and schedule once without a Trainer, to check them.

    Args:
        recipe: The recipe to check.
        task: Task with a ``backbone``; it is not changed.
        where: Dotted key of the stage, for the message.
        scheduler: Key of the schedule below ``where``.

    Raises:
        ValueError: If one of them rejects its arguments. The message begins with the key.
    """
    part = "finetuning.groups"
    try:
        recipe.groups(task, task.backbone)  # type: ignore[arg-type]
        part = "optimizer"
        optimizer = recipe._optimizer(task, task.backbone)  # type: ignore[arg-type]
        part = scheduler
        if recipe.scheduler is not None:
            length = _missing_length(recipe.scheduler)
            # The real length is known to a Trainer only; any number of steps will do.
            _build(recipe.scheduler, optimizer, {length: 100} if length else {}, "max")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{part}: {error}") from error


def _build(
    factory: SchedulerFactory, optimizer: Optimizer, arguments: dict[str, Any], mode: str
) -> LRScheduler:
    if _builds(factory, ReduceLROnPlateau) and _lacks(factory, "mode"):
        # The default, min, would take a higher score for a worse one.
        arguments["mode"] = mode
    return factory(optimizer, **arguments)


def _missing_length(factory: SchedulerFactory) -> str | None:
    """Return the name of the unset argument with the number of steps; None if there is none."""
    names = (name for kind, name in _LENGTH_ARGUMENTS.items() if _builds(factory, kind))
    name = next(names, "total_steps")
    return name if _lacks(factory, name) else None


def _lacks(factory: Callable[..., Any], name: str) -> bool:
    """Return True if a factory has an argument of this name that is not set yet."""
    given = factory.keywords if isinstance(factory, partial) else {}
    return name in inspect.signature(factory).parameters and name not in given


def _builds(factory: Callable[..., Any], kind: type) -> bool:
    """Return True if a class, or a partial of one, is a subclass of ``kind``."""
    built = factory.func if isinstance(factory, partial) else factory
    return isinstance(built, type) and issubclass(built, kind)


def _plateau_config(task: LightningModule, monitor: str) -> dict[str, Any]:
    """Return the settings of Lightning for a scheduler with a monitored metric.

    Args:
        task: Task attached to a Trainer.
        monitor: Name of the metric.

    Raises:
        ValueError: If the run has no validation.
    """
    # Read with defaults: the data may be plain loaders, without the number of validation rows.
    trainer = task.trainer
    rows = getattr(getattr(trainer, "datamodule", None), "n_val", None)
    if rows == 0 or not getattr(trainer, "enable_validation", True):
        raise ValueError(
            f"ReduceLROnPlateau needs the metric {monitor}, but this run has no validation; set "
            "data.splits.val=0.1 and trainer.limit_val_batches=null, or choose another scheduler"
        )
    # Only in epochs with a validation: in the others the metric is missing or an old one.
    every = getattr(trainer, "check_val_every_n_epoch", None) or 1
    return {
        "interval": "epoch",
        "frequency": every,
        "reduce_on_plateau": True,
        "monitor": monitor,
    }


def _total_steps(task: LightningModule) -> int:
    steps = task.trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            "a schedule over the whole run needs the number of steps, but the run has no end; set "
            "max_epochs or max_steps, or choose a scheduler without total_steps"
        )
    return int(steps)
