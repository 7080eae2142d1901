"""Replacement of dropout and attention in a model by the optimised CPU code."""

import copy

from torch import nn

from lightning_transfer.backbones.cpu.attention import (
    SDPA_DROPOUT,
    register,
    uses_attention_interface,
)
from lightning_transfer.backbones.cpu.dropout import FastDropout


def install(model: nn.Module) -> None:
    """Make a model train with the dropout and the attention of this package.

    Parameter names, weights, the model's config and its output in eval mode do not change.

    Args:
        model: Changed in place. Every ``nn.Dropout`` becomes a :class:`FastDropout`, and every
            attention module with the implementation ``sdpa`` uses :func:`~.attention.attend`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
        >>> install(model)
        >>> model[1]
        FastDropout(p=0.1, inplace=False)
    """
    register()
    configs: dict[int, object] = {}
    for module in model.modules():
        # Only torch's own class: a subclass may compute something else.
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout  # in place, so that hooks and references stay valid
        elif uses_attention_interface(module):
            config: object = module.config
            if getattr(config, "_attn_implementation", None) == "sdpa":
                # A copy for the attention modules only: the model's own config selects the kind of
                # mask and is saved with the weights.
                module.config = configs.setdefault(id(config), _with_fast_attention(config))  # type: ignore


def _with_fast_attention(config: object) -> object:
    changed = copy.copy(config)
    changed._attn_implementation = SDPA_DROPOUT  # type: ignore[attr-defined]
    return changed
