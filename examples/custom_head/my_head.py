"""A head of your own: attention pooling, then one linear layer."""

import torch
from torch import Tensor, nn


class AttentionHead(nn.Module):
    """Weigh the tokens by a learned score, sum them up, and apply one linear layer.

    All tokens weigh the same at first, which is mean pooling; training makes the difference. The
    two sizes come from the backbone and the data; everything else is yours, and is set in
    ``my_conf/head/attention.yaml``. The last layer is called ``out``, so that a later stage can
    keep its rows by label name.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Classes, or 1 for a rating.
        dropout: Probability of dropping a feature, in [0, 1).
    """

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float = 0.1) -> None:
        """See the class."""
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_outputs)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token features (batch, seq, hidden) to outputs (batch, num_outputs)."""
        scores = self.score(hidden).squeeze(-1)  # (batch, seq)
        scores = scores.masked_fill(attention_mask == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1).unsqueeze(-1)  # (batch, seq, 1)
        features = (weights * hidden).sum(dim=1)  # (batch, hidden)
        return self.out(self.dropout(features))  # (batch, num_outputs)
