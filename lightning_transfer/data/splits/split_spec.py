"""Cut a table into training, validation and test rows, the same way on every machine."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"\w+")


def normalize(text: str) -> str:
    """Return the form in which two texts count as the same: case, spaces and signs left out.

    A text without any letter or digit (``:-)``) is its own form, or all of them would be one.

    Example:
        >>> normalize("It's  GOOD!") == normalize("it s good")
        True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


def digest(seed: int, key: str) -> bytes:
    """Return the place of ``key`` in the order that ``seed`` draws; no row depends on another."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


@dataclass(frozen=True)
class Splits:
    """How many rows are held back, and which.

    Rows are ordered by a hash of (seed, group or normalised text), so the test rows stay test
    rows when the file is sorted otherwise, and a new row moves at most one other.

    Args:
        val: Validation rows: a count (int) or a fraction in [0, 1] (float).
        test: Test rows: a count (int) or a fraction in [0, 1] (float); cut before validation.
        seed: Draws both, whatever the seed of the run is.

    Raises:
        ValueError: If a size is negative, a fraction above 1, or the two fractions exceed 1.
    """

    val: int | float = 0.1
    test: int | float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("val", "test"):
            check_size(getattr(self, name), f"splits.{name}")
        fractions = [size for size in (self.val, self.test) if isinstance(size, float)]
        if sum(fractions) > 1:
            raise ValueError(
                f"splits.val={self.val} and splits.test={self.test} add up to more than 1"
            )

    def split_of(self, key: str) -> str:
        """Return the split that a key lies in whatever other rows there are.

        Of a larger fraction the keys hold those of a smaller one, and the sizes are only met on
        average.

        Args:
            key: What a row is told by.

        Raises:
            ValueError: If a size is a count: that many rows are other keys in each table.

        Example:
            >>> [Splits(val=0.25, test=0.25).split_of(key) for key in ("save", "open", "file")]
            ['test', 'train', 'validation']
        """
        for name in ("val", "test"):
            if isinstance(size := getattr(self, name), int) and size > 0:
                raise ValueError(
                    f"splits.{name}={size} is a count, and these rows are dealt out one by one, so "
                    "that a text lies in the same split in all languages: set a fraction such as "
                    f"splits.{name}=0.1"
                )
        at = int.from_bytes(digest(self.seed, key)[:8], "big") / 2**64
        if at < self.test:
            return "test"
        return "validation" if at < self.test + self.val else "train"


def check_size(size: int | float, name: str) -> None:
    """Check that ``size`` is a count or a fraction.

    Raises:
        ValueError: If it is negative, or a fraction above 1.
    """
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise ValueError(f"{name} must be a count (int) or a fraction (float), got {size!r}")
    if size < 0 or (isinstance(size, float) and not size <= 1):
        raise ValueError(f"{name} must be a count >= 0 or a fraction in [0, 1], got {size}")


def count_of(size: int | float, total: int) -> int:
    """Return how many of ``total`` rows a count or fraction is; a fraction above 0 is >= 1 row."""
    if isinstance(size, int):
        return size
    return min(total, max(round(size * total), 1 if size > 0 else 0))
