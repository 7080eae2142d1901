"""Construction of a head for a backbone."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

HeadFactory = Callable[..., nn.Module]


def make_head(factory: HeadFactory, backbone: nn.Module, num_outputs: int) -> nn.Module:
    """Build a head with the sizes of a backbone.

    Args:
        factory: Called with ``(hidden_size, num_outputs)``. If it has a parameter ``vocabulary``,
            it gets the shape of the token embeddings; if it has a parameter ``layout``, it gets the
            layout of the backbone's language modelling head.
        backbone: Has ``hidden_size``, and for these two parameters ``token_embeddings`` or
            ``lm_head_layout``.
        num_outputs: Number of outputs for the labels.

    Raises:
        ValueError: If the backbone lacks an attribute for the head.
    """
    size = getattr(backbone, "hidden_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"{type(backbone).__name__} has no `hidden_size`, the width of its features as an "
            f"integer, got {size!r}"
        )
    # Heads are also partials and user classes, so their signature decides.
    parameters = inspect.signature(factory).parameters
    if "layout" in parameters:
        return factory(size, num_outputs, layout=_lm_head_layout_of(backbone))
    if "vocabulary" not in parameters:
        return factory(size, num_outputs)
    table = getattr(backbone, "token_embeddings", None)
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"{type(backbone).__name__} has no `token_embeddings`, the nn.Embedding that the head "
            f"of a language model is tied to, got {table!r}"
        )
    return factory(size, num_outputs, vocabulary=(table.num_embeddings, table.embedding_dim))


def _lm_head_layout_of(backbone: nn.Module) -> Any:
    if not getattr(backbone, "is_encoder_decoder", False):
        name = type(getattr(backbone, "model", backbone)).__name__
        raise ValueError(
            f"the head of a decoder needs an encoder-decoder, got {name}; choose T5, BART, Marian "
            "or backbone=warm_start, or another head"
        )
    return backbone.lm_head_layout
