"""Log lines on a terminal that may be showing a progress bar."""

import logging
import sys
from typing import TextIO

from lightning_transfer.cli.process import is_main_process


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Write to whatever ``sys.stderr`` is when a line comes.

    A live progress bar stands in for the standard streams and prints what comes through them
    above itself; a handler that had kept the stream it was made with would write into the bar.
    Ranks other than 0 warn only.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__(sys.stderr)
        if not is_main_process():
            self.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)
