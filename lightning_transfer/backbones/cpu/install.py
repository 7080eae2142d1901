"""Put the faster forms into a model."""

import copy

from torch import nn

from lightning_transfer.backbones.cpu.attention import (
    SDPA_DROPOUT,
    goes_through_the_interface,
    register,
)
from lightning_transfer.backbones.cpu.dropout import FastDropout


def install(model: nn.Module) -> None:
    """Let a model train with the dropout and the attention of this package, in place.

    Names of parameters, weights, the model's config and its output in eval mode stay as they are.

    Args:
        model: Every ``nn.Dropout`` in it becomes a :class:`FastDropout`, and every attention of
            transformers that would use ``sdpa`` uses :func:`~.attention.attend`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
        >>> install(model)
        >>> model[1]
        FastDropout(p=0.1, inplace=False)
    """
    register()
    configs: dict[int, object] = {}
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout  # its hooks and its place stay
        elif goes_through_the_interface(module):
            config: object = module.config
            if getattr(config, "_attn_implementation", None) == "sdpa":
                # The attention alone: masks are made by the model's own config, which is exported.
                module.config = configs.setdefault(id(config), _changed(config))  # type: ignore


def _changed(config: object) -> object:
    changed = copy.copy(config)
    changed._attn_implementation = SDPA_DROPOUT  # type: ignore[attr-defined]
    return changed
