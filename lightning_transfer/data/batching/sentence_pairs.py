"""Pairs of text parts for next-sentence prediction."""

import itertools
from array import array

import numpy as np

from lightning_transfer.data.tokenization.document_tokens import DocumentTokens
from lightning_transfer.data.tokenization.row_frame import Frame

NEXT = ("next", "other")
"""Label names in output order, as in BERT: consecutive parts, or parts of two documents."""


class SentencePairs:
    """Rows of two parts for next-sentence prediction (BERT, arXiv:1810.04805).

    A window of whole sentences is divided at a random sentence boundary. The second part is, with
    probability 0.5 each, the text after the boundary or the text after a boundary in another
    document. Both kinds of second parts extend to the end of the row or of the document, so the
    length does not reveal the label.

    Args:
        tokens: Tokens and sentences of all documents.
        documents: Documents of the split, int64 ``(documents,)``.
        frame: Special tokens of a pair.
        length: Largest number of tokens in a row, including special tokens.

    Raises:
        ValueError: If fewer than 4 tokens of text fit into a row, or only one document has two
            sentences.
    """

    def __init__(
        self, tokens: DocumentTokens, documents: np.ndarray, *, frame: Frame, length: int
    ) -> None:
        """See the class."""
        self.content_length = length - frame.size  # tokens of documents in a full row
        if self.content_length < 4:
            raise ValueError(
                f"blocks.length must be >= {frame.size + 4} for sentence pairs, got {length}: the "
                f"tokenizer adds {frame.size} special tokens to each row; set "
                f"data.blocks.length={frame.size + 4} or more"
            )
        self.tokens = tokens
        self.frame = frame
        documents = documents[tokens.lengths[documents] > 0]
        # Typed arrays: for a text larger than memory, a list of tuples would not fit either.
        counts, rows = array("q"), array("q")
        for document in documents.tolist():
            windows = self._windows(document)
            counts.append(len(windows))
            rows.extend(itertools.chain.from_iterable(windows))
        sizes = np.array(counts, dtype=np.int64)  # (documents,)
        if np.count_nonzero(sizes) == 1:
            raise ValueError(
                "sentence pairs need at least 2 documents of two sentences in each split; add "
                "documents, or set data.blocks.packing=packed"
            )
        # For each window: its document, and the range of the windows of the same document.
        self._documents = np.repeat(documents, sizes)
        self._begin = np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._count = np.repeat(sizes, sizes)
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 3)  # as from _windows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._documents)

    @property
    def lengths(self) -> np.ndarray:
        """Approximate number of tokens of each row, int64 ``(rows,)``.

        It is exact if the second part follows the first. The length of a second part from another
        document is not known before the draw.
        """
        return np.minimum(self._rows[:, 2], self.content_length) + self.frame.size

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw a pair of parts.

        Args:
            position: Position of the window of the first part.
            random: Generator of all draws.

        Returns:
            The arrays of :meth:`Frame.row`, and ``pair``: position of the label in :data:`NEXT`.
        """
        document, start, boundary = self._divide(position, random)
        first = self.tokens.ids(document)[start:boundary]
        other = int(random.random() < 0.5)
        if other:
            window = self._draw_from_another_document(position, random)
            document, _, boundary = self._divide(window, random)
        second = self.tokens.ids(document)[boundary : boundary + self.content_length - len(first)]
        return {**self.frame.row(first, second), "pair": np.array(other)}

    def _draw_from_another_document(self, position: int, random: np.random.Generator) -> int:
        """Return the position of a window of another document."""
        # The windows of a document are consecutive, so one draw from all others skips them.
        begin, count = int(self._begin[position]), int(self._count[position])
        drawn = int(random.integers(len(self) - count))
        return drawn if drawn < begin else drawn + count

    def _divide(self, position: int, random: np.random.Generator) -> tuple[int, int, int]:
        """Divide a window at a random boundary.

        Returns:
            Document of the window, first token of the window, and first token of its second part.
        """
        document, (first, end, _) = int(self._documents[position]), self._rows[position]
        bounds = self._bounds(document)
        return document, int(bounds[first]), int(bounds[random.integers(first + 1, end)])

    def _bounds(self, document: int) -> np.ndarray:
        """Return the boundaries of a document: its sentences, long ones divided, and its end."""
        starts = self.tokens.sentences(document)
        ends = [*starts[1:], self.tokens.lengths[document]]
        # At most half a row, so that any two consecutive parts fit into a row.
        half = self.content_length // 2
        bounds = [
            start + step
            for start, end in zip(starts, ends, strict=True)
            for step in range(0, int(end - start), half)
        ]
        return np.array([*bounds, self.tokens.lengths[document]], dtype=np.int64)

    def _windows(self, document: int) -> list[tuple[int, int, int]]:
        """Return windows of two or more sentences of a document that fit into a row.

        Returns:
            First and last boundary of each window, as indices of :meth:`_bounds`, and the number of
            tokens from the window's beginning to the end of the document.
        """
        bounds = self._bounds(document)
        windows = []
        first = 0
        while first + 2 < len(bounds):
            limit = bounds[first] + self.content_length
            end = int(np.searchsorted(bounds, limit, side="right")) - 1
            end = max(end, first + 2)
            windows.append((first, end, int(bounds[-1] - bounds[first])))
            first = end
        return windows
