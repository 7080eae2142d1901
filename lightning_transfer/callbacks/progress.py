"""Progress that says which stage runs."""

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)


class StageProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the name of the stage in front.

    Args:
        title: For instance ``source · seed 0``.
        refresh_rate: Batches between two refreshes.
    """

    def __init__(self, title: str, *, refresh_rate: int = 1) -> None:
        """See the class."""
        super().__init__(refresh_rate=refresh_rate)
        self.title = title

    @property
    def validation_description(self) -> str:
        """Text before the validation bar."""
        return f"{self.title} · validation"

    @property
    def test_description(self) -> str:
        """Text before the test bar."""
        return f"{self.title} · test"

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.title} · {_epoch(current_epoch, self.trainer.max_epochs)}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the loss and the monitored metric only; a line has no room for more."""
        shown = {}
        for name in ("train/loss", _monitor(pl_module) or "val/loss"):
            if name in trainer.callback_metrics:
                shown[name] = trainer.callback_metrics[name].item()
        return shown


class StageProgress(Callback):
    """One log line an epoch: what the stage has reached, and how long it took.

    Args:
        title: For instance ``source · seed 0``.
    """

    def __init__(self, title: str) -> None:
        """See the class."""
        super().__init__()
        self.title = title
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock for an epoch that is resumed in its middle and has no start."""
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        names = dict.fromkeys(("train/loss", "val/loss", _monitor(pl_module)))
        shown = ", ".join(f"{name} {values[name].item():.3f}" for name in names if name in values)
        epoch = _epoch(trainer.current_epoch, trainer.max_epochs)
        seconds = f"{time.monotonic() - self._started:.1f} s"
        log.info("%s", " · ".join(filter(None, [self.title, epoch, shown, seconds])))


def _monitor(pl_module: LightningModule) -> str:
    """Return the metric that a module is watched by: its recipe's, or else its own."""
    asked = getattr(getattr(pl_module, "recipe", None), "monitor", None)
    return str(asked or getattr(pl_module, "monitor", ""))


def _epoch(current: int, last: int | None) -> str:
    """Name an epoch, counted from 1; a run without an end has no last one."""
    return f"epoch {current + 1}" + (f"/{last}" if last is not None and last > 0 else "")
