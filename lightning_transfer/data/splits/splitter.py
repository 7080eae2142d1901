"""Assignment of rows to splits, with no text and no group in two of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_transfer.data.splits.split_spec import Splits, count_of, digest

SPLITS = ("train", "validation", "test")
"""Names of the splits."""


def check_split_name(split: str) -> None:
    """Check the name of a split.

    Raises:
        ValueError: If the name is not in :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def exclusive_keys(texts: Mapping[str, str], group: str | None) -> list[str]:
    """Return the keys of a row that may occur in one split only.

    Args:
        texts: Column name -> normalised text. Equal texts of two columns are different keys.
        group: Group of the row; ``None`` for a row without a group.

    Example:
        >>> exclusive_keys({"text": "it rained"}, "page 3")
        ['text:it rained', 'group:page 3']
    """
    named = texts if group is None else {**texts, "group": group}
    return [f"{name}:{value}" for name, value in named.items()]


@dataclass(frozen=True)
class SplitRows:
    """Rows of each split, and the number of dropped rows.

    Args:
        positions: Split name -> row positions in the table in the order of the draw, int64.
        repeated: Rows dropped as duplicates of a row in the same split.
        conflicting: Rows among ``repeated`` with another target than the first of the duplicates.
        leaked: Rows dropped because one of their texts or their group is in a split of higher
            priority.
    """

    positions: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: int = 0
    conflicting: int = 0
    leaked: int = 0

    @property
    def sizes(self) -> str:
        """Number of rows of each split, for messages."""
        return ", ".join(f"{len(self.positions[name]):,} {name}" for name in SPLITS)


class Splitter:
    """Assigns the rows of a table to splits.

    Args:
        keys: Normalised text of each row. Rows with equal keys are duplicates.
        targets: Target of each row. Duplicates with different targets are counted as conflicting.
        units: Unit of each row. The rows of a unit are drawn together.
        exclusive: Keys of each row that may occur in one split only, see :func:`exclusive_keys`.
        given: Split of each row (``train``, ``validation`` or ``test``) for data that come with
            splits; ``None``: all rows are drawn.
    """

    def __init__(
        self,
        keys: Sequence[str],
        targets: Sequence[object],
        *,
        units: Sequence[str],
        exclusive: Sequence[Sequence[str]],
        given: Sequence[str] | None = None,
    ) -> None:
        """See the class."""
        self.keys = keys
        self.targets = targets
        self.units = units
        self.exclusive = exclusive
        self.given = given
        self._first: dict[str, int] = {}  # key -> first row with it
        self._split_of: dict[str, str] = {}  # exclusive key -> its split
        self._dropped = {"repeated": 0, "conflicting": 0, "leaked": 0}

    def split(self, splits: Splits) -> SplitRows:
        """Draw the rows of each split.

        Test rows are drawn first, then validation rows. All other rows are training rows. Splits
        that come with the data are kept, and missing ones are drawn from the training rows. A
        shared text or group stays in the first of test, validation and train; the other rows with
        it are dropped.

        Args:
            splits: Sizes and seed of the splits. Fractions are of the distinct rows that can be
                drawn.

        Raises:
            ValueError: If validation and test request more rows than there are.
        """
        given = {name: self._units(splits.seed, name) for name in SPLITS}
        pool = given["train"]
        rows: dict[str, list[int]] = {}
        # Splits that come with the data claim their keys before any row is drawn: a drawn test row
        # must not remove a given validation row.
        for name in ("test", "validation"):
            if given[name]:
                rows[name] = self._take(name, given[name], None)
        # Fractions are of distinct texts that no given split has claimed.
        claimed = self._split_of.keys()
        free = {
            self.keys[r] for unit in pool for r in unit if claimed.isdisjoint(self.exclusive[r])
        }
        for name, size in (("test", splits.test), ("validation", splits.val)):
            if name not in rows:
                rows[name] = self._draw(name, pool, size, len(free))
        rows["train"] = self._take("train", pool, None)
        positions = {name: np.array(rows[name], dtype=np.int64) for name in SPLITS}
        return SplitRows(positions=positions, **self._dropped)

    def _units(self, seed: int, name: str) -> deque[list[int]]:
        """Return the units of a given split in the order of the draw, each a list of rows."""
        units: dict[str, list[int]] = {}
        for row, unit in enumerate(self.units):
            if (self.given[row] if self.given else "train") == name:
                units.setdefault(unit, []).append(row)
        for rows in units.values():
            # The sort is stable, so of duplicates the first row in the file comes first.
            rows.sort(key=lambda row: digest(seed, self.keys[row]))
        return deque(units[key] for key in sorted(units, key=lambda key: digest(seed, key)))

    def _draw(self, name: str, pool: deque[list[int]], size: int | float, total: int) -> list[int]:
        """Take a count or a fraction of ``total`` rows out of ``pool``."""
        wanted = count_of(size, total)
        rows = self._take(name, pool, wanted)
        # Only a count is exact. A fraction may fall short: rows of the pool may share an exclusive
        # key with rows drawn before.
        if len(rows) < wanted and isinstance(size, int):
            option = "splits.val" if name == "validation" else "splits.test"
            raise ValueError(
                f"{option}={size} asks for {wanted} {name} rows, there are {len(rows)} to draw "
                f"from; set data.{option}={len(rows)} or less"
            )
        return rows

    def _take(self, name: str, pool: deque[list[int]], wanted: int | None) -> list[int]:
        """Remove whole units from ``pool`` until ``wanted`` rows are reached (None: all)."""
        taken: list[int] = []
        while pool and (wanted is None or len(taken) < wanted):
            taken += [row for row in pool.popleft() if self._claim(row, name)]
        return taken

    def _claim(self, row: int, name: str) -> bool:
        """Claim the row's exclusive keys for split ``name``.

        Returns:
            True if the row is kept; a dropped row is counted.
        """
        exclusive = self.exclusive[row]
        if any(self._split_of.get(key, name) != name for key in exclusive):
            self._dropped["leaked"] += 1
            return False
        # Duplicates claim their keys too: the text is in this split, so the other rows of the
        # duplicate's group must not be in another split.
        self._split_of.update(dict.fromkeys(exclusive, name))
        first = self._first.setdefault(self.keys[row], row)
        if first == row:
            return True
        self._dropped["repeated"] += 1
        if self.targets[first] != self.targets[row]:
            self._dropped["conflicting"] += 1
        return False
