"""The good rows of a domain, split."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.readers.rows import Rows, TargetRows
from lightning_transfer.data.splits.near_duplicates import linked
from lightning_transfer.data.splits.split_spec import Splits, normalize
from lightning_transfer.data.splits.splitter import Splitter, ties_of
from lightning_transfer.data.splits.subset import balanced, draw, quantile_strata, rows_of_each

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class Corpus:
    """Rows, and which split each lies in.

    No text and no group is in two splits; of pairs, no first text. Where the data come split, the
    first of test, validation and train that has it keeps it.

    Args:
        rows: The good rows.
        splits: How they are split.
        where: What the data are called in messages.

    Raises:
        ValueError: If more rows are to be held back than there are.
    """

    def __init__(self, rows: Rows, splits: Splits, *, where: str) -> None:
        """See the class."""
        self.rows = rows
        self.where = where
        texts = self._keys = [normalize(text) for text in rows.texts]
        if rows.pairs is not None:
            pairs = map(normalize, rows.pairs)
            self._keys = [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]
        groups = rows.groups or [None] * len(rows)
        splitter = Splitter(
            self._keys,
            rows.targets,
            units=[group or text for group, text in zip(groups, texts, strict=True)],
            ties=[ties_of({"text": t}, g) for t, g in zip(texts, groups, strict=True)],
            given=rows.given,
        )
        split = splitter.split(splits)
        self.positions = split.positions
        rank_zero_only(log.info)(
            "%s: %s rows; dropped %d repeated texts (%d of them with another label) and %d that "
            "share a text or group with another split",
            where,
            split.sizes,
            split.repeated,
            split.conflicting,
            split.leaked,
        )

    def training_subset(self, size: int | float | str | None, *, seed: int) -> np.ndarray:
        """Draw training rows so that the classes keep their shares, or as many of each.

        Args:
            size: A count (int), a fraction of the training rows (float), or ``8/class`` for as
                many of each class; ``None``: all.
            seed: Of the draw.

        Returns:
            Positions in the table, int64 ``(rows,)``.

        Raises:
            ValueError: If there are not as many, or the labels are no classes to draw from.
        """
        positions = self.positions["train"]
        each = rows_of_each(size)
        if each is not None:
            return self._same_of_each(each, seed=seed)
        strata = self._strata(positions)
        keys = [self._keys[row] for row in positions]
        return draw(positions, size, strata=strata, keys=keys, seed=seed, where=self.where)

    def _same_of_each(self, each: int, *, seed: int) -> np.ndarray:
        labels, positions = self.rows.labels, self.positions["train"]
        if labels.kind in ("multi_label", "tags") or not labels.names:
            given = (
                "several a row"
                if labels.kind in ("multi_label", "tags")
                else "numbers without bands"
            )
            raise ValueError(
                f"train_size={each}/class needs one class a row, and the labels of {self.where} "
                f"are {given}; give a count or a fraction"
            )
        keys = [self._keys[row] for row in positions]
        strata = self._strata(positions)
        try:
            return positions[balanced(strata, keys, each, names=labels.names, seed=seed)]
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    def _strata(self, positions: np.ndarray) -> list[int]:
        labels = self.rows.labels
        targets = [self.rows.targets[row] for row in positions]
        if labels.kind == "single_label":
            return targets
        if labels.kind in ("multi_label", "tags"):
            sets = [tuple(sorted(set(target))) for target in targets]
            place = {kinds: number for number, kinds in enumerate(sorted(set(sets)))}
            return [place[kinds] for kinds in sets]
        if labels.names:
            return [labels.band_index(rating) for rating in targets]
        return quantile_strata(targets)

    def label_counts(self, positions: np.ndarray) -> dict[str, int]:
        """Return how many rows have each label or lie in each band, or words have each tag."""
        labels = self.rows.labels
        count: Counter[int] = Counter()
        for row in positions:
            target = self.rows.targets[row]
            if labels.kind == "regression":
                target = labels.band_index(target)
            count.update(target if labels.kind in ("multi_label", "tags") else [target])
        return {name: count[position] for position, name in enumerate(labels.names)}

    def table(self, positions: np.ndarray) -> "Dataset":
        """Return the columns ``text``, ``label`` (the target) and ``row`` of some rows."""
        from datasets import Dataset  # takes a second to import, and training does without

        rows = self.rows
        columns = {"text": rows.texts, "label": rows.targets, "row": rows.places}
        return Dataset.from_dict(
            {name: [column[row] for row in positions] for name, column in columns.items()}
        )


if TYPE_CHECKING:
    from datasets import Dataset


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
