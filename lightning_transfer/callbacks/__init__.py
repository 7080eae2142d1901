"""Callbacks: freezing, exact resume, progress. They work with any LightningModule."""

from lightning_transfer.callbacks.freezing import Freezing
from lightning_transfer.callbacks.progress import StageProgress, StageProgressBar
from lightning_transfer.callbacks.pruning import Pruning
from lightning_transfer.callbacks.resume_point import ResumePoint

__all__ = ["Freezing", "Pruning", "ResumePoint", "StageProgress", "StageProgressBar"]
