"""Draw a small training set: one that keeps the shares of the classes, or has as many of each."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightning_transfer.data.splits.split_spec import check_size, count_of, digest

_EACH = re.compile(r"([1-9]\d*)/class")


def rows_of_each(size: int | float | str | None) -> int | None:
    """Return how many rows of each class a size asks for; None if it does not speak of classes.

    Example:
        >>> rows_of_each("8/class"), rows_of_each(8)
        (8, None)
    """
    found = _EACH.fullmatch(size) if isinstance(size, str) else None
    return int(found[1]) if found else None


def check_train_size(size: int | float | str | None) -> None:
    """Check that a size is a count, a fraction, so many of each class, or None.

    Raises:
        ValueError: If it is none of them.
    """
    if size is None or rows_of_each(size) is not None:
        return
    if isinstance(size, str):
        raise ValueError(
            "train_size must be a count (int), a fraction (float), or so many of each class, as in "
            f"8/class, got {size!r}"
        )
    check_size(size, "train_size")


def balanced(
    classes: Sequence[int], keys: Sequence[str], each: int, *, names: Sequence[str], seed: int
) -> np.ndarray:
    """Draw as many rows of each class.

    Of each class the rows with the smallest hash of (seed, key) are taken, so that the draw does
    not depend on the order of the rows, and a larger draw contains a smaller one.

    Args:
        classes: Class of each row, as a position in ``names``.
        keys: Text of each row.
        each: Rows of a class, at least 1.
        names: All classes.
        seed: Of the draw.

    Returns:
        Sorted positions, int64 ``(each * len(names),)``.

    Raises:
        ValueError: If a class has fewer rows.

    Example:
        >>> balanced([0, 0, 0, 1], ["a", "b", "c", "d"], 1, names=["ham", "spam"], seed=0).tolist()
        [2, 3]
    """
    chosen: list[int] = []
    members = _members(classes)
    for position, name in enumerate(names):
        rows = members.get(position, [])
        if len(rows) < each:
            raise ValueError(
                f"train_size={each}/class asks for more than the {len(rows)} training rows of "
                f"{name!r}; lower it, splits.val or splits.test"
            )
        chosen += _ranked(rows, keys, seed)[:each]
    return np.array(sorted(chosen), dtype=np.int64)


def _members(strata: Sequence[int]) -> Mapping[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    return members


def _ranked(rows: Sequence[int], keys: Sequence[str], seed: int) -> list[int]:
    # Another prefix than the splits use: or the subset would follow from how it was split.
    return sorted(rows, key=lambda row: digest(seed, f"train:{keys[row]}"))


def draw(
    positions: np.ndarray,
    size: int | float | str | None,
    *,
    strata: Sequence[int],
    keys: Sequence[str],
    seed: int,
    where: str,
) -> np.ndarray:
    """Draw training rows so that every stratum keeps its share.

    Args:
        positions: The training rows, int64 ``(rows,)``.
        size: A count (int) or a fraction of them (float); ``None``: all.
        strata: Stratum of each of them.
        keys: Text of each of them.
        seed: Of the draw.
        where: What the data are called in the message.

    Returns:
        Some of the positions, in their order, int64 ``(size,)``.

    Raises:
        ValueError: If there are not as many, or the size speaks of classes.
    """
    if size is None:
        return positions
    if isinstance(size, str):
        raise ValueError(
            f"train_size={size} needs classes, and {where} has none; give a count or a fraction"
        )
    count = count_of(size, len(positions))
    if count > len(positions):
        raise ValueError(
            f"train_size={size} asks for more than the {len(positions)} training rows of {where}; "
            "lower train_size, splits.val or splits.test"
        )
    return positions[stratified(strata, keys, count, seed=seed)]


def stratified(strata: Sequence[int], keys: Sequence[str], size: int, *, seed: int) -> np.ndarray:
    """Draw ``size`` rows so that every stratum keeps its share.

    Shares are rounded by largest remainder; a stratum keeps at least one row where ``size``
    allows. Within a stratum the rows with the smallest hash of (seed, key) are taken, so that the
    draw does not depend on the order of the rows and a larger draw tends to contain a smaller one.

    Args:
        strata: Stratum of each row.
        keys: Text of each row.
        size: How many to draw, at most ``len(strata)``.
        seed: Of the draw.

    Returns:
        Sorted positions, int64 ``(size,)``.

    Example:
        >>> stratified([0, 0, 0, 1], ["a", "b", "c", "d"], 2, seed=0).tolist()[-1]
        3
    """
    members = _members(strata)
    order = sorted(members)
    share = np.array([len(members[stratum]) for stratum in order]) * size / max(len(strata), 1)
    count = np.floor(share).astype(np.int64)
    if size >= len(order):
        count = np.maximum(count, 1)
    _round_to(count, share, size)
    chosen: list[int] = []
    for stratum, number in zip(order, count, strict=True):
        chosen += _ranked(members[stratum], keys, seed)[:number]
    return np.array(sorted(chosen), dtype=np.int64)


def _round_to(count: np.ndarray, share: np.ndarray, size: int) -> None:
    """Move single rows between the strata until the counts add up to ``size``."""
    while count.sum() < size:
        count[np.argmax(share - count)] += 1
    while count.sum() > size:
        excess = np.where(count > 1, count - share, -np.inf)
        count[np.argmax(excess)] -= 1


def quantile_strata(values: Iterable[float], parts: int = 5) -> list[int]:
    """Return for each value which of ``parts`` equal shares of the sorted values it lies in."""
    array = np.asarray(list(values), dtype=np.float64)
    if not len(array):
        return []
    limits = np.quantile(array, np.arange(1, parts) / parts)
    return np.searchsorted(limits, array, side="left").tolist()
