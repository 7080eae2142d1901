"""An extra loss with its weight and warm-up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class KeepsInitialParameters(Protocol):
    """An objective that keeps something of how a run started, beside its parameters and buffers.

    The task calls :meth:`begin` at the start of every fit and keeps :meth:`resume_state` in resume
    points; other checkpoints do without.
    """

    def begin(self, task: nn.Module) -> None:
        """Start anew."""
        ...

    def resume_state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        ...

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Take it back; called after :meth:`begin`."""
        ...


@dataclass(frozen=True)
class Weighted:
    """An objective and how much it counts.

    An objective is an ``nn.Module`` whose ``forward(source, target, task)`` returns a scalar:
    ``source`` is the labelled batch, ``target`` the unlabelled one (None if the data has none),
    ``task`` the LightningModule that trains.

    Args:
        objective: The extra loss.
        weight: Factor of the loss, >= 0.
        warmup: Optimizer steps over which the factor grows linearly from 0.

    Raises:
        ValueError: If the weight or the warm-up is negative.

    Example:
        >>> Weighted(nn.Identity(), weight=2.0, warmup=10).factor(step=5)
        1.0
    """

    objective: nn.Module
    weight: float = 1.0
    warmup: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.weight < 0 or self.warmup < 0:
            raise ValueError(
                "an objective's weight and warmup must be >= 0, got "
                f"{self.weight} and {self.warmup}"
            )

    def factor(self, step: int) -> float:
        """Return the factor at optimizer step ``step``."""
        return self.weight * min(1.0, step / self.warmup) if self.warmup else self.weight
