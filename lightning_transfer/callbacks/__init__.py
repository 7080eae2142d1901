"""Callbacks for any LightningModule: freezing, unfreezing, averaging, caching, resume points."""

from lightning_transfer.callbacks.activation_cache.callback import ActivationCache
from lightning_transfer.callbacks.auto_freeze import AutoFreeze
from lightning_transfer.callbacks.averaging import ema_averaging
from lightning_transfer.callbacks.compiled import Compiled
from lightning_transfer.callbacks.freezing import Freezing
from lightning_transfer.callbacks.gradual_unfreezing import GradualUnfreezing
from lightning_transfer.callbacks.mixout import Mixout
from lightning_transfer.callbacks.phases import Phase, Plateau
from lightning_transfer.callbacks.progress import StageProgress, StageProgressBar
from lightning_transfer.callbacks.resume_point import ResumePoint
from lightning_transfer.callbacks.trainable_set import Freezer

__all__ = [
    "ActivationCache",
    "AutoFreeze",
    "Compiled",
    "Freezer",
    "Freezing",
    "GradualUnfreezing",
    "Mixout",
    "Phase",
    "Plateau",
    "ResumePoint",
    "StageProgress",
    "StageProgressBar",
    "ema_averaging",
]
