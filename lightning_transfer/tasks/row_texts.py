"""The texts behind the rows of a batch."""

from collections.abc import Sequence
from typing import Any, Protocol

from lightning_transfer.tasks.transfer_module import Batch

_SPLITS = {"val": "validation"}  # phase of a Trainer -> split, where the names differ


class HasRows(Protocol):
    """A DataModule that shows the texts of its rows."""

    def rows(self, split: str) -> Any:
        """Return the columns of a split, in the order of ``index`` in the batches."""
        ...


class RowTexts:
    """Looks the texts of a batch up, and reads each column of a split once.

    Args:
        data: Where they are.
    """

    def __init__(self, data: HasRows) -> None:
        """See the class."""
        self._data = data
        self._columns: dict[tuple[str, str], Sequence[str]] = {}

    def of(self, batch: Batch, phase: str, column: str) -> list[str]:
        """Return the texts of a batch's rows.

        Args:
            batch: With ``index``, int64 (batch,).
            phase: ``val`` or ``test``.
            column: ``text`` or ``target``.
        """
        if (phase, column) not in self._columns:
            rows = self._data.rows(_SPLITS.get(phase, phase))
            self._columns[phase, column] = list(rows[column])
        return [self._columns[phase, column][place] for place in batch["index"].tolist()]
