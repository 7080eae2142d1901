"""Metrics of predicted tokens, for language modelling."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from lightning_transfer.utils import IGNORED


class Perplexity(MeanMetric):
    """Exponential of the mean loss per token."""

    def compute(self) -> Tensor:
        """Return the perplexity, a scalar >= 1."""
        # Of the mean over all tokens: a mean of the perplexities of batches would be larger.
        return torch.exp(super().compute())


def token_metrics(prefix: str) -> dict[str, Metric | MetricCollection]:
    """Return loss, perplexity, accuracy and loss of the unigram baseline over predicted tokens.

    Args:
        prefix: Prefix of ``_loss`` and ``_accuracy``, such as ``mlm``.
    """
    return {
        f"{prefix}_loss": MeanMetric(),
        "perplexity": Perplexity(),
        f"{prefix}_accuracy": MeanMetric(),
        # NaN means that a batch has no unigram loss. It is reported as NaN, without a warning.
        "unigram_loss": MeanMetric(nan_strategy="disable"),
    }


def update_token_metrics(
    metrics: MetricCollection, logits: Tensor, batch: Mapping[str, Any], *, prefix: str
) -> None:
    """Update the metrics of :func:`token_metrics` with a batch.

    Args:
        metrics: Metrics of :func:`token_metrics`, possibly among others.
        logits: Float (targets, vocabulary), in the order of the rows.
        batch: ``labels``, int64 (batch, seq), and optionally ``unigram_loss``, float (targets,).
        prefix: Prefix passed to :func:`token_metrics`.
    """
    targets = batch["labels"]
    flat = targets[targets != IGNORED]  # (targets,)
    losses = nn.functional.cross_entropy(logits.float(), flat, reduction="none")  # (targets,)
    metrics[f"{prefix}_loss"].update(losses)
    metrics["perplexity"].update(losses)
    metrics[f"{prefix}_accuracy"].update((logits.argmax(-1) == flat).float())
    metrics["unigram_loss"].update(batch.get("unigram_loss", losses.new_tensor(torch.nan)))
