"""Linear head."""

from typing import Any

from torch import Tensor, nn

from lightning_transfer.heads.pooling import PoolingMode, check_pooling, pool


class LinearHead(nn.Module):
    """Pooling, dropout and one linear layer.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Number of classes, or 1 for regression.
        pooling: Pooling of token features: ``cls``, ``mean``, ``max`` or ``last``.
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
        """True if the head reads only the features of the first token."""
        return self.pooling == "cls"

    @property
    def args(self) -> dict[str, Any]:
        """Constructor arguments besides the sizes."""
        return {"pooling": self.pooling, "dropout": self.dropout.p}

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features to outputs.

        Args:
            hidden: Float (batch, seq, hidden).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).

        Returns:
            Logits or scores, float (batch, num_outputs).
        """
        features = pool(hidden, attention_mask, self.pooling)  # (batch, hidden)
        return self.out(self.dropout(features))  # (batch, num_outputs)
