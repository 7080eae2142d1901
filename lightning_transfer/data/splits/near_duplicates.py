"""Which rows belong together because they share something."""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations


def linked(parts: Sequence[Sequence[str]]) -> list[int]:
    """Group rows that share a part, be it through a third row.

    Args:
        parts: Of each row what it may share with another.

    Returns:
        For each row the position of the first row of its group.

    Example:
        >>> linked([["a", "x"], ["b"], ["c", "x"], ["c"]])
        [0, 1, 0, 0]
    """
    holder: dict[str, int] = {}
    pairs = ((holder.setdefault(part, row), row) for row, own in enumerate(parts) for part in own)
    return _first_of_groups(len(parts), pairs)


def _first_of_groups(rows: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return for each row the first row that pairs connect it with."""
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet(range(rows))
    for first, second in pairs:
        groups.merge(first, second)
    firsts = list(range(rows))
    for group in groups.subsets():
        first = min(group)
        for row in group:
            firsts[row] = first
    return firsts


_WORD = re.compile(r"\w+")
_SHINGLE = 5  # words in a row: long enough that two texts share few of them by chance
_COMMON = 20  # a shingle in more texts than this is a stock phrase


def near_duplicate_groups(texts: Sequence[str], *, share: float = 0.3, keep: int = 8) -> list[int]:
    """Group texts of which one holds much of the other: rewritten, shortened or extended.

    Args:
        texts: The texts.
        share: Two texts are one group from this share of common five-word sequences on, counted
            in the text that has fewer, in [0, 1].
        keep: Every ``keep``-th of the sequences is looked at, chosen by hash: the same ones in
            every text. Texts of a few hundred words have enough of them at 8, shorter ones need 1.

    Returns:
        For each text the position of the first text of its group.

    Example:
        >>> story = "one two three four five six seven eight nine ten " * 9
        >>> near_duplicate_groups([story + "the end", "another story", story + "or not"])
        [0, 1, 0]
    """
    sketches = [_sketch(text, keep) for text in texts]
    holders: dict[int, list[int]] = defaultdict(list)
    for position, sketch in enumerate(sketches):
        for shingle in sketch:
            holders[shingle].append(position)
    shared: Counter[tuple[int, int]] = Counter()
    for positions in holders.values():
        if len(positions) <= _COMMON:
            shared.update(combinations(positions, 2))
    pairs = (
        (first, second)
        for (first, second), count in shared.items()
        if count >= share * min(len(sketches[first]), len(sketches[second]))
    )
    return _first_of_groups(len(texts), pairs)


def _sketch(text: str, keep: int) -> set[int]:
    words = _WORD.findall(text.casefold())
    windows = zip(*(words[start:] for start in range(_SHINGLE)), strict=False)
    # Not hash(): it is another one in each process.
    codes = {zlib.crc32(" ".join(window).encode()) for window in windows}
    return {code for code in codes if code % keep == 0}
