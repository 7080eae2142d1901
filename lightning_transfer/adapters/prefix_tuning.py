"""Learned keys and values that every token can attend to."""

import copy
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import root_of
from lightning_transfer.backbones.cpu import goes_through_the_interface

_IMPLEMENTATION = "lightning_transfer_prefix"
_KNOWN = ("sdpa", "eager")  # whose masks are tensors that end with the keys
_CHILD = "prefix"
_STD = 0.02


class _Prefix(nn.Module):
    """Keys and values (heads, length, width of a head), and the attention that they extend."""

    def __init__(self, heads: int, length: int, width: int, implementation: str) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(heads, length, width) * _STD)
        self.value = nn.Parameter(torch.randn(heads, length, width) * _STD)
        self.implementation = implementation

    def extend(self, states: Tensor, prefix: Tensor) -> Tensor:
        """Put a prefix before (batch, heads, seq, width): (batch, heads, length + seq, width)."""
        before = prefix.to(states.dtype).expand(len(states), -1, -1, -1)
        return torch.cat([before, states], dim=2)  # (batch, heads, length + seq, width)

    def extend_mask(self, mask: Tensor | None) -> Tensor | None:
        """Let every token see the prefix: the last axis of a mask grows by its length.

        True is what is seen in a boolean mask, 0 in one that is added.
        """
        if mask is None:
            return None
        seen = mask.new_full((*mask.shape[:-1], self.key.shape[1]), not mask.is_floating_point())
        return torch.cat([seen, mask], dim=-1)  # (..., length + seq)


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Adapter):
    """Prefix tuning: in every layer, keys and values that train, before those of the text.

    Li & Liang 2021 (arXiv:2101.00190). Differences: they reparametrise the prefix through an MLP
    and start it from activations of real words; here keys and values train directly, as in
    P-tuning v2 (arXiv:2110.07602), and start small and random. So the first output is not the base
    model's.

    peft's own prefix tuning goes through ``past_key_values`` and fails on DistilBERT, DeBERTa and
    ModernBERT. Here transformers' attention interface is extended instead: the prefix lies inside
    its layer, takes no position and works wherever the attention goes through that interface (BERT,
    RoBERTa, DistilBERT, ELECTRA, ModernBERT …). DeBERTa, MPNet and RemBERT have an attention of
    their own, and are refused, and so are models with a decoder. A prefix cannot be merged: a
    model folder holds it in a file of its own, which plain transformers does not read.

    Args:
        length: Keys and values a layer, >= 1.

    Raises:
        ValueError: If the length is out of its range, or, when it is applied, the backbone's
            attention is its own, or causal, or neither ``sdpa`` nor ``eager``.

    Example:
        >>> PrefixTuning(length=5).args
        {'length': 5}
    """

    length: int = 20

    parts: ClassVar[tuple[str, ...]] = (_CHILD,)

    def __post_init__(self) -> None:
        """Check the range."""
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(
                f"length must be a whole number >= 1, got {self.length!r}; "
                "set finetuning.adapter.length"
            )

    def inject(self, backbone: nn.Module) -> None:
        """Put a prefix into every attention module; see :class:`Adapter`."""
        modules: list[Any] = list(root_of(backbone).modules())
        found = [module for module in modules if goes_through_the_interface(module)]
        if not found:
            kind = type(root_of(backbone)).__name__
            raise ValueError(
                f"{kind} computes attention on its own, so no prefix can be put before it; "
                "use strategy lora, ia3 or bottleneck, or a model such as BERT, RoBERTa, "
                "DistilBERT, ELECTRA or ModernBERT"
            )
        if any(getattr(module, "is_causal", False) for module in found):
            raise ValueError(
                f"{type(root_of(backbone)).__name__} has causal attention, and its first "
                "tokens would not see the whole prefix; use strategy lora or ia3, or an encoder "
                "such as BERT, RoBERTa, DistilBERT, ELECTRA or ModernBERT"
            )
        # The model's own: that of an attention may be one of the kernels, whose masks are sdpa's.
        implementation = getattr(root_of(backbone).config, "_attn_implementation", None)
        if implementation not in _KNOWN:
            raise ValueError(
                f"a prefix is known to work with attn_implementation {' and '.join(_KNOWN)}, got "
                f"{implementation!r}; set backbone.attn_implementation={_KNOWN[0]}"
            )
        AttentionInterface.register(_IMPLEMENTATION, _attend)
        for module in found:
            self._extend(module)

    def _extend(self, module: Any) -> None:
        config = module.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        prefix = _Prefix(heads, self.length, width, config._attn_implementation)
        module.add_module(_CHILD, prefix.to(next(module.parameters())))
        # The module alone: masks are made by the model's own config, which stays as it is.
        module.config = copy.copy(config)
        module.config._attn_implementation = _IMPLEMENTATION


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any
) -> Any:
    """Attend to prefix and text by the module's former function, whose arguments these are."""
    prefix = module.get_submodule(_CHILD)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attend: Any = AttentionInterface().get(prefix.implementation, eager)
    return attend(
        module,
        query,
        prefix.extend(key, prefix.key),
        prefix.extend(value, prefix.value),
        prefix.extend_mask(attention_mask),
        **rest,
    )
