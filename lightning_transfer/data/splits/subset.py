"""Draws of small training sets: in the proportions of the classes, or balanced."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightning_transfer.data.splits.split_spec import check_size, count_of, digest

_PER_CLASS = re.compile(r"([1-9]\d*)/class")


def rows_per_class(size: int | float | str | None) -> int | None:
    """Return the number of rows per class of a size such as ``8/class``, else None.

    Example:
        >>> rows_per_class("8/class"), rows_per_class(8)
        (8, None)
    """
    found = _PER_CLASS.fullmatch(size) if isinstance(size, str) else None
    return int(found[1]) if found else None


def check_train_size(size: int | float | str | None) -> None:
    """Check that a size is a count, a fraction, a number of rows per class, or None.

    Raises:
        ValueError: If it is none of them, a negative count, or a fraction outside [0, 1].
    """
    if size is None or rows_per_class(size) is not None:
        return
    if isinstance(size, str):
        raise ValueError(
            "train_size must be a count (int), a fraction (float), or a number of rows per class "
            f"such as 8/class, got {size!r}"
        )
    check_size(size, "train_size")


def balanced(
    classes: Sequence[int], keys: Sequence[str], each: int, *, names: Sequence[str], seed: int
) -> np.ndarray:
    """Draw the same number of rows of each class.

    The rows of each class with the smallest hash of (seed, key) are drawn. The draw therefore does
    not depend on the order of the rows, and a larger draw contains a smaller one.

    Args:
        classes: Class of each row, as a position in ``names``.
        keys: Normalised text of each row.
        each: Number of rows per class, >= 1.
        names: Names of all classes.
        seed: Seed of the draw.

    Returns:
        Sorted positions, int64 ``(each * len(names),)``.

    Raises:
        ValueError: If a class has fewer than ``each`` rows.

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
                f"{name!r}; lower data.train_size, data.splits.val or data.splits.test"
            )
        chosen += _ranked(rows, keys, seed)[:each]
    return np.array(sorted(chosen), dtype=np.int64)


def _members(strata: Sequence[int]) -> Mapping[int, list[int]]:
    """Return stratum -> its rows, in the order of the rows."""
    members: dict[int, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    return members


def _ranked(rows: Sequence[int], keys: Sequence[str], seed: int) -> list[int]:
    """Return the rows in the order of the draw."""
    # The prefix makes the hash differ from that of the splits. Else the subset would follow from
    # the order in which the splits were drawn.
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
    """Draw training rows so that each stratum keeps its share.

    Args:
        positions: Training rows, int64 ``(rows,)``.
        size: Number of rows (int), or fraction of the training rows in [0, 1] (float). ``None``
            means all.
        strata: Stratum of each training row.
        keys: Normalised text of each training row.
        seed: Seed of the draw.
        where: Name of the data in messages.

    Returns:
        Drawn positions in the given order, int64 ``(size,)``.

    Raises:
        ValueError: If ``size`` exceeds the number of training rows, or is a number of rows per
            class.
    """
    if size is None:
        return positions
    if isinstance(size, str):
        raise ValueError(
            f"train_size={size} needs classes, and {where} has none; give a count or a fraction "
            "such as data.train_size=100"
        )
    count = count_of(size, len(positions))
    if count > len(positions):
        raise ValueError(
            f"train_size={size} asks for more than the {len(positions)} training rows of {where}; "
            f"set data.train_size={len(positions)}, or lower data.splits.val or data.splits.test"
        )
    return positions[stratified(strata, keys, count, seed=seed)]


def stratified(strata: Sequence[int], keys: Sequence[str], size: int, *, seed: int) -> np.ndarray:
    """Draw ``size`` rows so that each stratum keeps its share.

    Shares are rounded by the largest-remainder method. Each stratum keeps at least one row if
    ``size`` is not smaller than the number of strata. Within a stratum, the rows with the smallest
    hash of (seed, key) are drawn. The draw therefore does not depend on the order of the rows, and
    a larger draw contains most rows of a smaller one.

    Args:
        strata: Stratum of each row.
        keys: Normalised text of each row.
        size: Number of rows to draw, at most ``len(strata)``.
        seed: Seed of the draw.

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
        count = np.maximum(count, 1)  # a model cannot learn a class that the draw has dropped
    _round_to(count, share, size)
    chosen: list[int] = []
    for stratum, number in zip(order, count, strict=True):
        chosen += _ranked(members[stratum], keys, seed)[:number]
    return np.array(sorted(chosen), dtype=np.int64)


def _round_to(count: np.ndarray, share: np.ndarray, size: int) -> None:
    """Change the counts of the strata in place until they add up to ``size``."""
    while count.sum() < size:
        count[np.argmax(share - count)] += 1
    # The minimum of one row per stratum may have exceeded the size; it is kept here.
    while count.sum() > size:
        excess = np.where(count > 1, count - share, -np.inf)
        count[np.argmax(excess)] -= 1


def quantile_strata(values: Iterable[float], parts: int = 5) -> list[int]:
    """Return the quantile of each value as a stratum.

    Args:
        values: Real numbers.
        parts: Number of strata, of about equal size.

    Returns:
        Stratum of each value, in [0, parts).
    """
    array = np.asarray(list(values), dtype=np.float64)
    if not len(array):
        return []
    # Equal values share a stratum, so strata differ in size for values with many ties.
    limits = np.quantile(array, np.arange(1, parts) / parts)
    return np.searchsorted(limits, array, side="left").tolist()
