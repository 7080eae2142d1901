"""Metrics of entities, counted whole."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_transfer.utils import Labels
from lightning_transfer.utils.extras import check_installed

IGNORED = -100  # a token that is not counted, as in torch's losses
Score = Literal["f1", "precision", "recall"]


class EntityScore(Metric):
    """F1, precision or recall of entities, micro-averaged: right if type and both ends are right.

    What is an entity in a row of tags is for ``seqeval`` to say, in its default mode, which is that
    of the CoNLL shared tasks: an ``I-PER`` that nothing began begins one. Tags that are no entity
    tags (parts of speech) count word by word, all but ``O``. Only the counts are kept, whose sums
    over devices are those over all rows.

    Args:
        labels: Names of the tags.
        score: Which of the three.

    Raises:
        ImportError: If seqeval is not installed.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    right: Tensor
    predicted: Tensor
    actual: Tensor

    def __init__(self, labels: Labels, score: Score = "f1") -> None:
        """See the class."""
        super().__init__()
        check_installed("seqeval", "the F1 of entities", extra="tags")
        self.score = score
        # seqeval's alphabet: whatever is no entity tag is an entity of one word.
        self.tags = [
            name if name == "O" or name[:2] in ("B-", "I-") else f"B-{name}"
            for name in labels.names
        ]
        for name in ("right", "predicted", "actual"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """Count the entities of a batch.

        Args:
            preds: Predicted tags, int64 (batch, seq).
            targets: Right tags, int64 (batch, seq), -100 on what is not the first token of a word.
        """
        found, there = (set(_entities(self._rows(tags, targets))) for tags in (preds, targets))
        self.right = self.right + len(found & there)
        self.predicted = self.predicted + len(found)
        self.actual = self.actual + len(there)

    def _rows(self, tags: Tensor, targets: Tensor) -> list[list[str]]:
        counted = targets != IGNORED
        return [
            [self.tags[tag] for tag in row[mask].tolist()]
            for row, mask in zip(tags.cpu(), counted.cpu(), strict=True)
        ]

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]; 0 where there is nothing to divide by."""
        whole = {
            "f1": (self.predicted + self.actual) / 2,
            "precision": self.predicted,
            "recall": self.actual,
        }[self.score]
        return self.right / whole.clamp(min=0.5)  # a half is the least that is not nothing


def _entities(rows: Sequence[list[str]]) -> list[tuple[str, int, int]]:
    # scikit-learn is slow to import
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    return get_entities(rows)
