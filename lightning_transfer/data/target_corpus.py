"""Pairs of text and target text, split."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.linking import linked
from lightning_transfer.data.splits import Splits, normalize
from lightning_transfer.data.splitter import Splitter, ties_of
from lightning_transfer.data.subset import draw
from lightning_transfer.data.target_rows import TargetRows

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class TargetCorpus:
    """Pairs, and which split each lies in.

    No text, no target text and no group is in two splits: pairs that share one, be it through a
    third one, are drawn together, and where the data come split the first of test, validation and
    train that has it keeps it. Pairs that differ in case, spaces or signs only are one. Where rows
    have keys, a key alone decides (:meth:`Splits.split_of`), and all data that have it are split
    alike.

    Args:
        rows: The good rows.
        splits: How they are split.
        where: What the data are called in messages.

    Raises:
        ValueError: If more rows are to be held back than there are, or a count of rows with keys.
    """

    def __init__(self, rows: TargetRows, splits: Splits, *, where: str) -> None:
        """See the class."""
        self.rows = rows
        self.where = where
        texts, targets = list(map(normalize, rows.texts)), list(map(normalize, rows.targets))
        self._keys = [f"{text}\n{target}" for text, target in zip(texts, targets, strict=True)]
        groups, given = rows.groups or [None] * len(rows), rows.given
        ties = [
            ties_of({"text": text, "target": target}, group)
            for text, target, group in zip(texts, targets, groups, strict=True)
        ]
        units = _units(ties, texts)
        if rows.keys is not None:
            given, splits = [splits.split_of(key) for key in rows.keys], Splits(val=0, test=0)
        splitter = Splitter(self._keys, self._keys, units=units, ties=ties, given=given)
        split = splitter.split(splits)
        self.positions = split.positions
        rank_zero_only(log.info)(
            "%s: %s rows; dropped %d repeated pairs and %d that share a text or group with another "
            "split",
            where,
            split.sizes,
            split.repeated,
            split.leaked,
        )

    def training_subset(self, size: int | float | None, *, seed: int) -> np.ndarray:
        """Draw training rows; of two draws with one seed the larger holds the smaller.

        Args:
            size: A count (int) or a fraction of the training rows (float); ``None``: all.
            seed: Of the draw.

        Returns:
            Positions in the table, int64 ``(size,)``.

        Raises:
            ValueError: If there are not as many.
        """
        positions = self.positions["train"]
        keys = [self._keys[row] for row in positions]
        return draw(positions, size, strata=[0] * len(keys), keys=keys, seed=seed, where=self.where)

    def table(self, positions: np.ndarray) -> "Dataset":
        """Return the columns ``text``, ``target`` and ``row`` (its place) of some rows."""
        from datasets import Dataset  # takes a second to import, and training does without

        rows = self.rows
        columns = {"text": rows.texts, "target": rows.targets, "row": rows.places}
        return Dataset.from_dict(
            {name: [column[row] for row in positions] for name, column in columns.items()}
        )


def _units(ties: Sequence[Sequence[str]], texts: Sequence[str]) -> list[str]:
    """Name the linked rows of each row by their least text, which the order has no say in."""
    firsts = linked(ties)
    names: dict[int, str] = {}
    for first, text in zip(firsts, texts, strict=True):
        names[first] = min(text, names.get(first, text))
    return [names[first] for first in firsts]
