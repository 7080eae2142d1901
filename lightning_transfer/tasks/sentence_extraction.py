"""Summaries made of a document's own sentences."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAveragePrecision

from lightning_transfer.tasks.metrics.summary_metrics import HasExtraction, SummaryRouge
from lightning_transfer.tasks.transfer_module import Batch, TransferModule


class SentenceExtraction(TransferModule):
    """Score sentences: the best of a document, in its order, are its summary.

    Cross-entropy over whether a sentence was highlighted. The batches come from a DataModule with
    ``extraction`` (see :class:`data.HighlightedSentences`), which says how many sentences are
    chosen. Metrics are ``rouge1``, ``rouge2`` and ``rougeL`` of the chosen sentences against the
    reference summaries, and ``average_precision`` of the scores.

    Args:
        backbone: See :class:`TransferModule`.
        head: With two outputs a text.
        labels: Of kind ``single``, two names; the second is the one to choose.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are others.
    """

    monitor = "val/rougeL"

    def build_metrics(self) -> MetricCollection:
        """Return ROUGE of the summaries and the average precision of the scores."""
        if self.labels.kind != "single_label" or len(self.labels.names) != 2:
            raise ValueError(
                f"{type(self).__name__} needs labels of kind 'single_label' with 2 names, what is chosen "
                f"last, got {self.labels.kind!r} with {list(self.labels.names)}; use "
                "data=highlighted_sentences"
            )
        return MetricCollection(
            {
                "rouge1": SummaryRouge("rouge1"),
                "rouge2": SummaryRouge("rouge2"),
                "rougeL": SummaryRouge("rougeL"),
                "average_precision": BinaryAveragePrecision(),
            }
        )

    def setup(self, stage: str) -> None:
        """Tell the metrics what the rows are."""
        super().setup(stage)
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, HasExtraction):
            raise ValueError(
                f"{type(self).__name__} needs a DataModule with `extraction`, got "
                f"{type(data).__name__}; use data=highlighted_sentences"
            )
        for metrics in (self.val_metrics, self.test_metrics):
            for metric in metrics.values():
                if isinstance(metric, SummaryRouge):
                    metric.extraction = data.extraction

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (batch, 2); targets are int64 (batch,)."""
        return nn.functional.cross_entropy(logits, targets)

    def feed(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Feed the scores (batch,) with the rows that they belong to."""
        scores = self.probabilities(logits)[:, 1]  # (batch,)
        # Each metric takes from these what it asks for.
        given: dict[str, Any] = {"scores": scores, "rows": batch["row"]}
        metrics.update(**given, preds=scores, target=batch["labels"])


class LeadSentences(SentenceExtraction):
    """Score sentences by their place: a summary is a document's beginning.

    Nothing is read and nothing is learned; train it for no step (``trainer.max_steps=0``).
    """

    def forward(self, batch: Batch) -> Tensor:
        """Return outputs, float (batch, 2), that fall with ``position``, int64 (batch,)."""
        place = batch["position"].float()  # (batch,)
        # Small, so that no two of them become equal as probabilities.
        return torch.stack([place / 1000, -place / 1000], dim=1)  # (batch, 2)
