"""Extractive summarization: selection of sentences of a document."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAveragePrecision

from lightning_transfer.tasks.metrics.summary_metrics import HasExtraction, SummaryRouge
from lightning_transfer.tasks.transfer_module import Batch, TransferModule


class SentenceExtraction(TransferModule):
    """Extractive summarization by scores of sentences.

    The summary of a document consists of its sentences with the highest scores, in document order.
    The loss is cross-entropy on the label of each sentence: highlighted or not. The batches come
    from a DataModule with ``extraction`` (see :class:`data.HighlightedSentences`), which also
    defines the number of sentences in a summary. Metrics are ``rouge1``, ``rouge2`` and ``rougeL``
    of the summaries against the reference summaries, and ``average_precision`` of the scores.

    Args:
        backbone: See :class:`TransferModule`.
        head: Head with two outputs.
        labels: Labels of kind ``single_label`` with two names; the second is that of sentences for
            the summary.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are of another kind or have another number of names.
    """

    monitor = "val/rougeL"

    def build_metrics(self) -> MetricCollection:
        """Return ROUGE of the summaries and average precision of the scores."""
        if self.labels.kind != "single_label" or len(self.labels.names) != 2:
            raise ValueError(
                f"{type(self).__name__} needs labels of kind 'single_label' with 2 names, got "
                f"{self.labels.kind!r} with {list(self.labels.names)}; use "
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
        """Pass the documents of the DataModule to the metrics.

        Raises:
            ValueError: If the DataModule has no ``extraction``.
        """
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
        """Return the mean cross-entropy, a scalar.

        Args:
            logits: Float (batch, 2).
            targets: Class positions, int64 (batch,).
        """
        return nn.functional.cross_entropy(logits, targets)

    def update_metrics_from_batch(
        self, metrics: MetricCollection, logits: Tensor, batch: Batch
    ) -> None:
        """Update the metrics with scores, targets and table rows of a batch."""
        scores = self.probabilities(logits)[:, 1]  # (batch,)
        # MetricCollection passes to each metric only the arguments of its `update`. `rows` is not
        # in the signature that mypy checks.
        given: dict[str, Any] = {"scores": scores, "rows": batch["row"]}
        metrics.update(**given, preds=scores, target=batch["labels"])


class LeadSentences(SentenceExtraction):
    """Lead-n baseline of extractive summarization: the first sentences of a document.

    It has nothing to train; run it with ``trainer.max_steps=0``.
    """

    def forward(self, batch: Batch) -> Tensor:
        """Return outputs, float (batch, 2), in descending order of the sentence positions.

        Args:
            batch: ``position`` of each sentence in its document, from 0, int64 (batch,).
        """
        place = batch["position"].float()  # (batch,)
        # Small values: probabilities near 0 or 1 would be rounded to equal numbers.
        return torch.stack([place / 1000, -place / 1000], dim=1)  # (batch, 2)
