"""Top layer that computes only the first token, for heads with CLS pooling."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.backbones.cpu.attention import uses_attention_interface
from lightning_transfer.utils.modes import evaluating

_HIDDEN, _MASK = "hidden_states", "attention_mask"
# Layer, to the result of the comparison of its short forward with its own on the first batch.
_AGREES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
# Submodules of a layer, for recognising its architecture.
_BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output")
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")


@contextmanager
def first_token_only(layer: nn.Module | None) -> Iterator[None]:
    """Make the top layer of a model compute only the output of the first token.

    Keys and values are still computed for all tokens, but queries, output projection and
    feed-forward part only for the first. This leaves a sixth of the layer's matrix multiplications.
    Layers of BERT, DistilBERT and similar architectures are recognised by the names of their
    submodules, and must pass a comparison with the full layer on the first batch, in eval mode. All
    other layers compute all tokens, and so do layers with hooks on inner modules or with gradient
    checkpointing. The caller therefore has to slice the output with ``[:, :1]`` in any case.

    Args:
        layer: Top layer, with only per-token modules above it; None for no change.
    """
    short = None if layer is None else _short_forward(layer)
    if layer is None or short is None:
        yield
        return
    # In the instance's __dict__, where it precedes the method of the class.
    layer.forward = partial(_forward, layer, short)
    try:
        yield
    finally:
        layer.__dict__.pop("forward", None)


def _forward(layer: nn.Module, short: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Run the short forward of a layer if it is valid for these arguments, else its own."""
    whole = partial(type(layer).forward, layer)
    hidden = args[0] if args else kwargs.get(_HIDDEN)
    mask = args[1] if len(args) > 1 else kwargs.get(_MASK)
    # `_context` slices 4-D masks only; flash attention, for example, has a 2-D mask.
    if hidden is None or hidden.shape[1] == 1 or not (mask is None or mask.dim() == 4):
        return whole(*args, **kwargs)
    rest = {name: kwargs[name] for name in kwargs if name not in (_HIDDEN, _MASK)}
    if layer not in _AGREES:
        # Eval mode, so that no random number is drawn and dropout makes no difference.
        with evaluating(layer), torch.no_grad():
            _AGREES[layer] = _is_close(whole(*args, **kwargs), short(layer, hidden, mask, rest))
    return short(layer, hidden, mask, rest) if _AGREES[layer] else whole(*args, **kwargs)


def _is_close(whole: Any, first: Tensor) -> bool:
    """Return True if (batch, 1, hidden) is the start of (batch, seq, hidden) up to rounding."""
    if not torch.is_tensor(whole):
        return False
    tolerance = min(64 * torch.finfo(first.dtype).eps, 0.05)  # 0.05 applies to 16-bit dtypes
    worst = (whole[:, :1] - first).abs().max()
    return bool(worst <= tolerance * whole[:, :1].abs().max())


def _short_forward(layer: nn.Module) -> Callable[..., Tensor] | None:
    """Return the short forward of a layer, or None if it must compute all tokens."""
    names = dict(layer.named_modules())
    bypassed: tuple[str, ...]  # modules whose own forward does not run
    if all(name in names for name in _BERT) and hasattr(layer, "feed_forward_chunk"):
        bypassed, inner, short = ("attention", "attention.self"), "attention.self", _bert
    elif all(name in names for name in (*_DISTILBERT, "sa_layer_norm", "ffn")):
        bypassed, inner, short = ("attention",), "attention", _distilbert
    else:
        return None
    # A hook or a replaced forward of a bypassed module would be skipped. A hook on the layer itself
    # may need all tokens.
    if (
        any(_has_hooks(names[name]) for name in bypassed)
        or layer._forward_hooks
        or layer._backward_hooks
        or "forward" in vars(layer)
        or getattr(layer, "gradient_checkpointing", False)
        or getattr(names[inner], "is_causal", False)
        or not uses_attention_interface(names[inner])
    ):
        return None
    return short


def _has_hooks(module: nn.Module) -> bool:
    """Return True if a call of a module runs more than the forward of its class."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or bool(module._backward_pre_hooks) or "forward" in vars(module)


def _bert(layer: Any, hidden: Tensor, mask: Tensor | None, rest: dict[str, Any]) -> Tensor:
    """Compute the first token of a BERT layer, float (batch, 1, hidden)."""
    inner, first = layer.attention.self, hidden[:, :1]  # (batch, 1, hidden)
    projections = (inner.query, inner.key, inner.value)
    context = _context(inner, projections, hidden, mask, rest)
    return layer.feed_forward_chunk(layer.attention.output(context, first))  # (batch, 1, hidden)


def _distilbert(layer: Any, hidden: Tensor, mask: Tensor | None, rest: dict[str, Any]) -> Tensor:
    """Compute the first token of a DistilBERT layer, float (batch, 1, hidden)."""
    inner, first = layer.attention, hidden[:, :1]  # (batch, 1, hidden)
    projections = (inner.q_lin, inner.k_lin, inner.v_lin)
    context = inner.out_lin(_context(inner, projections, hidden, mask, rest))  # (batch, 1, hidden)
    attended = layer.sa_layer_norm(context + first)
    return layer.output_layer_norm(layer.ffn(attended) + attended)  # (batch, 1, hidden)


def _context(
    inner: Any,
    projections: tuple[nn.Module, nn.Module, nn.Module],
    hidden: Tensor,
    mask: Tensor | None,
    rest: dict[str, Any],
) -> Tensor:
    """Compute the attention of the first token to all tokens, with the module's own function.

    Args:
        inner: Attention module.
        projections: Modules for queries, keys and values.
        hidden: Float (batch, seq, hidden).
        mask: (batch, 1 or heads, seq, seq), or None.
        rest: Other arguments of the layer.

    Returns:
        Float (batch, 1, heads * width).
    """
    query, key, value = projections
    sources = ((query, hidden[:, :1]), (key, hidden), (value, hidden))
    width = inner.attention_head_size
    states = [
        module(source).unflatten(-1, (-1, width)).transpose(1, 2)  # (batch, heads, 1 or seq, width)
        for module, source in sources
    ]
    # "eager" is not in the interface: each architecture has its own function for it.
    eager = getattr(sys.modules[type(inner).__module__], "eager_attention_forward", None)
    attend: Any = AttentionInterface().get(inner.config._attn_implementation, eager)
    context, _ = attend(
        inner,
        *states,
        None if mask is None else mask[:, :, :1],  # (batch, 1 or heads, 1, seq)
        dropout=inner.dropout.p if inner.training else 0.0,
        scaling=inner.scaling,
        **rest,
    )
    return context.reshape(len(hidden), 1, -1)  # (batch, 1, heads * width)
