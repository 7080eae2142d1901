"""Make a head that fits a backbone."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

HeadFactory = Callable[..., nn.Module]


def make_head(factory: HeadFactory, backbone: nn.Module, num_outputs: int) -> nn.Module:
    """Build a head of a backbone's sizes; the one place where heads are built.

    Args:
        factory: Called with ``(hidden_size, num_outputs)``, and with ``vocabulary`` if it has such
            an argument: the shape of the backbone's table of token embeddings; or with ``form``:
            what the backbone's architecture computes above its decoder.
        backbone: Shows ``hidden_size`` and, for heads that ask for it, ``token_embeddings`` or
            ``head_form``.
        num_outputs: Outputs that the labels ask for.

    Raises:
        ValueError: If the backbone does not show what the head needs.
    """
    size = getattr(backbone, "hidden_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"{type(backbone).__name__} shows no `hidden_size`, the width of its features; got "
            f"{size!r}"
        )
    asked = inspect.signature(factory).parameters
    if "form" in asked:
        return factory(size, num_outputs, form=_form_of(backbone))
    if "vocabulary" not in asked:
        return factory(size, num_outputs)
    table = getattr(backbone, "token_embeddings", None)
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"{type(backbone).__name__} shows no `token_embeddings`, the nn.Embedding that a "
            f"language model's head is tied to; got {table!r}"
        )
    return factory(size, num_outputs, vocabulary=(table.num_embeddings, table.embedding_dim))


def _form_of(backbone: nn.Module) -> Any:
    if not getattr(backbone, "is_encoder_decoder", False):
        raise ValueError(
            f"a decoder's head needs an encoder-decoder, and {_called(backbone)} is none; choose "
            "T5, BART, Marian or backbone=warm_start, or another head"
        )
    return backbone.head_form


def _called(backbone: nn.Module) -> str:
    return type(getattr(backbone, "model", backbone)).__name__
