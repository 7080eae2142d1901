"""The head of an encoder-decoder that writes text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.lm_heads import LMHeadLayout
from lightning_transfer.heads.mlp import ACTIVATIONS


class DecoderHead(nn.Module):
    """What stands above a decoder, as its architecture has it: which token comes next.

    The scale of T5, the fixed bias of BART and Marian, the transform of BERT: the form is the
    backbone's, so that plain transformers opens the whole. Where the output layer is tied to the
    decoder's embeddings, the table stays the backbone's and is given to each call; else ``out`` is
    the head's own. It starts from the pretrained weights, where the backbone came with some.

    Args:
        hidden_size: Width of the decoder's features.
        num_outputs: Outputs beside the tokens, always 0.
        form: What is computed; ``Backbone.head_form``.

    Raises:
        ValueError: If ``num_outputs`` is not 0, or the form asks for an unknown activation.

    Example:
        >>> form = LMHeadLayout((30, 8), True, 1.0, "none", None, 0.0, {})
        >>> DecoderHead(8, 0, form=form)(torch.ones(3, 8), torch.ones(30, 8)).shape
        torch.Size([3, 30])
    """

    # A row a token, where it has them: they follow the tokens' strings to another tokenizer.
    token_rows = ("bias", "out.weight")

    def __init__(self, hidden_size: int, num_outputs: int, *, form: LMHeadLayout) -> None:
        """See the class."""
        super().__init__()
        if num_outputs:
            raise ValueError(
                f"a decoder's head writes tokens and has no other outputs, got {num_outputs}; "
                "choose data of texts and target texts"
            )
        if form.activation is not None and form.activation not in ACTIVATIONS:
            raise ValueError(
                f"the decoder's head has the activation {form.activation!r}; known are "
                f"{', '.join(ACTIVATIONS)}"
            )
        self.form = form
        rows, width = form.vocabulary
        if form.activation is not None:
            self.transform = nn.Linear(hidden_size, width)
            self.act = ACTIVATIONS[form.activation]()
            self.norm = nn.LayerNorm(width, eps=form.norm_eps)
            nn.init.normal_(self.transform.weight, std=0.02)  # as in BERT, arXiv:1810.04805
            nn.init.zeros_(self.transform.bias)
        self.out: nn.Linear | None = None
        if not form.tied:
            self.out = nn.Linear(width, rows, bias=False)
            nn.init.normal_(self.out.weight, std=0.02)
        if form.bias == "learned":
            self.bias = nn.Parameter(torch.zeros(rows))
        elif form.bias == "fixed":
            self.register_buffer("bias", torch.zeros(1, rows))

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this head beside its sizes and the backbone's form: nothing."""
        return {}

    def load_lm_head(self, state: Mapping[str, Tensor]) -> None:
        """Start from what stood above a pretrained decoder.

        Args:
            state: ``Backbone.lm_head_state``.

        Raises:
            KeyError: If a part is missing.
            RuntimeError: If the shapes differ.
        """
        self.load_state_dict({ours: state[paths[0]] for ours, paths in self.form.names.items()})

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map features to logits, float (…, vocabulary).

        Args:
            hidden: The decoder's features, float (…, hidden).
            table: Its embeddings, float (vocabulary, width); used if the head is tied to them.
        """
        features = hidden * self.form.scale
        if self.form.activation is not None:
            features = self.norm(self.act(self.transform(features)))  # (…, width)
        weight = table if self.out is None else self.out.weight
        logits = nn.functional.linear(features, weight.to(features.dtype))  # (…, vocabulary)
        return logits if self.form.bias == "none" else logits + self.bias
