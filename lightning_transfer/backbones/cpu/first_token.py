"""A top layer that computes what a head over the first token reads, and no more."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.backbones.cpu.attention import goes_through_the_interface
from lightning_transfer.utils.modes import evaluating

_HIDDEN, _MASK = "hidden_states", "attention_mask"
# Whether the short form of a layer gave what its own forward gives, seen on its first batch.
_AGREES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output")
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")


@contextmanager
def first_token_only(layer: nn.Module | None) -> Iterator[None]:
    """Let a model's top layer give the first token's output alone, float (batch, 1, hidden).

    Keys and values are still those of all tokens, but queries, output projection and feed-forward
    part are computed for one, which leaves a sixth of the layer's matrix multiply. Known are the
    layers of BERT and DistilBERT and those built like them, found by the names of their parts; the
    first batch, computed both ways in eval mode, has to confirm it. Any other layer computes all
    tokens, as does one whose inner modules have hooks or that is checkpointed: slice the output
    with ``[:, :1]`` in any case.

    Args:
        layer: The top layer, with nothing but per-token modules above it. None: nothing changes.
    """
    short = None if layer is None else _short_form(layer)
    if layer is None or short is None:
        yield
        return
    layer.forward = partial(_forward, layer, short)
    try:
        yield
    finally:
        layer.__dict__.pop("forward", None)


def _forward(layer: nn.Module, short: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Run a layer in its short form, if it may."""
    whole = partial(type(layer).forward, layer)
    hidden = args[0] if args else kwargs.get(_HIDDEN)
    mask = args[1] if len(args) > 1 else kwargs.get(_MASK)
    # A mask of another form is one of an attention that takes no single query.
    if hidden is None or hidden.shape[1] == 1 or not (mask is None or mask.dim() == 4):
        return whole(*args, **kwargs)
    rest = {name: kwargs[name] for name in kwargs if name not in (_HIDDEN, _MASK)}
    if layer not in _AGREES:
        with evaluating(layer), torch.no_grad():
            _AGREES[layer] = _close(whole(*args, **kwargs), short(layer, hidden, mask, rest))
    return short(layer, hidden, mask, rest) if _AGREES[layer] else whole(*args, **kwargs)


def _close(whole: Any, first: Tensor) -> bool:
    """Whether (batch, 1, hidden) is the first of (batch, seq, hidden), but for rounding."""
    if not torch.is_tensor(whole):
        return False
    tolerance = min(64 * torch.finfo(first.dtype).eps, 0.05)  # the latter of 16-bit types
    worst = (whole[:, :1] - first).abs().max()
    return bool(worst <= tolerance * whole[:, :1].abs().max())


def _short_form(layer: nn.Module) -> Callable[..., Tensor] | None:
    """Return the short form of a layer, or None where it has none."""
    names = dict(layer.named_modules())
    passed: tuple[str, ...]  # whose own forward does not run
    if all(name in names for name in _BERT) and hasattr(layer, "feed_forward_chunk"):
        passed, inner, short = ("attention", "attention.self"), "attention.self", _bert
    elif all(name in names for name in (*_DISTILBERT, "sa_layer_norm", "ffn")):
        passed, inner, short = ("attention",), "attention", _distilbert
    else:
        return None
    if (
        any(_watched(names[name]) for name in passed)
        or layer._forward_hooks
        or layer._backward_hooks
        or "forward" in vars(layer)
        or getattr(layer, "gradient_checkpointing", False)
        or getattr(names[inner], "is_causal", False)
        or not goes_through_the_interface(names[inner])
    ):
        return None
    return short


def _watched(module: nn.Module) -> bool:
    """Whether more than its own forward runs when a module is called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or bool(module._backward_pre_hooks) or "forward" in vars(module)


def _bert(layer: Any, hidden: Tensor, mask: Tensor | None, rest: dict[str, Any]) -> Tensor:
    """Compute the first token through a layer of BERT, float (batch, 1, hidden)."""
    inner, first = layer.attention.self, hidden[:, :1]  # (batch, 1, hidden)
    projections = (inner.query, inner.key, inner.value)
    context = _context(inner, projections, hidden, mask, rest)
    return layer.feed_forward_chunk(layer.attention.output(context, first))  # (batch, 1, hidden)


def _distilbert(layer: Any, hidden: Tensor, mask: Tensor | None, rest: dict[str, Any]) -> Tensor:
    """Compute the first token through a layer of DistilBERT, float (batch, 1, hidden)."""
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
    """Attend from the first token to all, by the module's own function; (batch, 1, heads * width).

    Args:
        inner: The attention module.
        projections: To queries, keys and values.
        hidden: Float (batch, seq, hidden).
        mask: (batch, 1 or heads, seq, seq), or None.
        rest: What the layer was given beside these.
    """
    query, key, value = projections
    sources = ((query, hidden[:, :1]), (key, hidden), (value, hidden))
    width = inner.attention_head_size
    states = [
        module(source).unflatten(-1, (-1, width)).transpose(1, 2)  # (batch, heads, 1 or seq, width)
        for module, source in sources
    ]
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
