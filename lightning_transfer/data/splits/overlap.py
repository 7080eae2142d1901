"""Detection of documents that quote texts of a held-out set."""

import re
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
_LONGEST = 5  # words in a sequence: two texts share few sequences of this length by chance
_SHORTEST = 3  # words: a shorter text is a stock phrase and may occur anywhere


class Overlap:
    """Detector of documents with large parts of given texts.

    A document overlaps with a text if they share many sequences of five words. All sequences are
    compared, because the texts may be single sentences; :func:`near_duplicate_groups` samples
    them. A text of three or four words is a single sequence. Shorter texts are ignored: they are
    stock phrases.

    Args:
        texts: Texts to detect.
        share: Smallest share of common sequences for an overlap, counted in the document or the
            text, depending on which has fewer sequences, in (0, 1].

    Raises:
        ValueError: If ``share`` is not in (0, 1].

    Example:
        >>> overlap = Overlap(["a film that nobody will ever forget"])
        >>> overlap.holds("They say: A film that nobody will ever forget! I did.")
        True
        >>> overlap.holds("A film that will soon be forgotten.")
        False
    """

    def __init__(self, texts: Iterable[str], *, share: float = 0.5) -> None:
        """See the class."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        self.share = share
        self._texts_with: dict[str, list[int]] = {}  # sequence -> numbers of the texts
        self._sizes: list[int] = []  # sequences of each text
        for number, text in enumerate(texts):
            found = _sequences(text)
            self._sizes.append(len(found))
            for sequence in found:
                self._texts_with.setdefault(sequence, []).append(number)

    def holds(self, document: str) -> bool:
        """Return True if the document overlaps with one of the texts."""
        words = _WORD.findall(document.casefold())
        shared: Counter[int] = Counter()
        longest: set[str] = set()
        # Texts of 3 and 4 words are sequences of their own length, so all lengths are searched.
        for size in range(_SHORTEST, _LONGEST + 1):
            own = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
            for sequence in own & self._texts_with.keys():
                shared.update(self._texts_with[sequence])
            longest = own
        # A document of fewer than 5 words counts as one sequence.
        size_of_document = len(longest) or 1
        return any(
            count >= self.share * min(self._sizes[number], size_of_document)
            for number, count in shared.items()
        )


def _sequences(text: str) -> set[str]:
    """Return the sequences of words of a text; none for a stock phrase."""
    words = _WORD.findall(text.casefold())
    if len(words) < _SHORTEST:
        return set()
    size = min(len(words), _LONGEST)
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
