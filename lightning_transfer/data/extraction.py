"""Documents whose sentences are chosen for a summary, and the texts that come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Extraction:
    """Which sentences of which documents the rows of a table are, and what they are to sum up.

    Args:
        documents: Sentences of each document, in order.
        references: A summary of each document, by people.
        document: Document of each row, int64 ``(rows,)``.
        position: Place of each row's sentence in its document, from 0, int64 ``(rows,)``.
        size: Sentences of a summary.

    Example:
        >>> rows = np.arange(4)
        >>> extraction = Extraction(
        ...     [["a", "b", "c", "d"]], ["b d"], document=rows * 0, position=rows, size=2
        ... )
        >>> extraction.summaries(rows, np.array([0.1, 0.9, 0.2, 0.3]))
        {0: 'b d'}
    """

    documents: Sequence[Sequence[str]]
    references: Sequence[str]
    document: np.ndarray
    position: np.ndarray
    size: int

    def summaries(self, rows: np.ndarray, scores: np.ndarray) -> Mapping[int, str]:
        """Return document -> the sentences that score best, in the order of the document.

        Of equal scores the sentence that comes first is chosen. Documents of which no row is there
        are left out.

        Args:
            rows: Rows that were scored, int64 ``(rows,)``.
            scores: Their scores, float ``(rows,)``.
        """
        rows, first = np.unique(rows, return_index=True)  # some devices may score a row twice
        chosen: dict[int, list[int]] = {}
        for row in rows[np.lexsort((self.position[rows], -scores[first]))]:
            places = chosen.setdefault(int(self.document[row]), [])
            if len(places) < self.size:
                places.append(int(self.position[row]))
        return {
            document: " ".join(self.documents[document][place] for place in sorted(places))
            for document, places in sorted(chosen.items())
        }
