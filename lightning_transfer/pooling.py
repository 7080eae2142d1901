"""From one vector a token to one vector a text."""

from typing import Literal, get_args

import torch
from torch import Tensor

PoolingMode = Literal["cls", "mean", "max"]


def pool(hidden: Tensor, attention_mask: Tensor | None, mode: PoolingMode) -> Tensor:
    """Pool token features into text features; padding never counts.

    Args:
        hidden: Token features, float (batch, seq, hidden).
        attention_mask: 1 for tokens and 0 for padding, (batch, seq); None if nothing is padded.
        mode: ``cls`` takes the first token, ``mean`` and ``max`` go over all that are not padding
            (0 where nothing else is).

    Returns:
        Text features, float (batch, hidden).

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> pool(hidden, torch.tensor([[1, 1, 0]]), "mean").item()
        2.0
    """
    check_pooling(mode)
    if mode == "cls":
        return hidden[:, 0]  # (batch, hidden)
    if attention_mask is None:
        return hidden.mean(dim=1) if mode == "mean" else hidden.amax(dim=1)  # (batch, hidden)
    mask = attention_mask.unsqueeze(-1).to(torch.bool)  # (batch, seq, 1)
    if mode == "max":
        highest = hidden.masked_fill(~mask, -torch.inf).amax(dim=1)  # (batch, hidden)
        return highest.masked_fill(~mask.any(dim=1), 0.0)  # (batch, hidden)
    counts = mask.sum(dim=1).clamp(min=1)  # (batch, 1)
    return hidden.masked_fill(~mask, 0.0).sum(dim=1) / counts  # (batch, hidden)


def check_pooling(mode: str) -> None:
    """Raise a ValueError unless ``mode`` is a known way to pool."""
    if mode not in get_args(PoolingMode):
        raise ValueError(f"pooling must be one of cls, mean, max, got {mode!r}; set head.pooling")
