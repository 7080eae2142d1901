"""Head for labels of single tokens."""

from typing import Any

from torch import Tensor, nn


class TokenHead(nn.Module):
    """Dropout and one linear layer, applied to each token.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Number of tags.
        dropout: Probability of dropping a feature, in [0, 1).

    Raises:
        ValueError: If ``num_outputs`` is below 1.

    Example:
        >>> import torch
        >>> TokenHead(8, 3)(torch.ones(2, 5, 8), torch.ones(2, 5)).shape
        torch.Size([2, 5, 3])
    """

    per_token = True

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float = 0.1) -> None:
        """See the class."""
        super().__init__()
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be >= 1, got {num_outputs}")
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_outputs)
        nn.init.normal_(self.out.weight, std=0.02)  # as in BERT, arXiv:1810.04805
        nn.init.zeros_(self.out.bias)

    @property
    def args(self) -> dict[str, Any]:
        """Constructor arguments besides the sizes."""
        return {"dropout": self.dropout.p}

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features to outputs per token.

        Args:
            hidden: Float (batch, seq, hidden).
            attention_mask: Ignored; positions of padding get outputs too.

        Returns:
            Logits, float (batch, seq, num_outputs).
        """
        return self.out(self.dropout(hidden))  # (batch, seq, num_outputs)
