"""Find documents that quote texts which must stay unseen."""

import re
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
_WORDS = 5  # in a row: two texts share few such sequences by chance
_LEAST = 3  # a text of fewer words is a stock phrase that anyone may write


class Overlap:
    """Tells whether a document holds much of one of some texts.

    Unlike :func:`near_duplicate_groups`, which samples, every sequence of five words counts, since
    the texts may be single sentences. A text of three or four words is one sequence as a whole;
    one of one or two words is a stock phrase, and is not looked for.

    Args:
        texts: What must not occur.
        share: A document overlaps from this share of common word sequences on, counted in whichever
            of the two has fewer, in (0, 1].

    Raises:
        ValueError: If the share is out of its range.

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
        self._holders: dict[str, list[int]] = {}
        self._sizes: list[int] = []
        for number, text in enumerate(texts):
            found = _sequences(text)
            self._sizes.append(len(found))
            for sequence in found:
                self._holders.setdefault(sequence, []).append(number)

    def holds(self, document: str) -> bool:
        """Return whether the document overlaps with one of the texts."""
        words = _WORD.findall(document.casefold())
        shared: Counter[int] = Counter()
        whole: set[str] = set()
        for size in range(_LEAST, _WORDS + 1):
            own = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
            for sequence in own & self._holders.keys():
                shared.update(self._holders[sequence])
            whole = own
        # A document shorter than the sequences is one itself.
        least = len(whole) or 1
        return any(
            count >= self.share * min(self._sizes[number], least)
            for number, count in shared.items()
        )


def _sequences(text: str) -> set[str]:
    words = _WORD.findall(text.casefold())
    if len(words) < _LEAST:
        return set()
    size = min(len(words), _WORDS)
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
