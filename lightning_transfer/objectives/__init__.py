"""Extra losses beside the task's own."""

from lightning_transfer.objectives.weighted import Weighted

__all__ = ["Weighted"]
