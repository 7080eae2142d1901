"""Objectives: extra losses added to the loss of a task."""

from lightning_transfer.objectives.l2_sp import L2SP
from lightning_transfer.objectives.weighted import KeepsInitialParameters, Weighted

__all__ = ["KeepsInitialParameters", "L2SP", "Weighted"]  # noqa: RUF022 (sorted as elsewhere)
