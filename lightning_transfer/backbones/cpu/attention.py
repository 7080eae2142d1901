"""Attention with dropout that costs little on a CPU."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.backbones.cpu.dropout import keep_mask, rounded

SDPA_DROPOUT = "lightning_transfer_sdpa"
"""What transformers knows the attention of this file by."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def register() -> None:
    """Make the attention of this file known to transformers, under a name that is ours alone."""
    AttentionInterface.register(SDPA_DROPOUT, attend)


def goes_through_the_interface(module: nn.Module) -> bool:
    """Whether a module computes attention by a function that transformers lets one register."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return (
        hasattr(module, "config")
        and code is not None
        and "ALL_ATTENTION_FUNCTIONS" in (*code.co_names, *code.co_freevars)
    )


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> Any:
    """Compute attention as ``sdpa`` of transformers does, whose arguments and output these are.

    With dropout torch has no fused kernel for the CPU: ``scaled_dot_product_attention`` goes
    through its math path, which draws a number for each weight and keeps several copies of them.
    Here the backward pass is written by hand and keeps the weights and a mask of one byte each.
    All else, without dropout or on another device, is left to ``sdpa``.

    A query that sees no key at all gets the mean of the values here, and zeros of ``sdpa``.

    Args:
        module: Its ``is_causal`` counts where the argument is None.
        query: Float (batch, heads, seq, width).
        key: Float (batch, heads, keys, width).
        value: Float (batch, heads, keys, width).
        attention_mask: True or 0 for what is seen, False or a large negative number for what is
            not; broadcasts to (batch, heads, seq, keys). None: everything is seen.
        dropout: Probability of dropping a weight, in [0, 1], rounded to a multiple of 1/65536.
        scaling: Factor of the products; None: ``width ** -0.5``.
        is_causal: Whether a query sees no later key; only without a mask.
        rest: What ``sdpa`` may be given beside these.

    Returns:
        Float (batch, seq, heads, width), and None in place of the weights.
    """
    inputs = _cast(query, key, value)
    p = rounded(dropout)
    if not 0 < p < 1 or not _known(*inputs, attention_mask) or _special(module, rest):
        return AttentionInterface()["sdpa"](
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **rest,
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    size, keys = query.shape[2], key.shape[2]
    if causal and attention_mask is None and size > 1:
        # As sdpa has it, the first query sees the first key, whatever the number of keys.
        attention_mask = torch.ones(size, keys, dtype=torch.bool).tril()  # (seq, keys)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _Attention.apply(*inputs, attention_mask, _Settings(scale, p))
    return out, None


def _cast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert as autocast does for ``scaled_dot_product_attention``."""
    if not torch.is_autocast_enabled("cpu") or query.dtype == torch.float64:  # left as it is
        return query, key, value
    dtype = torch.get_autocast_dtype("cpu")
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _known(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether these are tensors that the code below is written for."""
    return (
        query.device.type == "cpu"
        and query.dtype in _DTYPES
        and query.dtype == key.dtype == value.dtype
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and not (mask is not None and mask.requires_grad)
        and not torch.compiler.is_compiling()
    )


def _special(module: Any, rest: dict[str, Any]) -> bool:
    """Whether more is asked for than queries, keys, values and a mask."""
    asked = ("position_bias", "cache", "softcap", "output_attentions")
    groups = getattr(module, "num_key_value_groups", 1)
    return groups > 1 or any(rest.get(name) is not None for name in asked)


class _Settings(NamedTuple):
    scale: float
    p: float


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the weights (batch * heads, seq, keys) of queries and keys, heads laid side by side.

    Out of place in nothing but the first product, so that it can be differentiated as it stands.
    """
    batch, heads, size, width = query.shape
    flat = (tensor.reshape(batch * heads, -1, width) for tensor in (query, key))
    scores = torch.bmm(next(flat), next(flat).transpose(1, 2)) * scale  # (batch*heads, seq, keys)
    if mask is not None:
        grid = scores.view(batch, heads, size, -1)  # (batch, heads, seq, keys)
        # The lowest number and not -inf: its weight is 0 all the same, and never NaN.
        lowest = torch.finfo(scores.dtype).min
        grid = grid.masked_fill(~mask, lowest) if mask.dtype == torch.bool else grid + mask
        scores = grid.view_as(scores)
    return scores.softmax(dim=-1)


def _gather(weights: Tensor, value: Tensor) -> Tensor:
    """Return the mean of values (batch, heads, keys, width): (batch, seq, heads, width)."""
    batch, heads, keys, width = value.shape
    out = torch.bmm(weights, value.reshape(batch * heads, keys, width))
    return out.view(batch, heads, -1, width).transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """Attention with dropout; keeps its inputs, the weights and one byte for each of them."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        settings: _Settings,
    ) -> Tensor:
        ctx.settings = settings
        with torch.autocast("cpu", enabled=False):
            weights = _weights(query, key, mask, settings.scale)
            kept = keep_mask(weights.shape, settings.p)
            ctx.save_for_backward(query, key, value, mask, weights, kept)
            return _gather((weights * kept).mul_(1 / (1 - settings.p)), value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, weights, kept = ctx.saved_tensors
        scale, rest = ctx.settings.scale, 1 / (1 - ctx.settings.p)
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():  # to be differentiated again, so by plain operations
                again = _weights(query, key, mask, scale) * kept * rest
                inputs = [x for x in (query, key, value) if x.requires_grad]
                found = torch.autograd.grad(
                    _gather(again, value), inputs, grads[0], create_graph=True
                )
                in_turn = iter(found)
                wanted = ctx.needs_input_grad[:3]
                return (*(next(in_turn) if want else None for want in wanted), None, None)
            batch, heads, _, width = query.shape
            flat = (batch * heads, -1, width)
            grad = grads[0].transpose(1, 2).reshape(flat)  # (batch*heads, seq, width)
            into = torch.bmm(grad, value.reshape(flat).transpose(1, 2)).mul_(kept).mul_(rest)
            by_value = torch.bmm((weights * kept).mul_(rest).transpose(1, 2), grad)
            # (p * g) - p * sum(p * g): what a softmax hands back
            into = torch._softmax_backward_data(into, weights, -1, weights.dtype).mul_(scale)
            by_query = torch.bmm(into, key.reshape(flat))  # (batch*heads, seq, width)
            by_key = torch.bmm(into.transpose(1, 2), query.reshape(flat))
            return by_query.view_as(query), by_key.view_as(key), by_value.view_as(value), None, None
