"""Rows of fixed length from tokenized documents."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lightning_transfer.data.tokenization.document_tokens import DocumentTokens
from lightning_transfer.data.tokenization.row_frame import Frame

Packing = Literal["packed", "cut", "pairs"]
BlockPacking = Literal["packed", "cut"]


@dataclass(frozen=True)
class BlockSpec:
    """Length of the rows, and the packing of documents into rows.

    Args:
        length: Largest number of tokens in a row, including special tokens, >= 1.
        packing: ``packed``: concatenated documents, all rows full; ``cut``: each document begins a
            new row; ``pairs``: two parts of documents per row, for next-sentence prediction.

    Raises:
        ValueError: If ``length`` is out of range, or ``packing`` is unknown.
    """

    length: int = 128
    packing: Packing = "packed"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.length < 1:
            raise ValueError(f"blocks.length must be >= 1, got {self.length}")
        if self.packing not in get_args(Packing):
            raise ValueError(
                f"blocks.packing must be one of {', '.join(get_args(Packing))}, got "
                f"{self.packing!r}"
            )


class Blocks:
    """Rows of up to ``length`` tokens of the documents of a split.

    ``packed`` concatenates the documents with a separator between them, so all rows except the last
    are full (``FULL-SENTENCES`` of RoBERTa, arXiv:1907.11692). ``cut`` begins a new row with each
    document, and divides a longer one into several rows.

    Args:
        tokens: Tokens of all documents.
        documents: Documents of the split in order, int64 ``(documents,)``.
        frame: Special tokens of a row.
        length: Largest number of tokens in a row, including special tokens.
        packing: ``packed`` or ``cut``.
        separator: Token id between two documents of a packed row; None: no separator.

    Raises:
        ValueError: If ``length`` is not larger than the number of special tokens.
    """

    def __init__(
        self,
        tokens: DocumentTokens,
        documents: np.ndarray,
        *,
        frame: Frame,
        length: int,
        packing: BlockPacking = "packed",
        separator: int | None = None,
    ) -> None:
        """See the class."""
        self.content_length = length - frame.size  # tokens of documents in a full row
        if self.content_length < 1:
            raise ValueError(
                f"blocks.length must be >= {frame.size + 1}, got {length}: the tokenizer adds "
                f"{frame.size} special tokens to each row; set data.blocks.length={frame.size + 1} "
                "or more"
            )
        self.tokens = tokens
        # Documents without tokens would give empty rows, or two separators in sequence.
        self.documents = documents[tokens.lengths[documents] > 0]
        self.frame = frame
        self.packing: BlockPacking = packing
        self._separator = np.array([] if separator is None else [separator], dtype=np.int32)
        sizes = tokens.lengths[self.documents]
        # Only the end of each document is stored. Rows are assembled when they are read, because
        # their tokens may be larger than memory.
        if packing == "packed":
            self._ends = np.cumsum(sizes + len(self._separator))  # in tokens
            total = int(self._ends[-1]) - len(self._separator) if len(self._ends) else 0
            self._total = max(total, 0)
        else:
            self._ends = np.cumsum(-(-sizes // self.content_length))  # in rows

    def __len__(self) -> int:
        """Return the number of rows."""
        if self.packing == "packed":
            return -(-self._total // self.content_length)
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 ``(rows,)``."""
        full = np.full(len(self), self.content_length + self.frame.size, dtype=np.int64)
        if not len(full):
            return full
        if self.packing == "packed":
            full[-1] = (self._total - 1) % self.content_length + 1 + self.frame.size
        else:
            sizes = self.tokens.lengths[self.documents]
            full[self._ends - 1] = (sizes - 1) % self.content_length + 1 + self.frame.size
        return full

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a row with its special tokens.

        Args:
            position: Position of the row.
            random: Not used; the rows are fixed.

        Returns:
            The arrays of :meth:`Frame.row`, with separators marked as special.
        """
        row = self.frame.row(self._content(position))
        row["special"] |= np.isin(row["input_ids"], self._separator)
        return row

    def _content(self, position: int) -> np.ndarray:
        """Return the tokens of a row without special tokens, int32 ``(tokens,)``."""
        if self.packing == "cut":
            index = int(np.searchsorted(self._ends, position, side="right"))
            first = int(self._ends[index - 1]) if index else 0
            start = (position - first) * self.content_length
            return self.tokens.ids(int(self.documents[index]))[start : start + self.content_length]
        start = position * self.content_length
        end = min(start + self.content_length, self._total)
        index = int(np.searchsorted(self._ends, start, side="right"))
        parts: list[np.ndarray] = []
        while start < end:
            begin = int(self._ends[index - 1]) if index else 0
            text = self.tokens.ids(int(self.documents[index]))
            parts.append(text[start - begin : end - begin])
            if end - begin > len(text):
                # The separator is part of this row, unless it ended the previous one.
                parts.append(self._separator[max(start - begin - len(text), 0) :])
            start, index = int(self._ends[index]), index + 1
        return np.concatenate(parts)  # (tokens,)
