"""Classification head of BERT and RoBERTa."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from lightning_transfer.heads.pooling import PoolingMode, check_pooling, pool

Activation = Literal["tanh", "relu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class MLPHead(nn.Module):
    """Pooling, dense layer, activation, dropout and output layer.

    With ``cls`` pooling this is the computation of BERT's pooler and classifier (tanh), of
    RoBERTa's classification head (tanh) and of DistilBERT's (relu). Plain transformers can
    therefore load a model with this head.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Number of classes, or 1 for regression.
        pooling: Pooling of token features: ``cls``, ``mean``, ``max`` or ``last``.
        activation: Activation after the dense layer: ``tanh``, ``relu`` or ``gelu``.
        dropout: Probability of dropping a feature, in [0, 1).

    Raises:
        ValueError: If pooling or activation are unknown, or ``num_outputs`` is below 1.

    Example:
        >>> import torch
        >>> MLPHead(8, 3)(torch.ones(2, 5, 8), torch.ones(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        pooling: PoolingMode = "cls",
        activation: Activation = "tanh",
        dropout: float = 0.1,
    ) -> None:
        """See the class."""
        super().__init__()
        check_pooling(pooling)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; "
                "set head.activation=tanh"
            )
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be >= 1, got {num_outputs}")
        self.pooling: PoolingMode = pooling
        self.activation: Activation = activation
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.act = ACTIVATIONS[activation]()
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
        return {
            "pooling": self.pooling,
            "activation": self.activation,
            "dropout": self.dropout.p,
        }

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of a pretrained pooler into the dense layer.

        Args:
            state: ``weight`` and ``bias`` of the pooler's dense layer.

        Raises:
            RuntimeError: If the shapes differ.
        """
        self.dense.load_state_dict(dict(state))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features to outputs.

        Args:
            hidden: Float (batch, seq, hidden).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).

        Returns:
            Logits or scores, float (batch, num_outputs).
        """
        features = pool(hidden, attention_mask, self.pooling)  # (batch, hidden)
        features = self.act(self.dense(features))
        return self.out(self.dropout(features))  # (batch, num_outputs)
