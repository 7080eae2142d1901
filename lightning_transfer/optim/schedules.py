"""Schedules of the learning rate over a stage; the optimizer's rate is always the peak.

Each is a function of the optimizer and the stage's number of optimizer steps. The multipliers are
classes, so that their numbers travel with checkpoints.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


class _WarmUp:
    """Rises linearly over the first steps, then goes on as ``after`` says."""

    def __init__(self, total_steps: int, warmup_steps: int) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        return self.after(max(0.0, left))

    def after(self, left: float) -> float:
        """Return the multiplier where a share ``left``, in [0, 1], of the other steps is left."""
        raise NotImplementedError


class _Constant(_WarmUp):
    def after(self, left: float) -> float:
        return 1.0


class _Linear(_WarmUp):
    def after(self, left: float) -> float:
        return left


class _Cosine(_WarmUp):
    def __init__(self, total_steps: int, warmup_steps: int, final: float) -> None:
        super().__init__(total_steps, warmup_steps)
        self.final = final

    def after(self, left: float) -> float:
        return self.final + (1 - self.final) * (1 - math.cos(math.pi * left)) / 2


class _SlantedTriangular:
    def __init__(self, total_steps: int, cut: int, ratio: float) -> None:
        self.total_steps = total_steps
        self.cut = cut
        self.ratio = ratio

    def __call__(self, step: int) -> float:
        if step < self.cut:
            height = step / self.cut
        else:
            height = max(0.0, 1 - (step - self.cut) / max(1, self.total_steps - self.cut))
        return (1 + height * (self.ratio - 1)) / self.ratio


def _warmup_steps(warmup: float, total_steps: int) -> int:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be a fraction in [0, 1), got {warmup}; set scheduler.warmup")
    return int(warmup * total_steps)


def constant_schedule(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Linear warm-up, if any, then a rate that stays where it is.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps that warm up, in [0, 1).

    Raises:
        ValueError: If ``warmup`` is out of its range.
    """
    return LambdaLR(optimizer, _Constant(total_steps, _warmup_steps(warmup, total_steps)))


def linear_schedule(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Linear warm-up, then linear decay to zero.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps that warm up, in [0, 1).

    Raises:
        ValueError: If ``warmup`` is out of its range.
    """
    return LambdaLR(optimizer, _Linear(total_steps, _warmup_steps(warmup, total_steps)))


def cosine_schedule(
    optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter, arXiv:1608.03983, one period).

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps that warm up, in [0, 1).
        final: Fraction of the peak where the cosine ends, in [0, 1].

    Raises:
        ValueError: If ``warmup`` or ``final`` is out of its range.
    """
    if not 0 <= final <= 1:
        raise ValueError(f"final must be a fraction in [0, 1], got {final}; set scheduler.final")
    warmup_steps = _warmup_steps(warmup, total_steps)
    return LambdaLR(optimizer, _Cosine(total_steps, warmup_steps, final))


def slanted_triangular_schedule(
    optimizer: Optimizer, *, total_steps: int, cut_frac: float = 0.1, ratio: float = 32.0
) -> LambdaLR:
    """A short linear rise, then a long linear fall (Howard & Ruder, arXiv:1801.06146, eq. 3).

    It starts at ``peak / ratio`` and falls to there. With ``cut = floor(total_steps * cut_frac)``
    the paper lets the rate fall over ``cut * (1 / cut_frac - 1)`` steps, which ends early where
    ``cut`` was rounded; here it falls over ``total_steps - cut``, the same where nothing was.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        cut_frac: Fraction of the steps over which the rate rises, in [0, 1).
        ratio: The peak over the lowest rate, >= 1.

    Raises:
        ValueError: If ``cut_frac`` or ``ratio`` is out of its range.
    """
    if not 0 <= cut_frac < 1:
        raise ValueError(
            f"cut_frac must be a fraction in [0, 1), got {cut_frac}; set scheduler.cut_frac"
        )
    if ratio < 1:
        raise ValueError(f"ratio must be >= 1, got {ratio}; set scheduler.ratio")
    cut = math.floor(total_steps * cut_frac)
    return LambdaLR(optimizer, _SlantedTriangular(total_steps, cut, ratio))


def one_cycle_schedule(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup: float = 0.3,
    start_div: float = 25.0,
    final_div: float = 1e4,
    cycle_momentum: bool = True,
) -> OneCycleLR:
    """Torch's OneCycleLR (Smith & Topin, arXiv:1708.07120), its peak at the optimizer's rate.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps over which the rate rises, in (0, 1).
        start_div: The peak over the first rate, >= 1.
        final_div: The first rate over the last, >= 1.
        cycle_momentum: Whether momentum (Adam's first beta) falls from 0.95 to 0.85 while the rate
            rises, and rises while that falls.

    Raises:
        ValueError: If a number is out of its range.
    """
    if not 0 < warmup < 1:
        raise ValueError(f"warmup must be a fraction in (0, 1), got {warmup}; set scheduler.warmup")
    if start_div < 1 or final_div < 1:
        raise ValueError(f"start_div and final_div must be >= 1, got {start_div} and {final_div}")
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup,
        div_factor=start_div,
        final_div_factor=final_div,
        cycle_momentum=cycle_momentum,
    )
