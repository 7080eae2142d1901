"""Which rows belong together because they share something."""

from collections.abc import Sequence


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
    group = list(range(len(parts)))
    holder: dict[str, int] = {}
    for row, own in enumerate(parts):
        for part in own:
            join(group, holder.setdefault(part, row), row)
    return [first_of(group, row) for row in range(len(parts))]


def first_of(group: list[int], row: int) -> int:
    """Return the first row of a row's group.

    Args:
        group: Of each row a row of its group that is no later; shortened on the way.
        row: Position of the row.
    """
    while group[row] != row:
        group[row] = group[group[row]]
        row = group[row]
    return row


def join(group: list[int], first: int, second: int) -> None:
    """Make one group of those of two rows.

    Args:
        group: As :func:`first_of` takes it.
        first: Position of a row.
        second: Position of another.
    """
    low, high = sorted((first_of(group, first), first_of(group, second)))
    group[high] = low
