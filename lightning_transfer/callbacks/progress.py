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
        last = self.trainer.max_epochs
        of = f"/{last}" if last is not None and last > 0 else ""
        return f"{self.title} · epoch {current_epoch + 1}{of}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the loss and the monitored metric only; a line has no room for more."""
        shown = {}
        for name in ("train/loss", getattr(pl_module, "monitor", "val/loss")):
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

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        parts = [
            f"{name} {values[name].item():.3f}"
            for name in ("train/loss", "val/loss", getattr(pl_module, "monitor", ""))
            if name in values
        ]
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        log.info(
            "%s · epoch %d%s · %s · %.1f s",
            self.title,
            trainer.current_epoch + 1,
            of,
            ", ".join(parts),
            time.monotonic() - self._started,
        )
