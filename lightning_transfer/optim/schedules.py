"""Learning-rate schedules over a stage, with the optimizer's learning rate as their peak.

Each schedule is a function of the optimizer and of the number of optimizer steps in the stage.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


# The multipliers are classes and not closures: LambdaLR stores the attributes of an object in its
# state, so that a resumed run continues with the same numbers.
class _WarmUp:
    """Multiplier with a linear warm-up, continued by :meth:`after_warmup`."""

    def __init__(self, total_steps: int, warmup_steps: int) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        # From 1 / (warmup_steps + 1) and not from 0: a first step with rate 0 would be wasted.
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        # A step beyond the end must not give a negative learning rate.
        return self.after_warmup(max(0.0, left))

    def after_warmup(self, left: float) -> float:
        """Return the multiplier after the warm-up.

        Args:
            left: Fraction of the steps after the warm-up that is left, in [0, 1].
        """
        raise NotImplementedError


class _Constant(_WarmUp):
    def after_warmup(self, left: float) -> float:
        return 1.0


class _Linear(_WarmUp):
    def after_warmup(self, left: float) -> float:
        return left


class _Cosine(_WarmUp):
    def __init__(self, total_steps: int, warmup_steps: int, final: float) -> None:
        super().__init__(total_steps, warmup_steps)
        self.final = final

    def after_warmup(self, left: float) -> float:
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
    return int(warmup * total_steps)  # rounded down, so a short stage may have no warm-up


def constant_schedule(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Linear warm-up (none by default), then a constant learning rate.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps with a warm-up, in [0, 1).

    Raises:
        ValueError: If ``warmup`` is out of its range.
    """
    return LambdaLR(optimizer, _Constant(total_steps, _warmup_steps(warmup, total_steps)))


def linear_schedule(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Linear warm-up, then linear decay to zero.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps with a warm-up, in [0, 1).

    Raises:
        ValueError: If ``warmup`` is out of its range.
    """
    return LambdaLR(optimizer, _Linear(total_steps, _warmup_steps(warmup, total_steps)))


def cosine_schedule(
    optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then cosine decay (Loshchilov & Hutter, arXiv:1608.03983, one period).

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps with a warm-up, in [0, 1).
        final: Learning rate at the end, as a fraction of the peak, in [0, 1].

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
    """Slanted triangular schedule (Howard & Ruder, arXiv:1801.06146, eq. 3).

    A short linear increase from ``peak / ratio`` is followed by a long linear decrease to the same
    value. The increase takes ``cut = floor(total_steps * cut_frac)`` steps. In the paper the
    decrease takes ``cut * (1 / cut_frac - 1)`` steps and ends early if ``cut`` was rounded. Here it
    takes ``total_steps - cut`` steps, the same number without rounding.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        cut_frac: Fraction of the steps with an increase, in [0, 1).
        ratio: Peak divided by the lowest learning rate, >= 1.

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
    """One-cycle schedule of torch (Smith & Topin, arXiv:1708.07120), with the peaks of the groups.

    Args:
        optimizer: Its groups' learning rates are the peaks.
        total_steps: Optimizer steps of the stage.
        warmup: Fraction of the steps with an increase, in (0, 1).
        start_div: Peak divided by the first learning rate, >= 1.
        final_div: First learning rate divided by the last one, >= 1.
        cycle_momentum: True to decrease momentum (Adam's first beta) from 0.95 to 0.85 while the
            learning rate increases, and to increase it afterwards.

    Raises:
        ValueError: If a number is out of its range.
    """
    if not 0 < warmup < 1:
        raise ValueError(f"warmup must be a fraction in (0, 1), got {warmup}; set scheduler.warmup")
    if start_div < 1 or final_div < 1:
        raise ValueError(f"start_div and final_div must be >= 1, got {start_div} and {final_div}")
    # Torch has an argument `max_lr` for the peaks and ignores the optimizer's rates. Here the peaks
    # are the rates of the groups, so that `optimizer.lr` sets the peak of every schedule.
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup,
        div_factor=start_div,
        final_div_factor=final_div,
        cycle_momentum=cycle_momentum,
    )
