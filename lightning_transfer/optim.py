"""How the parameters move: groups, discriminative learning rates, schedules."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

_SCALE = "ia3_l"  # what peft calls them: vectors, kept with two dimensions
OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


@runtime_checkable
class Layered(Protocol):
    """Anything that shows its layers in order, from the input up."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Modules from the input up; the first holds the embeddings."""
        ...


def layers_of(backbone: nn.Module) -> list[nn.Module]:
    """Return a backbone's layers from the input up.

    Raises:
        ValueError: If it shows none.
    """
    if not isinstance(backbone, Layered):
        raise ValueError(
            f"{type(backbone).__name__} shows no `layers`; a backbone needs an ordered list of "
            "modules from the input up in its attribute `layers`"
        )
    return list(backbone.layers)


def depth_of_parameters(backbone: nn.Module) -> dict[int, int]:
    """Map ``id(parameter)`` to its depth in the backbone.

    A parameter in no layer, such as a final norm, stands with the top layer: it sits above all.
    One that several layers share stands with the lowest.
    """
    layers = layers_of(backbone)
    depths = {id(parameter): len(layers) - 1 for parameter in backbone.parameters()}
    for depth in reversed(range(len(layers))):
        depths.update((id(parameter), depth) for parameter in layers[depth].parameters())
    return depths


@dataclass(frozen=True)
class ParameterGroups:
    """Sort parameters into optimizer groups by depth and by weight decay.

    Every parameter is in exactly one group from the start, frozen or not: an optimizer passes
    over what has no gradient, and so nothing has to move between groups when layers unfreeze.
    Biases and norms (all parameters of one dimension) take no weight decay, nor do the scales of
    IA3, which start at one. Layer-wise decay of
    the learning rate follows Howard & Ruder 2018 (arXiv:1801.06146), who divide by 2.6 a layer.

    Args:
        head_ratio: Learning rate of the head over that of the backbone's top layer, > 0.
        layer_decay: Learning rate of a layer over that of the layer above it, in (0, 1].

    Raises:
        ValueError: If a ratio is out of its range.
    """

    head_ratio: float = 10.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.head_ratio <= 0:
            raise ValueError(f"head_ratio must be > 0, got {self.head_ratio}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")

    def __call__(self, task: nn.Module, backbone: nn.Module) -> list[dict[str, Any]]:
        """Return optimizer groups with ``name``, ``lr_ratio`` and, where due, no weight decay."""
        depths = depth_of_parameters(backbone)
        top = max(depths.values(), default=0)
        scales = {id(p) for name, p in task.named_parameters() if _SCALE in name.split(".")}
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        for parameter in task.parameters():
            depth = depths.get(id(parameter))
            where, ratio = self._place(depth, top)
            decays = parameter.ndim > 1 and id(parameter) not in scales
            name = where if decays else f"{where}, no decay"
            group = groups.setdefault(
                (where, decays), {"params": [], "name": name, "lr_ratio": ratio}
            )
            if not decays:
                group["weight_decay"] = 0.0
            group["params"].append(parameter)
        return list(groups.values())

    def _place(self, depth: int | None, top: int) -> tuple[str, float]:
        if depth is None:
            return "head", self.head_ratio
        if self.layer_decay == 1.0:
            return "backbone", 1.0
        return f"depth {depth}", self.layer_decay ** (top - depth)


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and parameter groups of a task.

    Args:
        optimizer: Called with the groups; None means AdamW with learning rate 1e-4.
        scheduler: Called with the optimizer, and with ``total_steps`` if it takes that and has
            not been given it; stepped after every optimizer step, or after every validation if it
            is a ``ReduceLROnPlateau``. None means a constant learning rate.
        groups: Sorts the parameters.
    """

    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    groups: ParameterGroups = field(default_factory=ParameterGroups)

    def configure(
        self, task: LightningModule, backbone: nn.Module, *, monitor: str, mode: str
    ) -> Any:
        """Return what ``LightningModule.configure_optimizers`` is to return.

        Args:
            task: Its parameters are optimized; attached to a Trainer.
            backbone: The part of the task that has depths.
            monitor: The validation metric for schedulers that watch one.
            mode: ``max`` or ``min``: which way that metric is better.

        Raises:
            ValueError: If the schedule spans the whole run and the run has no end.
        """
        factory = self.optimizer or partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
        optimizer = factory(self.groups(task, backbone))
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_ratio"]
        if self.scheduler is None:
            return optimizer
        arguments: dict[str, Any] = {}
        if _takes(self.scheduler, "total_steps"):
            arguments["total_steps"] = _total_steps(task)
        if _makes(self.scheduler, ReduceLROnPlateau) and _takes(self.scheduler, "mode"):
            arguments["mode"] = mode  # its own default, min, would take a better score for a worse
        scheduler = self.scheduler(optimizer, **arguments)
        _keep_ratios(scheduler)
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        config = {"scheduler": scheduler, "interval": "epoch" if plateau else "step"}
        if plateau:
            config["monitor"] = monitor
        return {"optimizer": optimizer, "lr_scheduler": config}


def check_recipe(recipe: Recipe, task: LightningModule, *, where: str) -> None:
    """Build optimizer and schedule once, without a Trainer, to see whether they can be built.

    Args:
        recipe: What is built.
        task: With a ``backbone``; nothing in it changes.
        where: Dotted key of both, for the message.

    Raises:
        ValueError: If one of them refuses its arguments.
    """
    part = "optimizer"
    try:
        factory = recipe.optimizer or torch.optim.AdamW
        optimizer = factory(recipe.groups(task, task.backbone))  # type: ignore[arg-type]
        part = "scheduler"
        if recipe.scheduler is not None:
            total = {"total_steps": 100} if _takes(recipe.scheduler, "total_steps") else {}
            recipe.scheduler(optimizer, **total)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{part}: {error}") from error


def _takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether a factory has an argument that it has not been given yet."""
    given = factory.keywords if isinstance(factory, partial) else {}
    return name in inspect.signature(factory).parameters and name not in given


def _makes(factory: Callable[..., Any], kind: type) -> bool:
    made = factory.func if isinstance(factory, partial) else factory
    return isinstance(made, type) and issubclass(made, kind)


def _total_steps(task: LightningModule) -> int:
    steps = task.trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            "a schedule over the whole run needs its length, and the run has no end: set "
            "max_epochs or max_steps, or a scheduler without total_steps"
        )
    return int(steps)


def _keep_ratios(scheduler: LRScheduler) -> None:
    """Give the groups their ratios again where a schedule set one peak for all of them."""
    groups = scheduler.optimizer.param_groups
    if isinstance(scheduler, CyclicLR) and len(set(scheduler.max_lrs)) == 1:
        peak = scheduler.max_lrs[0]
        scheduler.max_lrs = [peak * group["lr_ratio"] for group in groups]
    elif not isinstance(scheduler, OneCycleLR) or len({group["max_lr"] for group in groups}) > 1:
        return
    for group in groups:
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if name in group:
                group[name] *= group["lr_ratio"]
    scheduler.base_lrs = [group["initial_lr"] for group in groups]


class _Linear:
    """Multiplier of the learning rate; a class, so that its numbers travel with checkpoints."""

    def __init__(self, total_steps: int, warmup_steps: int) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return max(0.0, (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps))


def linear_schedule(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Linear warm-up, then linear decay to zero.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps that warm up, in [0, 1).

    Raises:
        ValueError: If ``warmup`` is out of its range.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be a fraction in [0, 1), got {warmup}; set scheduler.warmup")
    return LambdaLR(optimizer, _Linear(total_steps, int(warmup * total_steps)))
