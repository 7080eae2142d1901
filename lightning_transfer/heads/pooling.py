"""Pooling of token features into text features."""

from typing import Literal, get_args

import torch
from torch import Tensor

PoolingMode = Literal["cls", "mean", "max", "last"]


def pool(hidden: Tensor, attention_mask: Tensor | None, mode: PoolingMode) -> Tensor:
    """Pool token features into text features, without padding.

    Args:
        hidden: Token features, float (batch, seq, hidden).
        attention_mask: 1 for tokens and 0 for padding, (batch, seq); None without padding.
        mode: ``cls`` for the first token; ``last`` for the last token that is not padding, the only
            one to attend to the whole text in a causal model; ``mean`` and ``max`` over all tokens
            that are not padding. Except for ``cls``, a row of padding only gives zeros.

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
    if mode == "last":
        return _last(hidden, attention_mask)  # (batch, hidden)
    if attention_mask is None:
        return hidden.mean(dim=1) if mode == "mean" else hidden.amax(dim=1)  # (batch, hidden)
    mask = attention_mask.unsqueeze(-1).to(torch.bool)  # (batch, seq, 1)
    # masked_fill and not a product with the mask: NaN times 0 is NaN.
    if mode == "max":
        highest = hidden.masked_fill(~mask, -torch.inf).amax(dim=1)  # (batch, hidden)
        return highest.masked_fill(~mask.any(dim=1), 0.0)  # (batch, hidden)
    counts = mask.sum(dim=1).clamp(min=1)  # (batch, 1)
    return hidden.masked_fill(~mask, 0.0).sum(dim=1) / counts  # (batch, hidden)


def _last(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the features of the last token of each row, float (batch, hidden)."""
    if attention_mask is None:
        return hidden[:, -1]  # (batch, hidden)
    # Positions from 1, so that 0 means a row without tokens. The number of tokens is not the
    # position of the last one if the padding is on the left.
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)  # (seq,)
    last = (places * attention_mask.to(torch.bool)).amax(dim=1)  # (batch,)
    rows = torch.arange(len(hidden), device=hidden.device)  # (batch,)
    found = hidden[rows, (last - 1).clamp(min=0)]  # (batch, hidden)
    return found.masked_fill((last == 0).unsqueeze(-1), 0.0)  # (batch, hidden)


def check_pooling(mode: str) -> None:
    """Raise a ValueError for an unknown pooling mode."""
    if mode not in get_args(PoolingMode):
        known = ", ".join(get_args(PoolingMode))
        raise ValueError(f"pooling must be one of {known}, got {mode!r}; set head.pooling=mean")
