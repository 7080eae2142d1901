"""Make a head that fits a backbone."""

import inspect
from collections.abc import Callable

from torch import nn

HeadFactory = Callable[..., nn.Module]


def make_head(factory: HeadFactory, backbone: nn.Module, num_outputs: int) -> nn.Module:
    """Build a head of a backbone's sizes; the one place where heads are built.

    Args:
        factory: Called with ``(hidden_size, num_outputs)``, and with ``vocabulary`` if it has such
            an argument: the shape of the backbone's table of token embeddings.
        backbone: Shows ``hidden_size`` and, for heads that ask for it, ``token_embeddings``.
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
    if "vocabulary" not in inspect.signature(factory).parameters:
        return factory(size, num_outputs)
    table = getattr(backbone, "token_embeddings", None)
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"{type(backbone).__name__} shows no `token_embeddings`, the nn.Embedding that a "
            f"language model's head is tied to; got {table!r}"
        )
    return factory(size, num_outputs, vocabulary=(table.num_embeddings, table.embedding_dim))
