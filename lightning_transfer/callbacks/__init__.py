"""Callbacks: freezing, exact resume, progress. They work with any LightningModule."""

from lightning_transfer.callbacks.bitfit import BitFit
from lightning_transfer.callbacks.freezing import Freezing
from lightning_transfer.callbacks.frozen_modes import FrozenModes
from lightning_transfer.callbacks.progress import StageProgress, StageProgressBar
from lightning_transfer.callbacks.resume_point import ResumePoint

__all__ = ["BitFit", "Freezing", "FrozenModes", "ResumePoint", "StageProgress", "StageProgressBar"]
