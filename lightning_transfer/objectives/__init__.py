"""Extra losses beside the task's own."""

from lightning_transfer.objectives.l2_sp import L2SP
from lightning_transfer.objectives.weighted import KeepsInitialParameters, Weighted

__all__ = [
    "KeepsInitialParameters",
    "L2SP",
    "Weighted",
]
