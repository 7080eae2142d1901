"""Language modelling head of an encoder-decoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.lm_heads import LMHeadLayout
from lightning_transfer.heads.mlp import ACTIVATIONS


class DecoderHead(nn.Module):
    """Logits of the next target token, computed as in the architecture of the backbone.

    Examples are the scale of T5, the fixed bias of BART and Marian, and the transform of BERT.
    Because the computation is that of the architecture, plain transformers can load the trained
    model. An output layer tied to the decoder's embeddings has no weights in the head: the
    embeddings are an argument of :meth:`forward`. Otherwise ``out`` is the output layer. The head
    starts from the pretrained weights of the backbone, if it has some.

    Args:
        hidden_size: Width of the decoder's features.
        num_outputs: Number of outputs besides the tokens; must be 0.
        layout: Computation of the head; ``Backbone.lm_head_layout``.

    Raises:
        ValueError: If ``num_outputs`` is not 0, or the activation of the layout is unknown.

    Example:
        >>> layout = LMHeadLayout((30, 8), True, 1.0, "none", None, 0.0, {})
        >>> DecoderHead(8, 0, layout=layout)(torch.ones(3, 8), torch.ones(30, 8)).shape
        torch.Size([3, 30])
    """

    # Parameters with one row per token; weight transfer matches the rows of two tokenizers by the
    # tokens' strings.
    token_rows = ("bias", "out.weight")

    def __init__(self, hidden_size: int, num_outputs: int, *, layout: LMHeadLayout) -> None:
        """See the class."""
        super().__init__()
        if num_outputs:
            raise ValueError(
                f"DecoderHead predicts tokens only, so num_outputs must be 0, got {num_outputs}; "
                "choose data with texts and target texts"
            )
        if layout.activation is not None and layout.activation not in ACTIVATIONS:
            raise ValueError(
                "the activation of the decoder's head must be one of "
                f"{', '.join(ACTIVATIONS)}, got {layout.activation!r}; choose another backbone"
            )
        self.layout = layout
        rows, width = layout.vocabulary
        if layout.activation is not None:
            self.transform = nn.Linear(hidden_size, width)
            self.act = ACTIVATIONS[layout.activation]()
            self.norm = nn.LayerNorm(width, eps=layout.norm_eps)
            nn.init.normal_(self.transform.weight, std=0.02)  # as in BERT, arXiv:1810.04805
            nn.init.zeros_(self.transform.bias)
        self.out: nn.Linear | None = None
        if not layout.tied:
            self.out = nn.Linear(width, rows, bias=False)
            nn.init.normal_(self.out.weight, std=0.02)
        if layout.bias == "learned":
            self.bias = nn.Parameter(torch.zeros(rows))
        elif layout.bias == "fixed":
            self.register_buffer("bias", torch.zeros(1, rows))

    @property
    def args(self) -> dict[str, Any]:
        """Constructor arguments besides the sizes and the backbone's layout; empty."""
        return {}

    def load_lm_head(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of a pretrained language modelling head.

        Args:
            state: ``Backbone.lm_head_state``.

        Raises:
            KeyError: If a weight is missing.
            RuntimeError: If the shapes differ.
        """
        self.load_state_dict({ours: state[paths[0]] for ours, paths in self.layout.names.items()})

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features to logits.

        Args:
            hidden: Features of the decoder, float (..., hidden).
            table: Embeddings of the decoder, float (vocabulary, width); used by a tied head.

        Returns:
            Logits, float (..., vocabulary).
        """
        features = hidden * self.layout.scale
        if self.layout.activation is not None:
            features = self.norm(self.act(self.transform(features)))  # (..., width)
        weight = table if self.out is None else self.out.weight
        logits = nn.functional.linear(features, weight.to(features.dtype))  # (..., vocabulary)
        return logits if self.layout.bias == "none" else logits + self.bias
