"""A callback that ends the process as soon as the first optimizer step is done."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class FirstStep(Callback):
    """Writes down when the first optimizer step was done, and ends the process.

    Args:
        path: File that gets the time, in seconds since the epoch.
    """

    def __init__(self, path: str) -> None:
        """See the class."""
        super().__init__()
        self.path = Path(path)

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Stop here: nothing after the first step is measured."""
        self.path.write_text(repr(time.time()))
        os._exit(0)
