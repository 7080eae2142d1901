"""Deal rows out to the splits; no text and no group is in two of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_transfer.data.splits.split_spec import Splits, count_of, digest

SPLITS = ("train", "validation", "test")


def check_split_name(split: str) -> None:
    """Raise if there is no such split.

    Raises:
        ValueError: If it is none of :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def ties_of(texts: Mapping[str, str], group: str | None) -> list[str]:
    """Return what ties a row to others, so that they must lie in one split.

    Args:
        texts: Name of a column -> normalised text; a text of one column is none of another.
        group: Its group, or ``None`` where it has none.

    Example:
        >>> ties_of({"text": "it rained"}, "page 3")
        ['text:it rained', 'group:page 3']
    """
    named = texts if group is None else {**texts, "group": group}
    return [f"{name}:{value}" for name, value in named.items()]


@dataclass(frozen=True)
class SplitRows:
    """Which rows each split holds.

    Args:
        positions: Split name -> row positions in the table, int64, in drawing order.
        repeated: Rows dropped because their text is in the same split already.
        conflicting: Those of them whose label was another.
        leaked: Rows dropped because a text or the group of theirs is in a split of higher priority.
    """

    positions: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: int = 0
    conflicting: int = 0
    leaked: int = 0

    @property
    def sizes(self) -> str:
        """How many rows each split has, for messages."""
        return ", ".join(f"{len(self.positions[name]):,} {name}" for name in SPLITS)


class Splitter:
    """Deals the rows of one table out to the splits.

    Args:
        keys: Normalised text of each row.
        targets: Target of each row, to tell a repeated row from a contradiction.
        units: Of each row the name of what it is drawn with; rows of one unit are drawn together.
        ties: Of each row what no row of another split may have, see :func:`ties_of`.
        given: Split of each row that comes already split (``train``, ``validation``, ``test``).
    """

    def __init__(
        self,
        keys: Sequence[str],
        targets: Sequence[object],
        *,
        units: Sequence[str],
        ties: Sequence[Sequence[str]],
        given: Sequence[str] | None = None,
    ) -> None:
        """See the class."""
        self.keys = keys
        self.targets = targets
        self.units = units
        self.ties = ties
        self.given = given
        self._first: dict[str, int] = {}  # key -> the row that is kept
        self._taken: dict[str, str] = {}  # tie -> the split that has it
        self._dropped = {"repeated": 0, "conflicting": 0, "leaked": 0}

    def split(self, splits: Splits) -> SplitRows:
        """Return the rows of each split; a text or group is in one split, a row once.

        Test rows are drawn first, then validation rows, the rest is for training. A split that
        comes with the data is kept, and only the missing ones are drawn from its training rows. Of
        test, validation and training rows that share a text or a group the first keep it.

        Raises:
            ValueError: If more rows are to be held back than there are.
        """
        ready = {name: self._units(splits.seed, name) for name in SPLITS}
        pool = ready["train"]
        rows: dict[str, list[int]] = {}
        # Splits that came with the data are settled first: a drawn row must not push them out.
        for name in ("test", "validation"):
            if ready[name]:
                rows[name] = self._take(name, ready[name], None)
        taken = self._taken.keys()
        free = {self.keys[r] for unit in pool for r in unit if taken.isdisjoint(self.ties[r])}
        for name, size in (("test", splits.test), ("validation", splits.val)):
            if name not in rows:
                rows[name] = self._draw(name, pool, size, len(free))
        rows["train"] = self._take("train", pool, None)
        positions = {name: np.array(rows[name], dtype=np.int64) for name in SPLITS}
        return SplitRows(positions=positions, **self._dropped)

    def _units(self, seed: int, name: str) -> deque[list[int]]:
        """Return the rows of a given split, in groups that stay together, in drawing order."""
        units: dict[str, list[int]] = {}
        for row, unit in enumerate(self.units):
            if (self.given[row] if self.given else "train") == name:
                units.setdefault(unit, []).append(row)
        for rows in units.values():
            # Of a repeated text the first row in the file is kept (the sort is stable).
            rows.sort(key=lambda row: digest(seed, self.keys[row]))
        return deque(units[key] for key in sorted(units, key=lambda key: digest(seed, key)))

    def _draw(self, name: str, pool: deque[list[int]], size: int | float, total: int) -> list[int]:
        wanted = count_of(size, total)
        rows = self._take(name, pool, wanted)
        if len(rows) < wanted and isinstance(size, int):
            option = "splits.val" if name == "validation" else "splits.test"
            raise ValueError(
                f"{option}={size} asks for {wanted} {name} rows, there are {len(rows)} to draw from"
            )
        return rows

    def _take(self, name: str, pool: deque[list[int]], wanted: int | None) -> list[int]:
        """Move whole units out of ``pool`` until ``wanted`` rows are reached (None: all)."""
        taken: list[int] = []
        while pool and (wanted is None or len(taken) < wanted):
            taken += [row for row in pool.popleft() if self._is_new(row, name)]
        return taken

    def _is_new(self, row: int, name: str) -> bool:
        """Claim the row's texts and group for split ``name``; say whether it is kept, or count."""
        ties = self.ties[row]
        if any(self._taken.get(tie, name) != name for tie in ties):
            self._dropped["leaked"] += 1
            return False
        # Also for a repeated row: its text is in this split, so the rest of its group must not be
        # in another.
        self._taken.update(dict.fromkeys(ties, name))
        first = self._first.setdefault(self.keys[row], row)
        if first == row:
            return True
        self._dropped["repeated"] += 1
        if self.targets[first] != self.targets[row]:
            self._dropped["conflicting"] += 1
        return False
