"""Batches of rows of about the same length."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

_POOL_BATCHES = 100  # batches whose rows are sorted together; more: less padding, less chance


class LengthBatchSampler(Sampler[list[int]]):
    """Deals rows into batches of similar length, the same way for the same (seed, epoch).

    Padding costs as much as text, and random batches of sentences are half padding. For training,
    the rows are shuffled, cut into pools of about 100 batches, sorted by length within a pool and
    cut into batches, and the batches are shuffled. For evaluation, they are sorted by length, the
    longest first: a batch that does not fit into memory shows itself at once.

    With several devices every rank forms the same global batch of ``world_size * batch_size``
    rows and takes each ``world_size``-th of them, so step t sees exactly the rows that one device
    with the global batch size would see, and the number of steps is the same on each rank. No
    row is lost, and none is doubled, but for one case in training: if the last global batch of
    an epoch has fewer rows than there are ranks, its rows are repeated so that each rank has one.
    In evaluation a rank without a row has one batch less.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per device and batch, >= 1.
        seed: Of the order; a non-negative integer.
        shuffle: ``True`` for training, ``False`` for evaluation.
        rank: Of this process, in [0, world_size).
        world_size: Number of processes.
        max_tokens: Tokens per device and batch at most, padding counted; a batch is then smaller
            than ``batch_size`` where its rows are long. All rows are then one pool, so that the
            number of batches is the same in each epoch.

    Raises:
        ValueError: If a size is below 1 or the rank is not one of the world's.

    Example:
        >>> sampler = LengthBatchSampler([3, 9, 3, 8], 2, seed=0, shuffle=False)
        >>> list(sampler)
        [[1, 3], [0, 2]]
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        max_tokens: int | None = None,
    ) -> None:
        """See the class."""
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size={world_size}), got {rank}")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.max_tokens = max_tokens
        self.epoch = 0
        self.start = 0  # batches that the next iteration leaves out: where a resumed run goes on

    @property
    def sampler(self) -> "LengthBatchSampler":
        """Return ``self``: Lightning calls ``set_epoch`` of a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch ``epoch`` for the iterations that begin from now on."""
        if epoch != self.epoch:
            self.start = 0  # the place belonged to another epoch
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of this rank in one epoch."""
        sizes = self._sizes(self._order(np.arange(len(self.lengths))))
        if self.shuffle:
            return len(sizes)
        return sum(size > self.rank for size in sizes)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch of this rank.

        Nothing is computed before the first batch is asked for: Lightning makes the iterator
        first and says which epoch it is afterwards.
        """
        start, self.start = self.start, 0
        for rows in islice(self._global_batches(), start, None):
            if self.shuffle and len(rows) < self.world_size:
                rows = np.resize(rows, self.world_size)  # repeats them
            own = rows[self.rank :: self.world_size]
            if len(own):
                yield own.tolist()

    def _order(self, rows: np.ndarray) -> np.ndarray:
        """Sort rows by length, the longest first; equal ones stay in the order given."""
        return rows[np.argsort(-self.lengths[rows], kind="stable")]

    def _sizes(self, ordered: np.ndarray) -> list[int]:
        """Return how many of the sorted rows each global batch takes."""
        full = self.batch_size * self.world_size
        if self.max_tokens is None:
            sizes = [full] * (len(ordered) // full)
            return [*sizes, len(ordered) % full] if len(ordered) % full else sizes
        sizes, taken = [], 0
        while taken < len(ordered):
            # The longest row comes first, so it fixes the width of its batch.
            fitting = max(self.max_tokens // max(int(self.lengths[ordered[taken]]), 1), 1)
            sizes.append(min(fitting * self.world_size, full, len(ordered) - taken))
            taken += sizes[-1]
        return sizes

    def _global_batches(self) -> Iterator[np.ndarray]:
        total = len(self.lengths)
        if not self.shuffle:
            yield from self._cut(self._order(np.arange(total)))
            return
        random = np.random.default_rng([self.seed, self.epoch])
        shuffled = random.permutation(total)
        batches: list[np.ndarray] = []
        for pool in np.split(shuffled, self._pool_limits()):
            batches += self._cut(self._order(pool))
        for position in random.permutation(len(batches)):
            yield batches[position]

    def _cut(self, ordered: np.ndarray) -> list[np.ndarray]:
        if not len(ordered):
            return []
        return np.split(ordered, np.cumsum(self._sizes(ordered))[:-1])

    def _pool_limits(self) -> list[int]:
        """Return where the shuffled rows are cut into pools of about the same size."""
        if self.max_tokens is not None:
            return []
        full = self.batch_size * self.world_size
        batches = -(-len(self.lengths) // full)
        pools = max(round(batches / _POOL_BATCHES), 1)
        return [batches * pool // pools * full for pool in range(1, pools)]
