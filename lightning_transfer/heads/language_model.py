"""The head of BERT's pretraining."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.masked_lm import MaskedLMHead
from lightning_transfer.heads.mlp import ACTIVATIONS, Activation
from lightning_transfer.heads.pooling import PoolingMode


class LanguageModelHead(nn.Module):
    """A transform and the table of embeddings, turned round: which token stands where.

    As in BERT (arXiv:1810.04805): dense layer, activation, layer norm, and the product with the
    token embeddings, to which it is tied, plus a bias a token. The table stays the backbone's and
    is given to :meth:`tokens` with each call. With ``num_outputs`` above 0 a second part judges
    pairs of texts over the first token, with BERT's pooler, which :meth:`forward` computes. It
    starts from the pretrained weights, where the checkpoint of the backbone holds some.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Classes of the pair, 0 for none.
        vocabulary: Rows and width of the table of token embeddings.
        activation: Of the transform.
        norm_eps: Epsilon of the layer norm (1e-12 in BERT, 1e-5 in RoBERTa).

    Raises:
        ValueError: If the activation is unknown, or ``num_outputs`` is negative.

    Example:
        >>> head = LanguageModelHead(8, 0, vocabulary=(30, 8))
        >>> head.tokens(torch.ones(3, 8), torch.ones(30, 8)).shape
        torch.Size([3, 30])
    """

    pooling: PoolingMode = "cls"
    token_rows = ("bias",)  # a row a token: they follow the tokens' strings to another tokenizer

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        vocabulary: tuple[int, int],
        activation: Activation = "gelu",
        norm_eps: float = 1e-12,
    ) -> None:
        """See the class."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; "
                "set head.activation"
            )
        if num_outputs < 0:
            raise ValueError(f"num_outputs must be >= 0, got {num_outputs}")
        rows, width = vocabulary
        self._is_pretrained = False
        self.activation: Activation = activation
        self.act = ACTIVATIONS[activation]()
        self.transform = nn.Linear(hidden_size, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.bias = nn.Parameter(torch.zeros(rows))
        layers = [self.transform]
        self.dense: nn.Linear | None = None
        self.out: nn.Linear | None = None
        if num_outputs:
            self.dense = nn.Linear(hidden_size, hidden_size)
            self.out = nn.Linear(hidden_size, num_outputs)
            layers += [self.dense, self.out]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.02)  # as in BERT
            nn.init.zeros_(layer.bias)

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this head beside its sizes."""
        return {"activation": self.activation, "norm_eps": self.norm.eps}

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Start the pair's dense layer, if there is one, from a pretrained pooler.

        Raises:
            RuntimeError: If the shapes differ.
        """
        if self.dense is not None:
            self.dense.load_state_dict(dict(state))

    def load_masked_lm(self, found: MaskedLMHead) -> tuple[bool, str]:
        """Start from the head of a pretrained masked language model.

        Args:
            found: ``Backbone.masked_lm``.

        Returns:
            Whether it was taken over, and why not, or what of this head is new all the same.

        Raises:
            RuntimeError: If the shapes differ.
            ValueError: If that head computes what this one does with other arguments.
        """
        if not found.state:
            return False, found.lacks
        if found.activation not in ACTIVATIONS:
            return False, f"that of the checkpoint has the activation {found.activation}"
        theirs = {"activation": found.activation, "norm_eps": found.norm_eps}
        wrong = {name: value for name, value in theirs.items() if value != self.args[name]}
        if wrong:
            mend = " and ".join(f"head.{name}={value}" for name, value in wrong.items())
            raise ValueError(
                f"the head of the checkpoint has {_listed(theirs)}, and this one "
                f"{_listed(self.args)}; set {mend}"
            )
        own = self.state_dict()
        fitting = {name: value for name, value in found.state.items() if name in own}
        self.load_state_dict({**own, **fitting})
        self._is_pretrained = True
        part = self.out is not None and "out.weight" not in fitting
        return True, "that of the checkpoint" + (", but new for pairs" if part else "")

    @property
    def is_new(self) -> bool:
        """Whether no token has a bias yet, as in a head that nothing was learned with."""
        return not self._is_pretrained and not bool(self.bias.any())

    @torch.no_grad()
    def start_from(self, unigram: Tensor) -> None:
        """Let the bias be what is known of the tokens without looking at the text.

        Args:
            unigram: Log-probabilities, float (tokens,); ids of the table that it lacks get the
                lowest of them.
        """
        self.bias.fill_(float(unigram.min()))
        self.bias[: len(unigram)] = unigram.to(self.bias)

    def tokens(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features (positions, hidden) to logits (positions, vocabulary).

        Args:
            hidden: Float (positions, hidden).
            table: The token embeddings, float (vocabulary, width).
        """
        features = self.norm(self.act(self.transform(hidden)))  # (positions, width)
        return nn.functional.linear(features, table.to(features.dtype), self.bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features (batch, seq, hidden) to logits of the pair (batch, num_outputs).

        Raises:
            ValueError: If the head has no such part.
        """
        if self.dense is None or self.out is None:
            raise ValueError(
                "this head judges no pairs: its data are no pairs (data.blocks.packing=pairs)"
            )
        return self.out(torch.tanh(self.dense(hidden[:, 0])))  # (batch, num_outputs)


def _listed(arguments: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={value}" for name, value in arguments.items())
