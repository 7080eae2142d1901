"""Means over tokens."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class Perplexity(MeanMetric):
    """The exponential of the mean loss: between how many tokens a model wavers."""

    def compute(self) -> Tensor:
        """Return exp(mean), a scalar."""
        return torch.exp(super().compute())
