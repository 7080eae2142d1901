"""Objective with a weight and a warm-up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class KeepsInitialParameters(Protocol):
    """Objective with a state from the start of a run, outside its parameters and buffers.

    The task calls :meth:`begin` at the start of every fit and saves :meth:`resume_state` in resume
    points. Other checkpoints do not contain this state.
    """

    def begin(self, task: nn.Module) -> None:
        """Reset the state at the start of a fit."""
        ...

    def resume_state(self) -> dict[str, Tensor]:
        """Return the state for a resume point."""
        ...

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state from a resume point; called after :meth:`begin`."""
        ...


@dataclass(frozen=True)
class Weighted:
    """Objective with its weight in the loss.

    An objective is an ``nn.Module`` with ``forward(labelled, unlabelled, task)``. The arguments are
    the labelled batch, the unlabelled batch (None if the data have none) and the LightningModule in
    training; the result is a scalar.

    Args:
        objective: The extra loss.
        weight: Factor of the loss, >= 0.
        warmup: Number of optimizer steps in which the factor grows linearly from 0, >= 0.

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
        # A weight of 0 turns the objective off, a warm-up of 0 the warm-up.
        if self.weight < 0 or self.warmup < 0:
            raise ValueError(
                "weight and warmup of an objective must be >= 0, got "
                f"{self.weight} and {self.warmup}"
            )

    def factor(self, step: int) -> float:
        """Return the factor of the loss at an optimizer step, counted from 0."""
        return self.weight * min(1.0, step / self.warmup) if self.warmup else self.weight
