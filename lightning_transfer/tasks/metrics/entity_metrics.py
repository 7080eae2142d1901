"""Entity-level metrics of tagged words."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_transfer.utils import IGNORED, Labels
from lightning_transfer.utils.extras import check_installed

ScoreKind = Literal["f1", "precision", "recall"]


class EntityScore(Metric):
    """Micro-averaged F1, precision or recall of entities.

    A predicted entity is correct if its type and both boundaries are correct. ``seqeval`` finds the
    entities in its default mode, the rule of the CoNLL shared tasks: an ``I-PER`` that continues no
    entity starts one. Tags without the prefixes of entities, such as parts of speech, count as
    entities of one word each, except ``O``.

    Args:
        labels: Labels of kind ``tags``.
        score: ``f1``, ``precision`` or ``recall``.

    Raises:
        ImportError: If seqeval is not installed.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    right: Tensor
    predicted: Tensor
    actual: Tensor

    def __init__(self, labels: Labels, score: ScoreKind = "f1") -> None:
        """See the class."""
        super().__init__()
        check_installed("seqeval", "the F1 of entities", extra="tags")
        self.score = score
        # seqeval requires the prefixes of entity tags. With B- a tag is an entity of one word.
        self.tags = [
            name if name == "O" or name[:2] in ("B-", "I-") else f"B-{name}"
            for name in labels.names
        ]
        # Only counts are stored: their sums over ranks are the counts over all rows.
        for name in ("right", "predicted", "actual"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """Count the entities of a batch.

        Args:
            preds: Predicted tags, int64 (batch, seq).
            targets: True tags, int64 (batch, seq), -100 except for the first token of each word.
        """
        found, expected = (set(_entities(self._rows(tags, targets))) for tags in (preds, targets))
        self.right = self.right + len(found & expected)
        self.predicted = self.predicted + len(found)
        self.actual = self.actual + len(expected)

    def _rows(self, tags: Tensor, targets: Tensor) -> list[list[str]]:
        counted = targets != IGNORED
        return [
            [self.tags[tag] for tag in row[mask].tolist()]
            for row, mask in zip(tags.cpu(), counted.cpu(), strict=True)
        ]

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]; 0 if there are no entities to divide by."""
        denominator = {
            "f1": (self.predicted + self.actual) / 2,
            "precision": self.predicted,
            "recall": self.actual,
        }[self.score]
        # 0.5 is the smallest denominator above 0: one entity in F1.
        return self.right / denominator.clamp(min=0.5)


def _entities(rows: Sequence[list[str]]) -> list[tuple[str, int, int]]:
    # Imported here, because seqeval imports scikit-learn, which is slow.
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    return get_entities(rows)
