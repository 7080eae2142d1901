"""A custom head: attention pooling, then one linear layer."""

import torch
from torch import Tensor, nn


class AttentionHead(nn.Module):
    """Attention pooling over the tokens, then one linear layer.

    All tokens have the same weight at first, as in mean pooling. The sizes are passed by the
    package; set any other argument in ``my_conf/head/attention.yaml``.

    Args:
        hidden_size: Size of the backbone's features.
        num_outputs: Number of classes, or 1 for a rating.
        dropout: Probability of dropping a feature, in [0, 1).
    """

    def __init__(self, hidden_size: int, num_outputs: int, *, dropout: float = 0.1) -> None:
        """See the class."""
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        # The name `out` lets a later stage keep the rows of the labels that it shares.
        self.out = nn.Linear(hidden_size, num_outputs)
        nn.init.zeros_(self.score.weight)  # equal scores: mean pooling at the start

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the outputs of a batch.

        Args:
            hidden: Token features, float (batch, seq, hidden).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).

        Returns:
            Logits or ratings, float (batch, num_outputs).
        """
        scores = self.score(hidden).squeeze(-1)  # (batch, seq)
        scores = scores.masked_fill(attention_mask == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1).unsqueeze(-1)  # (batch, seq, 1)
        features = (weights * hidden).sum(dim=1)  # (batch, hidden)
        return self.out(self.dropout(features))  # (batch, num_outputs)
