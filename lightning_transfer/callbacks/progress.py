"""Progress of a stage: a progress bar, or one log line per epoch."""

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

log = logging.getLogger(__name__)


class StageProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the name of the stage.

    Args:
        title: Name of the stage, such as ``source · seed 0``.
        refresh_rate: Updates per second, > 0; 0 disables the bar.
    """

    def __init__(self, title: str, *, refresh_rate: int = 1) -> None:
        """See the class."""
        super().__init__(refresh_rate=refresh_rate)
        self.title = title

    @property
    def validation_description(self) -> str:
        """Label of the validation bar."""
        return f"{self.title} · validation"

    @property
    def test_description(self) -> str:
        """Label of the test bar."""
        return f"{self.title} · test"

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.title} · {_epoch(current_epoch, self.trainer.max_epochs)}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the training loss and the monitored metric."""
        # All metrics of a task would not fit into a line of a terminal.
        shown = {}
        for name in ("train/loss", _monitor(pl_module) or "val/loss"):
            if name in trainer.callback_metrics:
                shown[name] = trainer.callback_metrics[name].item()
        return shown


class StageProgress(Callback):
    """One log line per epoch: losses, the monitored metric and the time.

    Args:
        title: Name of the stage, such as ``source · seed 0``.
    """

    def __init__(self, title: str) -> None:
        """See the class."""
        super().__init__()
        self.title = title
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        # A run resumed in the middle of an epoch does not call on_train_epoch_start.
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the line."""
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        names = dict.fromkeys(("train/loss", "val/loss", _monitor(pl_module)))
        shown = ", ".join(f"{name} {values[name].item():.3f}" for name in names if name in values)
        epoch = _epoch(trainer.current_epoch, trainer.max_epochs)
        seconds = f"{time.monotonic() - self._started:.1f} s"
        log.info("%s", " · ".join(filter(None, [self.title, epoch, shown, seconds])))


def _monitor(pl_module: LightningModule) -> str:
    """Return the monitored metric: that of the recipe if set, else the default of the task."""
    chosen = getattr(getattr(pl_module, "recipe", None), "monitor", None)
    return str(chosen or getattr(pl_module, "monitor", ""))


def _epoch(current: int, last: int | None) -> str:
    """Return ``epoch 1/3``, counted from 1, or ``epoch 1`` in a run without a last epoch."""
    return f"epoch {current + 1}" + (f"/{last}" if last is not None and last > 0 else "")
