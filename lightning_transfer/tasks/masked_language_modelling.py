"""Masked language modelling and next-sentence prediction, the pretraining tasks of BERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from lightning_transfer.heads import LanguageModelHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.token_metrics import token_metrics, update_token_metrics
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import IGNORED, Labels


@dataclass(frozen=True)
class MaskedLMOutput:
    """Outputs of :class:`MaskedLanguageModelling` for a batch.

    Args:
        tokens: Logits of the masked tokens, float (targets, vocabulary), in the order of the rows.
        pairs: Logits of the relation between the two texts of a pair, float (batch, classes); None
            without pairs.
        pair_labels: Classes of this relation, int64 (batch,); None if the batch has none.
    """

    tokens: Tensor
    pairs: Tensor | None = None
    pair_labels: Tensor | None = None


class MaskedLanguageModelling(TransferModule):
    """Masked language modelling, with next-sentence prediction for pairs of texts.

    Devlin et al., BERT, arXiv:1810.04805. The loss is the sum of both mean losses, as in BERT.
    With text of a domain or of a task this is adaptive pretraining (Gururangan et al.,
    arXiv:2004.10964).

    Metrics are ``mlm_loss`` (mean over the masked tokens, in nats), ``perplexity``,
    ``mlm_accuracy``, ``unigram_loss`` and, with pairs, ``nsp_accuracy``. ``unigram_loss`` is the
    loss of a baseline that knows only token frequencies; it is NaN if the batches have no
    ``unigram_loss``.

    Args:
        backbone: See :class:`TransferModule`. Its ``token_embeddings`` must be an ``nn.Embedding``.
        head: A :class:`LanguageModelHead`.
        labels: Labels of kind ``masked_tokens``; with names if the texts are pairs.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are of another kind, the head is of another class, or the backbone
            has no ``token_embeddings``.
    """

    monitor = "val/perplexity"
    mode = "min"
    metrics_before_training = ("mlm_loss", "perplexity")

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
        if not isinstance(head, LanguageModelHead):
            raise ValueError(
                f"MaskedLanguageModelling needs a LanguageModelHead, got {type(head).__name__}; "
                "set head=language_model"
            )
        if not isinstance(getattr(backbone, "token_embeddings", None), nn.Embedding):
            raise ValueError(
                f"{type(backbone).__name__} has no `token_embeddings`, the nn.Embedding for the "
                "tied head; add it as a property"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.head: LanguageModelHead  # nn.Module types its attributes as Tensor | Module

    def build_metrics(self) -> MetricCollection:
        """Return loss, perplexity and accuracy of masked tokens, and accuracy of pairs."""
        if self.labels.kind != "masked_tokens":
            raise ValueError(
                "MaskedLanguageModelling needs labels of kind 'masked_tokens', got "
                f"{self.labels.kind!r}; use raw text, such as data=imdb_text or data=text_files"
            )
        metrics = token_metrics("mlm")
        if self.labels.names:
            metrics["nsp_accuracy"] = MeanMetric()
        return MetricCollection(metrics, compute_groups=False)

    def setup(self, stage: str) -> None:
        """Initialise the bias of a new head with token frequencies, if the DataModule has them."""
        super().setup(stage)
        if not self.head.is_new:
            return
        unigram = getattr(getattr(self.trainer, "datamodule", None), "unigram", None)
        if unigram is not None:
            self.head.init_bias(torch.as_tensor(unigram))

    def forward(self, batch: Batch) -> MaskedLMOutput:  # type: ignore[override]
        """Compute logits at the positions with a label, and of the pairs.

        Args:
            batch: ``input_ids``, ``attention_mask`` and optionally ``labels``, int64 (batch, seq);
                labels are -100 at positions without a prediction. Without ``labels``, logits are
                computed at all positions without padding.
        """
        hidden, mask = self.features(batch), batch["attention_mask"]
        # Only masked positions: the logits of each are as many as the vocabulary has tokens.
        selected = batch["labels"] != IGNORED if "labels" in batch else mask.bool()  # (batch, seq)
        table = self.backbone.token_embeddings
        assert isinstance(table, nn.Embedding)
        tokens = self.head.tokens(hidden[selected], table.weight)  # (targets, vocabulary)
        if not self.labels.names:
            return MaskedLMOutput(tokens)
        return MaskedLMOutput(tokens, self.head(hidden, mask), batch.get("pair_labels"))

    def loss(self, logits: MaskedLMOutput, targets: Tensor) -> Tensor:  # type: ignore[override]
        """Return the mean loss of the tokens plus the mean loss of the pairs, a scalar.

        Args:
            logits: Outputs of :meth:`forward`.
            targets: Token ids, int64 (batch, seq), -100 at positions without a prediction.
        """
        cross_entropy = nn.functional.cross_entropy
        loss = cross_entropy(logits.tokens, targets[targets != IGNORED])
        if logits.pairs is None or logits.pair_labels is None:
            return loss
        return loss + cross_entropy(logits.pairs, logits.pair_labels)

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        outputs, targets = self(batch), batch["labels"]
        update_token_metrics(metrics, outputs.tokens, batch, prefix="mlm")
        if outputs.pairs is not None:
            hits = outputs.pairs.argmax(-1) == batch["pair_labels"]
            metrics["nsp_accuracy"].update(hits.float())
        size = len(targets)
        loss = self.loss(outputs, targets)
        self.log_loss(name, loss, rows=size)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``index`` int64 (batch,) and ``logits`` float32 (targets, vocabulary)."""
        return {"index": batch["index"], "logits": self(batch).tokens.float()}
