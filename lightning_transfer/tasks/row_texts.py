"""Texts of the rows of a batch."""

from collections.abc import Sequence
from typing import Any, Protocol

from lightning_transfer.tasks.transfer_module import Batch

_SPLITS = {"val": "validation"}  # prefix of metrics to name of a split, if they differ


class HasRows(Protocol):
    """A DataModule with access to the texts of its rows."""

    def rows(self, split: str) -> Any:
        """Return the columns of a split; ``index`` of a batch is the position of a row in them."""
        ...


class RowTexts:
    """Access to the texts of a batch, for metrics of generated text.

    Batches contain token ids only. Decoding these would not give back the original text exactly.

    Args:
        data: DataModule of the batches.
    """

    def __init__(self, data: HasRows) -> None:
        """See the class."""
        self._data = data
        # Each column is read once as a whole, because access by rows is slow in `datasets`.
        self._columns: dict[tuple[str, str], Sequence[str]] = {}

    def get(self, batch: Batch, phase: str, column: str) -> list[str]:
        """Return the texts of the rows of a batch.

        Args:
            batch: A batch with ``index``, int64 (batch,).
            phase: ``val`` or ``test``.
            column: ``text`` or ``target``.
        """
        if (phase, column) not in self._columns:
            rows = self._data.rows(_SPLITS.get(phase, phase))
            self._columns[phase, column] = list(rows[column])
        return [self._columns[phase, column][place] for place in batch["index"].tolist()]
