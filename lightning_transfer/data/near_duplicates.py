"""Find texts that are nearly the same, so that they stay in one split."""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from lightning_transfer.data.linking import first_of, join

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
    group = list(range(len(texts)))
    for (first, second), count in shared.items():
        if count >= share * min(len(sketches[first]), len(sketches[second])):
            join(group, first, second)
    return [first_of(group, position) for position in range(len(texts))]


def _sketch(text: str, keep: int) -> set[int]:
    words = _WORD.findall(text.casefold())
    windows = zip(*(words[start:] for start in range(_SHINGLE)), strict=False)
    # Not hash(): it is another one in each process.
    codes = {zlib.crc32(" ".join(window).encode()) for window in windows}
    return {code for code in codes if code % keep == 0}
