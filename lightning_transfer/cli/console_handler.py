"""Log handler for a terminal with a progress bar."""

import logging
import sys
from typing import TextIO

from lightning_transfer.cli.process import is_main_process


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Log handler that writes to the current ``sys.stderr``.

    A live progress bar replaces the standard streams and prints their text above itself.
    ``logging.StreamHandler`` would keep the stream of its creation and write into the bar. Ranks
    other than 0 write warnings and errors only.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__(sys.stderr)
        if not is_main_process():
            self.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr  # may have been replaced since the last record
        super().emit(record)
