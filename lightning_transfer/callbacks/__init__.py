"""Callbacks: freezing, mixout, exact resume, progress. They work with any LightningModule."""

from lightning_transfer.callbacks.freezing import Freezing
from lightning_transfer.callbacks.mixout import Mixout
from lightning_transfer.callbacks.progress import StageProgress, StageProgressBar
from lightning_transfer.callbacks.resume_point import ResumePoint

__all__ = ["Freezing", "Mixout", "ResumePoint", "StageProgress", "StageProgressBar"]
