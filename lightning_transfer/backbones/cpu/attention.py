"""Scaled dot-product attention with cheap dropout on the CPU."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.backbones.cpu.dropout import keep_mask, rounded

SDPA_DROPOUT = "lightning_transfer_sdpa"
"""Name of :func:`attend` in transformers' attention interface."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def register() -> None:
    """Register :func:`attend` in transformers' attention interface as :data:`SDPA_DROPOUT`."""
    AttentionInterface.register(SDPA_DROPOUT, attend)


def uses_attention_interface(module: nn.Module) -> bool:
    """Return True for an attention module that calls a registered attention function."""
    # transformers has no attribute for it. Instead the code of `forward`, without decorators, must
    # refer to the interface by name.
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
    """Compute attention with the arguments and the output of transformers' ``sdpa``.

    With dropout torch has no fused CPU implementation: ``scaled_dot_product_attention`` uses its
    math backend, which draws a random number for each weight and stores several copies of the
    weights. This function has a handwritten backward pass, which stores the weights and a mask of
    one byte per weight. Without dropout or on another device it calls ``sdpa``.

    Difference: the output for a query without any visible key is the mean of the values here, and
    zero in ``sdpa``.

    Args:
        module: Attention module; its ``is_causal`` is the default of the argument.
        query: Float (batch, heads, seq, width).
        key: Float (batch, heads, keys, width).
        value: Float (batch, heads, keys, width).
        attention_mask: True or 0 for visible keys, False or a large negative number for others;
            broadcasts to (batch, heads, seq, keys). None if all keys are visible.
        dropout: Probability of dropping a weight, in [0, 1], rounded to a multiple of 1/65536.
        scaling: Factor of the products of queries and keys; None for ``width ** -0.5``.
        is_causal: Hide later keys from each query; ignored with a mask.
        rest: Other arguments of ``sdpa``.

    Returns:
        Float (batch, seq, heads, width), and None in place of the attention weights.
    """
    inputs = _cast(query, key, value)
    p = rounded(dropout)
    if not 0 < p < 1 or not _is_supported(*inputs, attention_mask) or _has_extras(module, rest):
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
        # As in sdpa, the first query sees the first key, even if there are more keys than queries.
        attention_mask = torch.ones(size, keys, dtype=torch.bool).tril()  # (seq, keys)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _Attention.apply(*inputs, attention_mask, _Settings(scale, p))
    return out, None


def _cast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert the inputs as autocast does for ``scaled_dot_product_attention``."""
    # Autocast does not convert float64.
    if not torch.is_autocast_enabled("cpu") or query.dtype == torch.float64:
        return query, key, value
    dtype = torch.get_autocast_dtype("cpu")
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _is_supported(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Return True for tensors that :class:`_Attention` can process."""
    return (
        query.device.type == "cpu"
        and query.dtype in _DTYPES
        and query.dtype == key.dtype == value.dtype
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and not (mask is not None and mask.requires_grad)
        and not torch.compiler.is_compiling()
    )


def _has_extras(module: Any, rest: dict[str, Any]) -> bool:
    """Return True if a call needs more than queries, keys, values and a mask."""
    extras = ("position_bias", "cache", "softcap", "output_attentions")
    groups = getattr(module, "num_key_value_groups", 1)
    return groups > 1 or any(rest.get(name) is not None for name in extras)


class _Settings(NamedTuple):
    scale: float
    p: float


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the attention weights, (batch * heads, seq, keys)."""
    # No operation in place on an intermediate result: backward differentiates this function.
    batch, heads, size, width = query.shape
    flat = (tensor.reshape(batch * heads, -1, width) for tensor in (query, key))
    scores = torch.bmm(next(flat), next(flat).transpose(1, 2)) * scale  # (batch*heads, seq, keys)
    if mask is not None:
        grid = scores.view(batch, heads, size, -1)  # (batch, heads, seq, keys)
        # Not -inf, which gives NaN for a query without visible keys. The weight is 0 as well.
        lowest = torch.finfo(scores.dtype).min
        grid = grid.masked_fill(~mask, lowest) if mask.dtype == torch.bool else grid + mask
        scores = grid.view_as(scores)
    return scores.softmax(dim=-1)


def _weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """Return sums of values (batch, heads, keys, width) as (batch, seq, heads, width)."""
    batch, heads, keys, width = value.shape
    out = torch.bmm(weights, value.reshape(batch * heads, keys, width))
    return out.view(batch, heads, -1, width).transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """Attention with dropout that stores its inputs, the weights and one byte per weight."""

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
        # The inputs already have autocast's dtype, see `_cast`.
        with torch.autocast("cpu", enabled=False):
            weights = _weights(query, key, mask, settings.scale)
            kept = keep_mask(weights.shape, settings.p)
            ctx.save_for_backward(query, key, value, mask, weights, kept)
            return _weighted_values((weights * kept).mul_(1 / (1 - settings.p)), value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, weights, kept = ctx.saved_tensors
        scale, rest = ctx.settings.scale, 1 / (1 - ctx.settings.p)
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                # With create_graph=True the result is differentiated again, so the forward pass is
                # repeated with differentiable operations and the same mask.
                again = _weights(query, key, mask, scale) * kept * rest
                inputs = [x for x in (query, key, value) if x.requires_grad]
                found = torch.autograd.grad(
                    _weighted_values(again, value), inputs, grads[0], create_graph=True
                )
                in_turn = iter(found)
                needed = ctx.needs_input_grad[:3]
                return (*(next(in_turn) if need else None for need in needed), None, None)
            batch, heads, _, width = query.shape
            flat = (batch * heads, -1, width)
            grad = grads[0].transpose(1, 2).reshape(flat)  # (batch*heads, seq, width)
            by_weights = torch.bmm(grad, value.reshape(flat).transpose(1, 2)).mul_(kept).mul_(rest)
            by_value = torch.bmm((weights * kept).mul_(rest).transpose(1, 2), grad)
            # Gradient of the softmax p with incoming gradient g: p * g - p * sum(p * g)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            del by_weights  # one tensor (batch*heads, seq, keys) less at the peak
            by_scores.mul_(scale)
            by_query = torch.bmm(by_scores, key.reshape(flat))  # (batch*heads, seq, width)
            by_key = torch.bmm(by_scores.transpose(1, 2), query.reshape(flat))
            return by_query.view_as(query), by_key.view_as(key), by_value.view_as(value), None, None
