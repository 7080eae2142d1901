"""GPT's pretraining: each token from those before it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_transfer.heads import NextTokenHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.token_metrics import (
    IGNORED,
    token_metrics,
    update_token_metrics,
)
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import Labels


class CausalLanguageModelling(TransferModule):
    """Guess each token of a text from those before it, with a GPT-like backbone.

    Over the text of a domain or of a task this is adaptive pretraining (Gururangan et al.,
    arXiv:2004.10964). Labels of a batch stand at the position that guesses them: they are the
    tokens one place further on.

    Metrics are ``lm_loss`` (mean over the tokens, in nats), its ``perplexity``, ``lm_accuracy`` and
    ``unigram_loss`` (of a model that knows how frequent tokens are and no more; undefined if the
    batches do not say it).

    Args:
        backbone: See :class:`TransferModule`; shows ``is_causal``, which is true, and its table of
            ``token_embeddings``.
        head: A :class:`NextTokenHead`.
        labels: Of kind ``next_tokens``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are not of that kind, the head is another, or the backbone sees
            the tokens to come or shows no embeddings.
    """

    monitor = "val/perplexity"
    mode = "min"
    before = ("lm_loss", "perplexity")

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
                "CausalLanguageModelling needs the table of embeddings as its head, got "
                f"{type(head).__name__}; set head=next_token"
            )
        if not getattr(backbone, "is_causal", False):
            raise ValueError(
                f"{type(backbone).__name__} does not say `is_causal`: one that sees the tokens to "
                "come has nothing to guess; use a GPT-like backbone, or task="
                "masked_language_modelling"
            )
        if not isinstance(getattr(backbone, "token_embeddings", None), nn.Embedding):
            raise ValueError(
                f"{type(backbone).__name__} shows no `token_embeddings`, the nn.Embedding that the "
                "head is tied to"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.head: NextTokenHead

    def build_metrics(self) -> MetricCollection:
        """Return loss, perplexity and accuracy of the tokens, and the unigram baseline."""
        if self.labels.kind != "next_tokens":
            raise ValueError(
                "CausalLanguageModelling needs text of which each next token is guessed, got "
                f"labels of kind {self.labels.kind!r}; use data of raw text with pretraining=causal"
            )
        return MetricCollection(token_metrics("lm"), compute_groups=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, float (targets, vocabulary), at the positions that have a label.

        Without ``labels`` (int64 (batch, seq), -100 where nothing is to be guessed) each position
        of a text guesses the next one.
        """
        hidden = self.features(batch)  # (batch, seq, hidden)
        wanted = batch["labels"] != IGNORED if "labels" in batch else batch["attention_mask"].bool()
        table = self.backbone.token_embeddings
        assert isinstance(table, nn.Embedding)
        return self.head.tokens(hidden[wanted], table.weight)  # (targets, vocabulary)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of the tokens.

        Args:
            logits: Float (targets, vocabulary), row by row.
            targets: Token ids, int64 (batch, seq), -100 where nothing is to be guessed.
        """
        return nn.functional.cross_entropy(logits, targets[targets != IGNORED])

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Feed a batch's logits (targets, vocabulary) and targets to the metrics."""
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
