"""Draw a small training set that keeps the shares of the classes."""

from collections.abc import Iterable, Sequence

import numpy as np

from lightning_transfer.data.splits import count_of, digest


def draw(
    positions: np.ndarray,
    size: int | float | None,
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
        ValueError: If there are not as many.
    """
    if size is None:
        return positions
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
    members: dict[int, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    order = sorted(members)
    share = np.array([len(members[stratum]) for stratum in order]) * size / max(len(strata), 1)
    count = np.floor(share).astype(np.int64)
    if size >= len(order):
        count = np.maximum(count, 1)
    _round_to(count, share, size)
    chosen: list[int] = []
    for stratum, number in zip(order, count, strict=True):
        # Another prefix than the splits use: or the subset would follow from how it was split.
        ranked = sorted(members[stratum], key=lambda row: digest(seed, f"train:{keys[row]}"))
        chosen += ranked[:number]
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
