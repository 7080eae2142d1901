"""A linear head."""

from typing import Any

from torch import Tensor, nn

from lightning_transfer.heads.pooling import PoolingMode, check_pooling, pool


class LinearHead(nn.Module):
    """Dropout and one linear layer over pooled features.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Classes, or 1 for a rating.
        pooling: How token features become text features.
        dropout: Probability of dropping a feature, in [0, 1).

    Raises:
        ValueError: If the pooling is unknown or ``num_outputs`` is below 1.

    Example:
        >>> import torch
        >>> LinearHead(8, 3)(torch.ones(2, 5, 8), torch.ones(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        pooling: PoolingMode = "mean",
        dropout: float = 0.1,
    ) -> None:
        """See the class."""
        super().__init__()
        check_pooling(pooling)
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be >= 1, got {num_outputs}")
        self.pooling: PoolingMode = pooling
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_outputs)
        nn.init.normal_(self.out.weight, std=0.02)  # as in BERT, arXiv:1810.04805
        nn.init.zeros_(self.out.bias)

    @property
    def first_token(self) -> bool:
        """Whether the first token's features are all that is read of a text."""
        return self.pooling == "cls"

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this head beside its sizes."""
        return {"pooling": self.pooling, "dropout": self.dropout.p}

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features (batch, seq, hidden) to outputs (batch, num_outputs)."""
        features = pool(hidden, attention_mask, self.pooling)  # (batch, hidden)
        return self.out(self.dropout(features))  # (batch, num_outputs)
