"""Causal language modelling, the pretraining task of GPT."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_transfer.heads import NextTokenHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.token_metrics import token_metrics, update_token_metrics
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import IGNORED, Labels


class CausalLanguageModelling(TransferModule):
    """Causal language modelling: prediction of each next token, with a GPT-like backbone.

    With text of a domain or of a task this is adaptive pretraining (Gururangan et al.,
    arXiv:2004.10964). The labels of a batch are already shifted: the label of a position is the
    next token.

    Metrics are ``lm_loss`` (mean over the tokens, in nats), ``perplexity``, ``lm_accuracy`` and
    ``unigram_loss``. The last is the loss of a baseline that knows only token frequencies; it is
    NaN if the batches have no ``unigram_loss``.

    Args:
        backbone: See :class:`TransferModule`. Its ``is_causal`` must be true and its
            ``token_embeddings`` an ``nn.Embedding``.
        head: A :class:`NextTokenHead`.
        labels: Labels of kind ``next_tokens``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are of another kind, the head is of another class, or the backbone
            is not causal or has no ``token_embeddings``.
    """

    monitor = "val/perplexity"
    mode = "min"
    metrics_before_training = ("lm_loss", "perplexity")

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        labels: Labels,
        recipe: Recipe | None = None,
        objectives: Mapping[str, Weighted] | None = None,
    ) -> None:
        """See the class."""
        if not isinstance(head, NextTokenHead):
            raise ValueError(
                "CausalLanguageModelling needs a NextTokenHead, tied to the token embeddings, got "
                f"{type(head).__name__}; set head=next_token"
            )
        if not getattr(backbone, "is_causal", False):
            raise ValueError(
                f"CausalLanguageModelling needs a causal backbone, got {type(backbone).__name__} "
                "without a true `is_causal`; set backbone=hub backbone.name=distilgpt2, or "
                "task=masked_language_modelling head=language_model"
            )
        if not isinstance(getattr(backbone, "token_embeddings", None), nn.Embedding):
            raise ValueError(
                f"{type(backbone).__name__} has no `token_embeddings`, the nn.Embedding for the "
                "tied head; add it as a property"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.head: NextTokenHead  # nn.Module types its attributes as Tensor | Module

    def build_metrics(self) -> MetricCollection:
        """Return loss, perplexity and accuracy of tokens, and the loss of the unigram baseline."""
        if self.labels.kind != "next_tokens":
            raise ValueError(
                "CausalLanguageModelling needs labels of kind 'next_tokens', got "
                f"{self.labels.kind!r}; use raw text, such as data=imdb_text "
                "data.pretraining=causal"
            )
        return MetricCollection(token_metrics("lm"), compute_groups=False)

    def forward(self, batch: Batch) -> Tensor:
        """Compute logits, float (targets, vocabulary), at the positions with a label.

        Args:
            batch: ``input_ids``, ``attention_mask`` and optionally ``labels``, int64 (batch, seq);
                labels are -100 at positions without a prediction. Without ``labels``, logits are
                computed at all positions without padding.
        """
        hidden = self.features(batch)  # (batch, seq, hidden)
        # Only positions with a label: the logits of each are as many as the vocabulary has tokens.
        selected = (
            batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()
        )  # (batch, seq)
        table = self.backbone.token_embeddings
        assert isinstance(table, nn.Embedding)
        return self.head.tokens(hidden[selected], table.weight)  # (targets, vocabulary)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the predicted tokens, a scalar.

        Args:
            logits: Float (targets, vocabulary), in the order of the rows.
            targets: Token ids, int64 (batch, seq), -100 at positions without a prediction.
        """
        return nn.functional.cross_entropy(logits, targets[targets != IGNORED])

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Update the metrics with logits (targets, vocabulary) and targets (batch, seq)."""
        update_token_metrics(metrics, logits, {"labels": targets}, prefix="lm")

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        logits, targets = self(batch), batch["labels"]
        update_token_metrics(metrics, logits, batch, prefix="lm")
        loss, size = self.loss(logits, targets), len(targets)
        self.log_loss(name, loss, rows=size)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``index`` int64 (batch,) and ``logits`` float32 (targets, vocabulary)."""
        return {"index": batch["index"], "logits": self(batch).float()}
