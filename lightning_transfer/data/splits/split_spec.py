"""Sizes of the splits, and the hash that assigns rows to them."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"\w+")


def normalize(text: str) -> str:
    """Return the form in which duplicates are compared: NFKC, without case and punctuation.

    White space is reduced to single spaces.

    Example:
        >>> normalize("It's  GOOD!") == normalize("it s good")
        True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Without the fallback, all texts without a letter or digit, such as ":-)", would be duplicates.
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


def digest(seed: int, key: str) -> bytes:
    """Return a hash of (seed, key), by which rows are ordered.

    A row's hash does not depend on other rows, so added rows do not reorder the existing ones.
    """
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


@dataclass(frozen=True)
class Splits:
    """Sizes of the validation and test splits, and the seed of their draw.

    Rows are ordered by a hash of (seed, group or normalised text). The test rows therefore stay
    the same if the file is sorted in another way, and a new row moves at most one other row to
    another split.

    Args:
        val: Validation rows: number of rows (int), or fraction of the rows in [0, 1] (float).
        test: Test rows: number of rows (int), or fraction of the rows in [0, 1] (float). They are
            drawn before the validation rows.
        seed: Seed of both splits. It does not depend on the seed of the run, so all runs are tested
            on the same rows.

    Raises:
        ValueError: If a size is negative, a fraction exceeds 1, or both fractions add up to more
            than 1.
    """

    val: int | float = 0.1
    test: int | float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("val", "test"):
            check_size(getattr(self, name), f"splits.{name}")
        # Counts are checked during the draw: the number of rows is not known here.
        fractions = [size for size in (self.val, self.test) if isinstance(size, float)]
        if sum(fractions) > 1:
            raise ValueError(
                f"splits.val={self.val} and splits.test={self.test} add up to more than 1"
            )

    def split_of(self, key: str) -> str:
        """Return the split of a row with this key, independent of all other rows.

        The sizes of the splits hold on average only. The test rows of a larger ``test`` fraction
        contain those of a smaller one.

        Args:
            key: Key of the row, such as an identifier shared by all translations of a text.

        Returns:
            ``train``, ``validation`` or ``test``.

        Raises:
            ValueError: If a size is a count above 0. A count would select other keys in each table.

        Example:
            >>> [Splits(val=0.25, test=0.25).split_of(key) for key in ("save", "open", "file")]
            ['test', 'train', 'validation']
        """
        for name in ("val", "test"):
            if isinstance(size := getattr(self, name), int) and size > 0:
                raise ValueError(
                    f"splits.{name} must be a fraction in [0, 1] for rows with keys, got {size}: "
                    "the key alone decides the split, so that a text is in the same split in all "
                    f"languages; set for example data.splits.{name}=0.1"
                )
        position = int.from_bytes(digest(self.seed, key)[:8], "big") / 2**64  # in [0, 1)
        if position < self.test:
            return "test"
        return "validation" if position < self.test + self.val else "train"


def check_size(size: int | float, name: str) -> None:
    """Check that ``size`` is a count or a fraction.

    Args:
        size: The value to check.
        name: Name of the option in messages.

    Raises:
        ValueError: If ``size`` is not a number, is negative, or is a fraction above 1.
    """
    # bool is a subclass of int, and a YAML yes would otherwise mean one row.
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise ValueError(f"{name} must be a count (int) or a fraction (float), got {size!r}")
    if size < 0 or (isinstance(size, float) and not size <= 1):  # NaN too
        raise ValueError(f"{name} must be a count >= 0 or a fraction in [0, 1], got {size}")


def count_of(size: int | float, total: int) -> int:
    """Convert a count or fraction to a number of rows.

    Args:
        size: Number of rows (int), returned unchanged, or fraction in [0, 1] (float).
        total: Number of rows to draw from.

    Returns:
        Number of rows; at least 1 for a fraction above 0, if ``total`` is not 0.
    """
    if isinstance(size, int):
        return size
    return min(total, max(round(size * total), 1 if size > 0 else 0))
