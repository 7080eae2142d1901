"""Optimizer, schedule and groups of a task, put together."""

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
# What torch's own schedules over a whole run call its length; PolynomialLR's default, 5 steps,
# would leave a stage without a learning rate.
_LENGTH = {CosineAnnealingLR: "T_max", PolynomialLR: "total_iters"}


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and parameter groups of a task.

    Args:
        optimizer: Called with the groups; None means AdamW with learning rate 1e-4.
        scheduler: Called with the optimizer. It is also given the stage's optimizer steps, if it
            takes ``total_steps`` (or is a ``CosineAnnealingLR`` or ``PolynomialLR``) and has not
            been given it; a ``ReduceLROnPlateau`` is given ``mode``. It is stepped after every
            optimizer step; a ``ReduceLROnPlateau`` after every validation by our tasks, by other
            modules after every epoch that validates. None means a constant learning rate. The
            ratios of the groups hold under any of them: see :class:`RatioScheduler`.
        groups: Sorts the parameters.
        monitor: The validation metric for schedulers that watch one; None: the task's own.
        mode: ``max`` or ``min``, for ``monitor``; None: the task's own.
    """

    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    groups: ParameterGroups = field(default_factory=ParameterGroups)
    monitor: str | None = field(default=None, kw_only=True)
    mode: str | None = field(default=None, kw_only=True)

    @property
    def watches_metric(self) -> bool:
        """Whether the scheduler is a ``ReduceLROnPlateau``, which needs validations."""
        return self.scheduler is not None and _made(self.scheduler, ReduceLROnPlateau)

    def configure(
        self, task: LightningModule, backbone: nn.Module, *, monitor: str, mode: str
    ) -> Any:
        """Return what ``LightningModule.configure_optimizers`` is to return.

        Args:
            task: Its parameters are optimized; attached to a Trainer.
            backbone: The part of the task that has depths.
            monitor: The task's own metric.
            mode: ``max`` or ``min``: which way that metric is better.

        Raises:
            ValueError: If the schedule spans the whole run and the run has no end, or if it watches
                a metric and there is no validation.
        """
        optimizer = self._optimizer(task, backbone)
        if self.scheduler is None:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * group["lr_ratio"]
            return optimizer
        length = _length(self.scheduler)
        given = {length: _total_steps(task)} if length else {}
        inner = _build(self.scheduler, optimizer, given, self.mode or mode)
        config = {"scheduler": RatioScheduler(inner), "interval": "step"}
        if isinstance(inner, ReduceLROnPlateau):
            config |= _watching(task, self.monitor or monitor)
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _optimizer(self, task: nn.Module, backbone: nn.Module) -> Optimizer:
        factory = self.optimizer or partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
        return factory(self.groups(task, backbone))


def check_recipe(
    recipe: Recipe, task: LightningModule, *, where: str, scheduler: str = "scheduler"
) -> None:
    """Build optimizer and schedule once, without a Trainer, to see whether they can be built.

    Args:
        recipe: What is built.
        task: With a ``backbone``; nothing in it changes.
        where: Dotted key of both, for the message.
        scheduler: Key of the schedule below it.

    Raises:
        ValueError: If one of them refuses its arguments.
    """
    part = "finetuning.groups"
    try:
        recipe.groups(task, task.backbone)  # type: ignore[arg-type]
        part = "optimizer"
        optimizer = recipe._optimizer(task, task.backbone)  # type: ignore[arg-type]
        part = scheduler
        if recipe.scheduler is not None:
            length = _length(recipe.scheduler)
            _build(recipe.scheduler, optimizer, {length: 100} if length else {}, "max")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{part}: {error}") from error


def _build(
    factory: SchedulerFactory, optimizer: Optimizer, given: dict[str, Any], mode: str
) -> LRScheduler:
    if _made(factory, ReduceLROnPlateau) and _takes(factory, "mode"):
        given["mode"] = mode  # its own default, min, would take a better score for a worse
    return factory(optimizer, **given)


def _length(factory: SchedulerFactory) -> str | None:
    """Return the argument that a schedule still needs to know how long the stage is."""
    named = (name for kind, name in _LENGTH.items() if _made(factory, kind))
    name = next(named, "total_steps")
    return name if _takes(factory, name) else None


def _takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether a factory has an argument that it has not been given yet."""
    given = factory.keywords if isinstance(factory, partial) else {}
    return name in inspect.signature(factory).parameters and name not in given


def _made(factory: Callable[..., Any], kind: type) -> bool:
    made = factory.func if isinstance(factory, partial) else factory
    return isinstance(made, type) and issubclass(made, kind)


def _watching(task: LightningModule, monitor: str) -> dict[str, Any]:
    """Return how Lightning is to step a scheduler that watches a metric."""
    trainer = task.trainer
    rows = getattr(getattr(trainer, "datamodule", None), "n_val", None)
    if rows == 0 or not getattr(trainer, "enable_validation", True):
        raise ValueError(
            f"ReduceLROnPlateau watches {monitor}, and this run has no validation; give it rows to "
            "validate on (data.splits.val, trainer.limit_val_batches) or choose another scheduler"
        )
    every = getattr(trainer, "check_val_every_n_epoch", None) or 1  # the metric is there by then
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
            "a schedule over the whole run needs its length, and the run has no end: set "
            "max_epochs or max_steps, or a scheduler without total_steps"
        )
    return int(steps)
