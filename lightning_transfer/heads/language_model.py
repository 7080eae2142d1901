"""Head of BERT's pretraining: masked tokens, and pairs of texts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.masked_lm import MaskedLMHead
from lightning_transfer.heads.mlp import ACTIVATIONS, Activation
from lightning_transfer.heads.pooling import PoolingMode


class LanguageModelHead(nn.Module):
    """Logits of masked tokens by a transform and the token embeddings.

    As in BERT (arXiv:1810.04805): dense layer, activation, layer norm, and the product with the
    token embeddings plus one bias per token. The output layer is tied to the embeddings: they
    belong to the backbone and are an argument of :meth:`tokens`. With ``num_outputs`` above 0 a
    second part, computed by :meth:`forward`, classifies pairs of texts by BERT's pooler and an
    output layer. The head starts from the pretrained weights in the checkpoint of the backbone, if
    it has some.

    Args:
        hidden_size: Width of the backbone's features.
        num_outputs: Number of classes of pairs; 0 for no part for pairs.
        vocabulary: Rows and width of the token embeddings.
        activation: Activation of the transform: ``tanh``, ``relu`` or ``gelu``.
        norm_eps: Epsilon of the layer norm (1e-12 in BERT, 1e-5 in RoBERTa).

    Raises:
        ValueError: If the activation is unknown or ``num_outputs`` is negative.

    Example:
        >>> head = LanguageModelHead(8, 0, vocabulary=(30, 8))
        >>> head.tokens(torch.ones(3, 8), torch.ones(30, 8)).shape
        torch.Size([3, 30])
    """

    pooling: PoolingMode = "cls"
    # Parameters with one row per token; weight transfer matches the rows of two tokenizers by the
    # tokens' strings.
    token_rows = ("bias",)

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
                "set head.activation=gelu"
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
        """Constructor arguments besides the sizes."""
        return {"activation": self.activation, "norm_eps": self.norm.eps}

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of a pretrained pooler into the part for pairs, if there is one.

        Args:
            state: ``weight`` and ``bias`` of the pooler's dense layer.

        Raises:
            RuntimeError: If the shapes differ.
        """
        if self.dense is not None:
            self.dense.load_state_dict(dict(state))

    def load_masked_lm(self, found: MaskedLMHead) -> tuple[bool, str]:
        """Load the head of a pretrained masked language model.

        Args:
            found: ``Backbone.masked_lm``.

        Returns:
            True if it was loaded, and the reason or the parts that were not loaded.

        Raises:
            RuntimeError: If the shapes differ.
            ValueError: If activation or epsilon differ from those of this head.
        """
        if not found.state:
            return False, found.missing_reason
        if found.activation not in ACTIVATIONS:
            return False, (
                f"the head in the checkpoint has the unknown activation {found.activation}"
            )
        theirs = {"activation": found.activation, "norm_eps": found.norm_eps}
        wrong = {name: value for name, value in theirs.items() if value != self.args[name]}
        if wrong:
            mend = " ".join(f"head.{name}={value}" for name, value in wrong.items())
            raise ValueError(
                f"the head has {_format(self.args)}, but the pretrained head in the checkpoint has "
                f"{_format(theirs)}; set {mend}"
            )
        own = self.state_dict()
        fitting = {name: value for name, value in found.state.items() if name in own}
        self.load_state_dict({**own, **fitting})
        self._is_pretrained = True
        lacks_pairs = self.out is not None and "out.weight" not in fitting
        except_for = " except for the output layer of pairs" if lacks_pairs else ""
        return True, f"loaded from the checkpoint{except_for}"

    @property
    def is_new(self) -> bool:
        """True if the bias is all zero and no pretrained head was loaded."""
        # The bias of a pretrained head may be zero as well.
        return not self._is_pretrained and not bool(self.bias.any())

    @torch.no_grad()
    def init_bias(self, unigram: Tensor) -> None:
        """Set the bias to the log-probabilities of the tokens, regardless of their context.

        Args:
            unigram: Log-probabilities, float (tokens,). Rows of the token embeddings beyond them
                get the lowest value.
        """
        self.bias.fill_(float(unigram.min()))
        self.bias[: len(unigram)] = unigram.to(self.bias)

    def tokens(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features to logits over the vocabulary.

        Args:
            hidden: Features at any positions, float (positions, hidden).
            table: Token embeddings, float (vocabulary, width).

        Returns:
            Logits, float (positions, vocabulary).
        """
        features = self.norm(self.act(self.transform(hidden)))  # (positions, width)
        return nn.functional.linear(features, table.to(features.dtype), self.bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token features to the logits of pairs.

        Args:
            hidden: Float (batch, seq, hidden); the first token is read.
            attention_mask: Ignored.

        Returns:
            Logits, float (batch, num_outputs).

        Raises:
            ValueError: If the head has no part for pairs.
        """
        if self.dense is None or self.out is None:
            raise ValueError(
                "this head has no output for pairs of texts, because its data has no pairs; set "
                "data.blocks.packing=pairs"
            )
        return self.out(torch.tanh(self.dense(hidden[:, 0])))  # (batch, num_outputs)


def _format(arguments: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={value}" for name, value in arguments.items())
