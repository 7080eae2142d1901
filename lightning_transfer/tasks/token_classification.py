"""One tag of several for each word."""

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_transfer.tasks.metrics.entity_metrics import IGNORED, EntityScore
from lightning_transfer.tasks.transfer_module import Batch, TransferModule


class TokenClassification(TransferModule):
    """Tag words: cross-entropy over the tokens that have a target.

    Metrics are ``entity_f1``, ``entity_precision`` and ``entity_recall`` (whole entities, see
    :class:`EntityScore`), and of single words ``word_accuracy`` and ``word_f1`` (macro-averaged
    over the tags that occur, ``O`` among them).

    Args:
        backbone: See :class:`TransferModule`.
        head: With one output a tag, for each token.
        labels: Of kind ``tags``.
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
        """Return the scores of entities, and accuracy and macro-F1 of words."""
        if self.labels.kind != "tags":
            raise ValueError(
                f"TokenClassification needs words with tags, got labels of kind "
                f"{self.labels.kind!r}; use data=conll or data=tagged_files"
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
        """Compute the outputs of each token, float (batch, seq, tags), of a tokenized batch."""
        return super().forward(batch)  # (batch, seq, tags)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (batch, seq, tags) over the tokens with a target.

        Args:
            logits: Of each token.
            targets: Tags, int64 (batch, seq), -100 where there is none; without any the loss is 0.
        """
        flat = targets.flatten()  # (batch · seq,)
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum"
        )
        return total / (flat != IGNORED).sum().clamp(min=1)

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Feed the likeliest tags (batch, seq) and targets."""
        metrics.update(logits.argmax(dim=-1), targets)
