"""Token classification: one tag per word."""

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_transfer.tasks.metrics.entity_metrics import EntityScore
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import IGNORED


class TokenClassification(TransferModule):
    """Token classification with one tag per word.

    The loss is cross-entropy, averaged over the tokens with a target. Metrics of whole entities are
    ``entity_f1``, ``entity_precision`` and ``entity_recall`` (see :class:`EntityScore`). Metrics of
    single words are ``word_accuracy`` and ``word_f1``, macro-averaged over the tags that occur,
    ``O`` included.

    Args:
        backbone: See :class:`TransferModule`.
        head: Head with one output per tag, for each token.
        labels: Labels of kind ``tags``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are of another kind, or the head pools its outputs.

    Example:
        >>> import torch
        >>> from lightning_transfer.heads import TokenHead
        >>> from lightning_transfer.utils import Labels
        >>> labels = Labels("tags", ("O", "B-PER"))
        >>> task = TokenClassification(nn.Identity(), TokenHead(4, 2), labels=labels)
        >>> logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
        >>> task.loss(logits, torch.tensor([[0, -100]])).item() < 0.001
        True
    """

    monitor = "val/entity_f1"
    per_token = True

    def build_metrics(self) -> MetricCollection:
        """Return scores of entities, and accuracy and macro-F1 of words."""
        if self.labels.kind != "tags":
            raise ValueError(
                f"TokenClassification needs labels of kind 'tags', got {self.labels.kind!r}; "
                "use data=conll or data=tagged_files"
            )
        count = len(self.labels.names)
        return MetricCollection(
            {
                "entity_f1": EntityScore(self.labels),
                "entity_precision": EntityScore(self.labels, "precision"),
                "entity_recall": EntityScore(self.labels, "recall"),
                "word_accuracy": MulticlassAccuracy(count, average="micro", ignore_index=IGNORED),
                "word_f1": MulticlassF1Score(count, average="macro", ignore_index=IGNORED),
            }
        )

    def forward(self, batch: Batch) -> Tensor:
        """Compute outputs, float (batch, seq, tags), of a tokenized batch."""
        return super().forward(batch)  # (batch, seq, tags)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the tokens with a target, a scalar.

        The loss of a batch without any target is 0.

        Args:
            logits: Float (batch, seq, tags).
            targets: Tag positions, int64 (batch, seq), -100 for tokens without a target.
        """
        flat = targets.flatten()  # (batch · seq,)
        # The mean of torch would be NaN for a batch without any target.
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum"
        )
        return total / (flat != IGNORED).sum().clamp(min=1)

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Update the metrics with the most probable tags (batch, seq) and the targets."""
        metrics.update(logits.argmax(dim=-1), targets)
