"""How documents become rows."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lightning_transfer.data.tokenization.document_tokens import DocumentTokens
from lightning_transfer.data.tokenization.row_frame import Frame

Form = Literal["packed", "cut", "pairs"]


@dataclass(frozen=True)
class BlockSpec:
    """Length of the rows, and how documents fill them.

    Args:
        length: Tokens per row at most, special ones included.
        packing: ``packed``: documents end to end, every row full; ``cut``: a row begins with each
            document; ``pairs``: two parts a row, for next-sentence prediction.

    Raises:
        ValueError: If a value is out of range or unknown.
    """

    length: int = 128
    packing: Form = "packed"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.length < 1:
            raise ValueError(f"blocks.length must be >= 1, got {self.length}")
        if self.packing not in get_args(Form):
            raise ValueError(
                f"blocks.packing must be one of {', '.join(get_args(Form))}, got {self.packing!r}"
            )


Packing = Literal["packed", "cut"]


class Blocks:
    """Rows of up to ``length`` tokens of some documents; nothing is copied until it is asked for.

    ``packed`` lets each document follow the one before, with a separator between them, so that
    every row but the last is full (RoBERTa's "full sentences", arXiv:1907.11692). ``cut`` begins a
    row with each document, and cuts a longer one into several.

    Args:
        tokens: Of all documents.
        documents: Those of the split in their order, int64 ``(documents,)``.
        frame: What stands around a row.
        length: Tokens per row at most, special ones included.
        packing: ``packed`` or ``cut``.
        separator: Id between two documents of a packed row; None: nothing stands there.

    Raises:
        ValueError: If the length has no room for text.
    """

    def __init__(
        self,
        tokens: DocumentTokens,
        documents: np.ndarray,
        *,
        frame: Frame,
        length: int,
        packing: Packing = "packed",
        separator: int | None = None,
    ) -> None:
        """See the class."""
        self.room = length - frame.size
        if self.room < 1:
            raise ValueError(
                f"blocks.length={length} leaves no room for text: the tokenizer adds {frame.size} "
                "special tokens; raise blocks.length"
            )
        self.tokens = tokens
        self.documents = documents[tokens.lengths[documents] > 0]
        self.frame = frame
        self.packing: Packing = packing
        self._separator = np.array([] if separator is None else [separator], dtype=np.int32)
        sizes = tokens.lengths[self.documents]
        if packing == "packed":
            self._ends = np.cumsum(sizes + len(self._separator))  # in the joined documents
            total = int(self._ends[-1]) - len(self._separator) if len(self._ends) else 0
            self._total = max(total, 0)
        else:
            self._ends = np.cumsum(-(-sizes // self.room))  # in rows

    def __len__(self) -> int:
        """Return the number of rows."""
        if self.packing == "packed":
            return -(-self._total // self.room)
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 ``(rows,)``."""
        full = np.full(len(self), self.room + self.frame.size, dtype=np.int64)
        if not len(full):
            return full
        if self.packing == "packed":
            full[-1] = (self._total - 1) % self.room + 1 + self.frame.size
        else:
            sizes = self.tokens.lengths[self.documents]
            full[self._ends - 1] = (sizes - 1) % self.room + 1 + self.frame.size
        return full

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one row as :meth:`Frame.row` does; nothing in it is left to chance.

        A separator between two documents is special too.
        """
        row = self.frame.row(self._content(position))
        row["special"] |= np.isin(row["input_ids"], self._separator)
        return row

    def _content(self, position: int) -> np.ndarray:
        if self.packing == "cut":
            place = int(np.searchsorted(self._ends, position, side="right"))
            first = int(self._ends[place - 1]) if place else 0
            start = (position - first) * self.room
            return self.tokens.ids(int(self.documents[place]))[start : start + self.room]
        start, end = position * self.room, min((position + 1) * self.room, self._total)
        place = int(np.searchsorted(self._ends, start, side="right"))
        parts: list[np.ndarray] = []
        while start < end:
            begins = int(self._ends[place - 1]) if place else 0
            text = self.tokens.ids(int(self.documents[place]))
            joined = [text[start - begins : end - begins]]
            if end - begins > len(text):
                joined.append(self._separator[max(start - begins - len(text), 0) :])
            parts += joined
            start, place = int(self._ends[place]), place + 1
        return np.concatenate(parts)  # (room,)
