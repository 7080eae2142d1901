"""Groups of rows that must not be separated: shared keys and near-duplicate texts."""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

_WORD = re.compile(r"\w+")
_SHINGLE = 5  # words in a sequence: long enough that two texts share few of them by chance
_COMMON = 20  # a sequence in more texts than this is a stock phrase and connects nothing


def connected_groups(keys: Sequence[Sequence[str]]) -> list[int]:
    """Group rows that share a key, directly or through other rows.

    Args:
        keys: Keys of each row.

    Returns:
        For each row, the position of the first row of its group.

    Example:
        >>> connected_groups([["a", "x"], ["b"], ["c", "x"], ["c"]])
        [0, 1, 0, 0]
    """
    first_row: dict[str, int] = {}
    pairs = ((first_row.setdefault(key, row), row) for row, own in enumerate(keys) for key in own)
    return _first_rows_of_groups(len(keys), pairs)


def near_duplicate_groups(texts: Sequence[str], *, share: float = 0.3, keep: int = 8) -> list[int]:
    """Group near-duplicate texts: rewritten, shortened or extended versions of each other.

    Two texts are near-duplicates if they share many sequences of five words. Similarity is not
    transitive, but the groups are: two texts in a group may be connected by a third one only.

    Args:
        texts: Texts to compare.
        share: Smallest share of common sequences, counted in the text with fewer sequences, in
            [0, 1].
        keep: Compare one of ``keep`` sequences. They are chosen by a hash, so each text uses the
            same ones. 8 is enough for texts of a few hundred words, shorter texts need 1.

    Returns:
        For each text, the position of the first text of its group.

    Example:
        >>> story = "one two three four five six seven eight nine ten " * 9
        >>> near_duplicate_groups([story + "the end", "another story", story + "or not"])
        [0, 1, 0]
    """
    sketches = [_sketch(text, keep) for text in texts]
    # An inverted index: comparing all pairs of texts would be quadratic.
    texts_with: dict[int, list[int]] = defaultdict(list)
    for position, sketch in enumerate(sketches):
        for shingle in sketch:
            texts_with[shingle].append(position)
    shared: Counter[tuple[int, int]] = Counter()
    for positions in texts_with.values():
        if len(positions) <= _COMMON:
            shared.update(combinations(positions, 2))
    pairs = (
        (first, second)
        for (first, second), count in shared.items()
        if count >= share * min(len(sketches[first]), len(sketches[second]))
    )
    return _first_rows_of_groups(len(texts), pairs)


def _sketch(text: str, keep: int) -> set[int]:
    """Return the hashes of the sequences of words used for comparison."""
    words = _WORD.findall(text.casefold())
    windows = zip(*(words[start:] for start in range(_SHINGLE)), strict=False)
    # Not hash(): Python randomises the hash of a string in each process.
    codes = {zlib.crc32(" ".join(window).encode()) for window in windows}
    return {code for code in codes if code % keep == 0}


def _first_rows_of_groups(rows: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return, for each row, the first row connected with it by pairs."""
    # Late: the import takes half a second, and most data sets need no groups.
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
