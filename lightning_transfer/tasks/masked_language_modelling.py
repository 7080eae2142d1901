"""BERT's pretraining: masked tokens, and whether two texts belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from lightning_transfer.heads import LanguageModelHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.token_metrics import (
    IGNORED,
    token_metrics,
    update_token_metrics,
)
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import Labels


@dataclass(frozen=True)
class MaskedLMOutput:
    """What the model says of a batch.

    Args:
        tokens: Logits of the tokens to guess, float (targets, vocabulary), row by row.
        pairs: Logits of what the second parts are to the first, float (batch, classes), or None.
        pair_labels: What they are, int64 (batch,), or None.
    """

    tokens: Tensor
    pairs: Tensor | None = None
    pair_labels: Tensor | None = None


class MaskedLanguageModelling(TransferModule):
    """Guess masked tokens and, with pairs of texts, whether the second follows the first.

    Devlin et al., BERT, arXiv:1810.04805; both losses are means and are added, as there. The logits
    over the vocabulary are computed for the masked positions alone. Over the text of a domain or of
    a task, this is adaptive pretraining (Gururangan et al., arXiv:2004.10964).

    Metrics are ``mlm_loss`` (mean over the masked tokens, in nats), its ``perplexity``,
    ``mlm_accuracy``, ``unigram_loss`` (of a model that knows how frequent tokens are and no more;
    undefined if the batches do not say it) and, with pairs, ``nsp_accuracy``.

    Args:
        backbone: See :class:`TransferModule`; shows its table of ``token_embeddings``.
        head: A :class:`LanguageModelHead`.
        labels: Of kind ``tokens``; with names, the texts are pairs.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are not of that kind, the head is another, or the backbone shows
            no embeddings.
    """

    monitor = "val/perplexity"
    mode = "min"
    before = ("mlm_loss", "perplexity")

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
                "MaskedLanguageModelling needs a head over the vocabulary, got "
                f"{type(head).__name__}; set head=language_model"
            )
        if not isinstance(getattr(backbone, "token_embeddings", None), nn.Embedding):
            raise ValueError(
                f"{type(backbone).__name__} shows no `token_embeddings`, the nn.Embedding that the "
                "head is tied to"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.head: LanguageModelHead

    def build_metrics(self) -> MetricCollection:
        """Return loss, perplexity and accuracy of the masked tokens, and accuracy of the pairs."""
        if self.labels.kind != "masked_tokens":
            raise ValueError(
                "MaskedLanguageModelling needs text without labels, got labels of kind "
                f"{self.labels.kind!r}; use data of raw text, such as imdb_text or text_files"
            )
        metrics = token_metrics("mlm")
        if self.labels.names:
            metrics["nsp_accuracy"] = MeanMetric()
        return MetricCollection(metrics, compute_groups=False)

    def setup(self, stage: str) -> None:
        """Let a new head begin with the tokens' frequencies, if the data tell them."""
        super().setup(stage)
        if not self.head.is_new:
            return
        unigram = getattr(getattr(self.trainer, "datamodule", None), "unigram", None)
        if unigram is not None:
            self.head.start_from(torch.as_tensor(unigram))

    def forward(self, batch: Batch) -> MaskedLMOutput:  # type: ignore[override]
        """Guess the tokens at the positions of a batch that have a label.

        Without ``labels`` (int64 (batch, seq), -100 where nothing is to be guessed) each position
        of a text is guessed.
        """
        hidden, mask = self.features(batch), batch["attention_mask"]
        wanted = batch["labels"] != IGNORED if "labels" in batch else mask.bool()
        table = self.backbone.token_embeddings
        assert isinstance(table, nn.Embedding)
        tokens = self.head.tokens(hidden[wanted], table.weight)  # (targets, vocabulary)
        if not self.labels.names:
            return MaskedLMOutput(tokens)
        return MaskedLMOutput(tokens, self.head(hidden, mask), batch.get("pair_labels"))

    def loss(self, logits: MaskedLMOutput, targets: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of the tokens plus that of the pairs.

        Args:
            logits: What the model says.
            targets: Token ids, int64 (batch, seq), -100 where nothing is to be guessed.
        """
        cross_entropy = nn.functional.cross_entropy
        loss = cross_entropy(logits.tokens, targets[targets != IGNORED])
        if logits.pairs is None or logits.pair_labels is None:
            return loss
        return loss + cross_entropy(logits.pairs, logits.pair_labels)

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        guesses, targets = self(batch), batch["labels"]
        update_token_metrics(metrics, guesses.tokens, batch, prefix="mlm")
        if guesses.pairs is not None:
            hits = guesses.pairs.argmax(-1) == batch["pair_labels"]
            metrics["nsp_accuracy"].update(hits.float())
        size = len(targets)
        loss = self.loss(guesses, targets)
        self.log_loss(name, loss, rows=size)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``index`` int64 (batch,) and ``logits`` float32 (targets, vocabulary)."""
        return {"index": batch["index"], "logits": self(batch).tokens.float()}
