"""Callbacks for any LightningModule: freezing and unfreezing, exact resume, progress."""

from lightning_transfer.callbacks.freezing import Freezing
from lightning_transfer.callbacks.gradual_unfreezing import GradualUnfreezing
from lightning_transfer.callbacks.phase import Phase, Plateau
from lightning_transfer.callbacks.progress import StageProgress, StageProgressBar
from lightning_transfer.callbacks.resume_point import ResumePoint

__all__ = [
    "Freezing",
    "GradualUnfreezing",
    "Phase",
    "Plateau",
    "ResumePoint",
    "StageProgress",
    "StageProgressBar",
]
