"""Metrics of guessed tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

IGNORED = -100
"""The label of a position whose token is not to be guessed, as in torch."""


class Perplexity(MeanMetric):
    """The exponential of the mean loss: between how many tokens a model wavers."""

    def compute(self) -> Tensor:
        """Return exp(mean), a scalar."""
        return torch.exp(super().compute())


def token_metrics(prefix: str) -> dict[str, Metric | MetricCollection]:
    """Return loss, perplexity, accuracy and unigram baseline, all means over guessed tokens.

    Args:
        prefix: Before ``_loss`` and ``_accuracy``, such as ``mlm``.
    """
    return {
        f"{prefix}_loss": MeanMetric(),
        "perplexity": Perplexity(),
        f"{prefix}_accuracy": MeanMetric(),
        "unigram_loss": MeanMetric(nan_strategy="disable"),
    }


def update_token_metrics(
    metrics: MetricCollection, logits: Tensor, batch: Mapping[str, Any], *, prefix: str
) -> None:
    """Feed a batch to what :func:`token_metrics` made.

    Args:
        metrics: May hold others, too.
        logits: Float (targets, vocabulary), row by row.
        batch: Has ``labels``, int64 (batch, seq), and may have ``unigram_loss``, float (targets,).
        prefix: As it was given to :func:`token_metrics`.
    """
    targets = batch["labels"]
    wanted = targets[targets != IGNORED]  # (targets,)
    losses = nn.functional.cross_entropy(logits.float(), wanted, reduction="none")  # (targets,)
    metrics[f"{prefix}_loss"].update(losses)
    metrics["perplexity"].update(losses)
    metrics[f"{prefix}_accuracy"].update((logits.argmax(-1) == wanted).float())
    metrics["unigram_loss"].update(batch.get("unigram_loss", losses.new_tensor(torch.nan)))
