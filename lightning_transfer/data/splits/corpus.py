"""Checked rows of a domain with their splits."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.readers.rows import Rows, TargetRows
from lightning_transfer.data.splits.near_duplicates import connected_groups
from lightning_transfer.data.splits.split_spec import Splits, normalize
from lightning_transfer.data.splits.splitter import SplitRows, Splitter, exclusive_keys
from lightning_transfer.data.splits.subset import balanced, draw, quantile_strata, rows_per_class

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class _SplitTable:
    """Base of the corpora: rows of a table, the rows of each split, and draws from them.

    Args:
        rows: Checked rows.
        keys: Normalised text of each row. Subsets are drawn by a hash of it.
        split: Rows of each split.
        where: Name of the data in messages.
    """

    target_column: ClassVar[str]

    def __init__(
        self, rows: Rows | TargetRows, keys: Sequence[str], split: SplitRows, *, where: str
    ) -> None:
        """See the class."""
        self.rows = rows
        self.where = where
        self.positions = split.positions
        self._keys = keys

    def training_subset(self, size: int | float | str | None, *, seed: int) -> np.ndarray:
        """Draw training rows so that each stratum keeps its share.

        Args:
            size: Number of rows (int), or fraction of the training rows in [0, 1] (float).
                ``None`` means all.
            seed: Seed of the draw.

        Returns:
            Positions in the table, int64 ``(rows,)``.

        Raises:
            ValueError: If ``size`` exceeds the number of training rows, or needs classes and the
                rows have none.
        """
        positions = self.positions["train"]
        keys = [self._keys[row] for row in positions]
        strata = self._strata(positions)
        return draw(positions, size, strata=strata, keys=keys, seed=seed, where=self.where)

    def table(self, positions: np.ndarray) -> "Dataset":
        """Return the texts, targets and original places of rows.

        Args:
            positions: Rows of the table, int64 ``(rows,)``.

        Returns:
            Columns ``text``, :attr:`target_column` and ``row`` (place in the source).
        """
        from datasets import Dataset  # the import takes a second, and training does not need it

        rows = self.rows
        columns = {"text": rows.texts, self.target_column: rows.targets, "row": rows.places}
        return Dataset.from_dict(
            {name: [column[row] for row in positions] for name, column in columns.items()}
        )

    def _strata(self, positions: np.ndarray) -> list[int]:
        """Return the stratum of each row; without classes, all rows are one stratum."""
        return [0] * len(positions)


class Corpus(_SplitTable):
    """Labelled rows and their splits.

    No text and no group occurs in two splits. For pairs, the rule applies to the first text only.
    If the data come with splits, a shared text or group stays in the first of test, validation and
    train.

    Args:
        rows: Checked rows.
        splits: Sizes and seed of the splits.
        where: Name of the data in messages.

    Raises:
        ValueError: If validation and test request more rows than there are.
    """

    target_column = "label"
    rows: Rows

    def __init__(self, rows: Rows, splits: Splits, *, where: str) -> None:
        """See the class."""
        texts = keys = [normalize(text) for text in rows.texts]
        if rows.pairs is not None:
            pairs = map(normalize, rows.pairs)
            keys = [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]
        groups = rows.groups or [None] * len(rows)
        splitter = Splitter(
            keys,
            rows.targets,
            units=[group or text for group, text in zip(groups, texts, strict=True)],
            # The second text of a pair is not exclusive: one that many pairs share, such as "it is
            # so", would remove all of them from the splits of lower priority.
            exclusive=[
                exclusive_keys({"text": text}, group)
                for text, group in zip(texts, groups, strict=True)
            ],
            given=rows.given,
        )
        split = splitter.split(splits)
        super().__init__(rows, keys, split, where=where)
        rank_zero_only(log.info)(
            "%s: %s rows; dropped %d duplicate texts (%d with another label) and %d rows that "
            "share a text or group with another split",
            where,
            split.sizes,
            split.repeated,
            split.conflicting,
            split.leaked,
        )

    def training_subset(self, size: int | float | str | None, *, seed: int) -> np.ndarray:
        """Draw training rows in the proportions of the classes, or equally many of each class.

        Args:
            size: Number of rows (int), fraction of the training rows in [0, 1] (float), or
                ``8/class`` for 8 rows of each class. ``None`` means all.
            seed: Seed of the draw.

        Returns:
            Positions in the table, int64 ``(rows,)``.

        Raises:
            ValueError: If there are fewer rows than requested, or a size per class is given and
                the labels are not single classes.
        """
        per_class = rows_per_class(size)
        if per_class is None:
            return super().training_subset(size, seed=seed)
        return self._same_number_per_class(per_class, seed=seed)

    def _same_number_per_class(self, count: int, *, seed: int) -> np.ndarray:
        labels, positions = self.rows.labels, self.positions["train"]
        if labels.kind in ("multi_label", "tags") or not labels.names:
            given = (
                "several a row"
                if labels.kind in ("multi_label", "tags")
                else "numbers without bins"
            )
            raise ValueError(
                f"train_size={count}/class needs one class a row, and the labels of {self.where} "
                f"are {given}; give a count or a fraction such as data.train_size=100"
            )
        keys = [self._keys[row] for row in positions]
        strata = self._strata(positions)
        try:
            return positions[balanced(strata, keys, count, names=labels.names, seed=seed)]
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    def _strata(self, positions: np.ndarray) -> list[int]:
        """Return the stratum of each row: its class, set of labels, bin, or fifth of the range."""
        labels = self.rows.labels
        targets = [self.rows.targets[row] for row in positions]
        if labels.kind == "single_label":
            return targets
        if labels.kind in ("multi_label", "tags"):
            sets = [tuple(sorted(set(target))) for target in targets]
            numbers = {label_set: number for number, label_set in enumerate(sorted(set(sets)))}
            return [numbers[label_set] for label_set in sets]
        if labels.names:
            return [labels.bin_index(value) for value in targets]
        # Without bins there are no classes: quantiles keep the distribution of the values.
        return quantile_strata(targets)

    def label_counts(self, positions: np.ndarray) -> dict[str, int]:
        """Count the rows of each class or bin, for tags the words of each tag.

        Args:
            positions: Rows of the table, int64 ``(rows,)``.

        Returns:
            Label name -> count. Empty for labels without names.
        """
        labels = self.rows.labels
        count: Counter[int] = Counter()
        for row in positions:
            target = self.rows.targets[row]
            if labels.kind == "regression":
                target = labels.bin_index(target)
            count.update(target if labels.kind in ("multi_label", "tags") else [target])
        return {name: count[position] for position, name in enumerate(labels.names)}


class TargetCorpus(_SplitTable):
    """Pairs of a text and a target text, and their splits.

    No text, no target text and no group occurs in two splits. Pairs that share one of them,
    directly or through other pairs, are drawn together. If the data come with splits, a shared
    text, target text or group stays in the first of test, validation and train. Pairs that differ
    only in case, white space or punctuation are duplicates.

    If the rows have keys, the key alone decides the split (:meth:`Splits.split_of`). All data with
    the same keys are then split in the same way, for example a text in several languages.

    Args:
        rows: Checked rows.
        splits: Sizes and seed of the splits.
        where: Name of the data in messages.

    Raises:
        ValueError: If validation and test request more rows than there are, or a split size is a
            count and the rows have keys.
    """

    target_column = "target"
    rows: TargetRows

    def __init__(self, rows: TargetRows, splits: Splits, *, where: str) -> None:
        """See the class."""
        texts, targets = list(map(normalize, rows.texts)), list(map(normalize, rows.targets))
        keys = [f"{text}\n{target}" for text, target in zip(texts, targets, strict=True)]
        groups, given = rows.groups or [None] * len(rows), rows.given
        exclusive = [
            exclusive_keys({"text": text, "target": target}, group)
            for text, target, group in zip(texts, targets, groups, strict=True)
        ]
        units = _units(exclusive, texts)
        if rows.keys is not None:
            # The keys decide all splits, so no rows are left to draw.
            given, splits = [splits.split_of(key) for key in rows.keys], Splits(val=0, test=0)
        splitter = Splitter(keys, keys, units=units, exclusive=exclusive, given=given)
        split = splitter.split(splits)
        super().__init__(rows, keys, split, where=where)
        rank_zero_only(log.info)(
            "%s: %s rows; dropped %d duplicate pairs and %d pairs that share a text or group with "
            "another split",
            where,
            split.sizes,
            split.repeated,
            split.leaked,
        )


def _units(exclusive: Sequence[Sequence[str]], texts: Sequence[str]) -> list[str]:
    """Return the unit of each row: the smallest text of the rows connected with it."""
    firsts = connected_groups(exclusive)
    names: dict[int, str] = {}
    for first, text in zip(firsts, texts, strict=True):
        # The smallest text and not the first one, so that the order of the file does not matter.
        names[first] = min(text, names.get(first, text))
    return [names[first] for first in firsts]
