"""Pairs of parts of documents: the second follows the first, or comes from another document."""

import itertools
from array import array

import numpy as np

from lightning_transfer.data.tokenization.document_tokens import DocumentTokens
from lightning_transfer.data.tokenization.row_frame import Frame

NEXT = ("next", "other")
"""What the second part is to the first: label names in output order, as in BERT."""


class SentencePairs:
    """Rows of two parts for next-sentence prediction (BERT, arXiv:1810.04805).

    A window of whole sentences is cut in two at random between them. The second part is what
    follows the cut, or what follows a cut in another document; a coin is tossed for it each time.
    Both second parts are filled up in the same way, to the end of the row or of the document: their
    lengths tell nothing.

    Args:
        tokens: Of all documents, with their sentences.
        documents: Those of the split, int64 ``(documents,)``.
        frame: What stands around a pair.
        length: Tokens per row at most, special ones included.

    Raises:
        ValueError: If the length has no room for two parts, or fewer than two documents have two
            sentences.
    """

    def __init__(
        self, tokens: DocumentTokens, documents: np.ndarray, *, frame: Frame, length: int
    ) -> None:
        """See the class."""
        self.room = length - frame.size
        if self.room < 4:
            raise ValueError(
                f"blocks.length={length} leaves no room for two parts: the tokenizer adds "
                f"{frame.size} special tokens; raise blocks.length"
            )
        self.tokens = tokens
        self.frame = frame
        documents = documents[tokens.lengths[documents] > 0]
        # Plain numbers: of text larger than memory a list of the windows would not fit either.
        counts, rows = array("q"), array("q")
        for document in documents.tolist():
            windows = self._windows(document)
            counts.append(len(windows))
            rows.extend(itertools.chain.from_iterable(windows))
        sizes = np.array(counts, dtype=np.int64)  # (documents,)
        if np.count_nonzero(sizes) == 1:
            raise ValueError(
                "sentence pairs need at least 2 documents of two sentences in each split; give "
                "more documents, or set blocks.packing to packed"
            )
        self._documents = np.repeat(documents, sizes)
        self._begin = np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._count = np.repeat(sizes, sizes)
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 3)  # first, end, tokens left

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._documents)

    @property
    def lengths(self) -> np.ndarray:
        """About how many tokens a row has, int64 ``(rows,)``: if its second part does follow."""
        return np.minimum(self._rows[:, 2], self.room) + self.frame.size

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one pair as :meth:`Frame.row` does, and ``pair``: 0 for next, 1 for other."""
        document, start, cut = self._cut(position, random)
        first = self.tokens.ids(document)[start:cut]
        other = int(random.random() < 0.5)
        if other:
            document, _, cut = self._cut(self._elsewhere(position, random), random)
        second = self.tokens.ids(document)[cut : cut + self.room - len(first)]
        return {**self.frame.row(first, second), "pair": np.array(other)}

    def _elsewhere(self, position: int, random: np.random.Generator) -> int:
        """Return a window of another document; those of one document stand together."""
        begin, count = int(self._begin[position]), int(self._count[position])
        drawn = int(random.integers(len(self) - count))
        return drawn if drawn < begin else drawn + count

    def _cut(self, position: int, random: np.random.Generator) -> tuple[int, int, int]:
        """Return a window's document, its first token, and the first of its second part."""
        document, (first, end, _) = int(self._documents[position]), self._rows[position]
        bounds = self._bounds(document)
        return document, int(bounds[first]), int(bounds[random.integers(first + 1, end)])

    def _bounds(self, document: int) -> np.ndarray:
        """Return where the sentences of a document begin, and its end; long ones are cut."""
        starts = self.tokens.sentences(document)
        ends = [*starts[1:], self.tokens.lengths[document]]
        half = self.room // 2
        bounds = [
            start + step
            for start, end in zip(starts, ends, strict=True)
            for step in range(0, int(end - start), half)
        ]
        return np.array([*bounds, self.tokens.lengths[document]], dtype=np.int64)

    def _windows(self, document: int) -> list[tuple[int, int, int]]:
        """Return windows of two or more sentences that fit into a row: first, end, tokens left."""
        bounds = self._bounds(document)
        windows = []
        first = 0
        while first + 2 < len(bounds):
            end = int(np.searchsorted(bounds, bounds[first] + self.room, side="right")) - 1
            end = max(end, first + 2)
            windows.append((first, end, int(bounds[-1] - bounds[first])))
            first = end
        return windows
