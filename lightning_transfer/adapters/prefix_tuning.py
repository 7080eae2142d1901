"""Prefix tuning: learned keys and values in front of those of the text."""

import copy
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lightning_transfer.adapters.adapter import Adapter
from lightning_transfer.adapters.target_modules import root_of
from lightning_transfer.backbones.cpu import uses_attention_interface

_IMPLEMENTATION = "lightning_transfer_prefix"
_KNOWN = ("sdpa", "eager")  # implementations with tensors as masks, with the keys as last axis
_CHILD = "prefix"
_STD = 0.02


class _Prefix(nn.Module):
    """Keys and values (heads, length, width per head), and the extended attention function."""

    def __init__(self, heads: int, length: int, width: int, implementation: str) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(heads, length, width) * _STD)
        self.value = nn.Parameter(torch.randn(heads, length, width) * _STD)
        self.implementation = implementation

    def extend(self, states: Tensor, prefix: Tensor) -> Tensor:
        """Put a prefix in front of states (batch, heads, seq, width)."""
        before = prefix.to(states.dtype).expand(len(states), -1, -1, -1)
        return torch.cat([before, states], dim=2)  # (batch, heads, length + seq, width)

    def extend_mask(self, mask: Tensor | None) -> Tensor | None:
        """Extend the last axis of a mask by the prefix, visible to every token."""
        if mask is None:
            return None
        # Visible keys are True in a boolean mask and 0 in an additive one.
        seen = mask.new_full((*mask.shape[:-1], self.key.shape[1]), not mask.is_floating_point())
        return torch.cat([seen, mask], dim=-1)  # (..., length + seq)


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Adapter):
    """Prefix tuning: in every layer, trained keys and values in front of those of the text.

    Li & Liang 2021 (arXiv:2101.00190). Differences: they reparametrise the prefix by an MLP and
    start it from activations of real words; here keys and values are trained directly, as in
    P-tuning v2 (arXiv:2110.07602), and start with small random values. The first output is
    therefore not exactly that of the base model.

    peft's prefix tuning uses ``past_key_values`` and fails with DistilBERT, DeBERTa and ModernBERT.
    This class extends transformers' attention interface instead: the prefix is inside of its layer,
    takes no position, and works with all attention modules that use this interface (BERT, RoBERTa,
    DistilBERT, ELECTRA, ModernBERT and others). DeBERTa, MPNet and RemBERT do not use it, and
    models with a decoder have causal attention; both are refused. A prefix cannot be merged: a
    model folder has a separate file for it, which plain transformers does not read.

    Args:
        length: Number of keys and values per layer, >= 1.

    Raises:
        ValueError: If the length is out of its range, or, in :meth:`apply`, the backbone's
            attention does not use the interface, is causal, or is neither ``sdpa`` nor ``eager``.

    Example:
        >>> PrefixTuning(length=5).args
        {'length': 5}
    """

    length: int = 20

    parts: ClassVar[tuple[str, ...]] = (_CHILD,)

    def __post_init__(self) -> None:
        """Check the length."""
        # bool is a subclass of int.
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(
                f"length must be an integer >= 1, got {self.length!r}; "
                "set finetuning.adapter.length=20"
            )

    def inject(self, backbone: nn.Module) -> None:
        """Insert a prefix into every attention module; see :class:`Adapter`."""
        modules: list[Any] = list(root_of(backbone).modules())
        found = [module for module in modules if uses_attention_interface(module)]
        name = type(root_of(backbone)).__name__
        if not found:
            raise ValueError(
                f"{name} does not use transformers' attention interface, so it cannot have a "
                "prefix; set finetuning=lora, finetuning=ia3 or finetuning=bottleneck, or choose a "
                "model such as BERT, RoBERTa, DistilBERT, ELECTRA or ModernBERT"
            )
        if any(getattr(module, "is_causal", False) for module in found):
            # A causal mask is aligned to the first key, so it would hide a part of the prefix.
            raise ValueError(
                f"{name} has causal attention, and its first tokens would not attend to the whole "
                "prefix; set finetuning=lora or finetuning=ia3, or choose an encoder such as BERT, "
                "RoBERTa, DistilBERT, ELECTRA or ModernBERT"
            )
        # From the model's config: an attention module may have the optimised CPU code instead,
        # with masks as for sdpa.
        implementation = getattr(root_of(backbone).config, "_attn_implementation", None)
        if implementation not in _KNOWN:
            raise ValueError(
                f"attn_implementation must be one of {', '.join(_KNOWN)} for a prefix, got "
                f"{implementation!r}; set backbone.attn_implementation={_KNOWN[0]}"
            )
        AttentionInterface.register(_IMPLEMENTATION, _attend)
        for module in found:
            self._extend(module)

    def _extend(self, module: Any) -> None:
        """Insert a prefix into an attention module."""
        config = module.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        prefix = _Prefix(heads, self.length, width, config._attn_implementation)
        module.add_module(_CHILD, prefix.to(next(module.parameters())))
        # A copy for this module only: the model's own config selects the kind of mask and is saved
        # with the weights.
        module.config = copy.copy(config)
        module.config._attn_implementation = _IMPLEMENTATION


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any
) -> Any:
    """Compute attention to prefix and text by the former attention function of the module.

    The arguments and the output are those of every function in the attention interface.
    """
    prefix = module.get_submodule(_CHILD)
    # "eager" is not in the interface: each architecture has its own function for it.
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
