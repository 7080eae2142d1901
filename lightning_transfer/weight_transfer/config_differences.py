"""Differences between two model configs in fields that change the function of the layers.

Layers of equal names and shapes may still compute something else, for example with another
activation or another number of attention heads.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer.stack_weights import StackWeights

# Fields without influence on the function of the layers (dropout, initialisation, caches, special
# tokens), and fields that show in shapes and names of the weights (sizes). This is a list of
# exceptions and not of relevant fields, so an unknown field of a new architecture counts as a
# difference instead of being overlooked.
_IGNORED = re.compile(
    r".*drop(out)?(_.*)?|.*pdrop|.*layerdrop|init.*|is_decoder|add_cross_attention|use_cache|legacy"
    r"|.*_token_ids?|.*vocab_size|.*(hidden|intermediate|embedding)_size|d_(model|kv|ff)|.*ffn_dim"
    r"|(hidden_)?dim|head_dim|n_(embd|inner|positions|ctx)|max_(2d_)?position_embeddings"
    r"|(num_|n_)?(hidden_|encoder_|decoder_)?layers?|(classifier|pooler|summary|seq_classif|qa)_.*"
    r"|tie_.*|share_encoder_decoder_embeddings|scale_decoder_outputs|output_.*|sparse_pred.*"
    r"|deterministic_.*|reference_compile|repad_.*|gradient_checkpointing|torchscript|router_.*"
    r"|is_gated_act|dense_act_fn|task_specific_params|lightning_transfer_.*|_.*"
)
_COMMON = frozenset(PretrainedConfig().to_dict())  # of every config: labels, output formats, ...
_TOKEN_FIELDS = ("scale_embedding",)


def differences(old: StackWeights, new: StackWeights) -> dict[str, str]:
    """Return the config fields in which two stacks of one architecture compute differently.

    Args:
        old: Stack of the weights.
        new: Stack of the backbone.

    Returns:
        Field name in the config of ``new`` to a text with both values.
    """
    configs = (config_to_dict(stack.config) for stack in (old, new))
    old_fields, new_fields = (
        _relevant_fields(stack.name, config)
        for stack, config in zip((old, new), configs, strict=True)
    )
    found = {}
    for key, (name, value) in new_fields.items():
        if key in old_fields and not _equal(key, old_fields[key][1], value):
            old_value = old_fields[key][1]
            found[name] = f"{name} is {old_value!r} in the weights and {value!r} in the backbone"
    return found


def token_differences(old: StackWeights, new: StackWeights) -> dict[str, str]:
    """Return the differences that change how layers use the table of token embeddings."""
    return {name: text for name, text in differences(old, new).items() if name in _TOKEN_FIELDS}


def compute_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return True if models of two configs compute the same function of their weights.

    Args:
        old: Config of a model as plain values.
        new: Config of a model of the same architecture, as plain values.
    """
    for stack in ("encoder", "decoder"):
        old_fields, new_fields = (
            _relevant_fields(stack, config[stack] if _is_pair(config) else config)
            for config in (old, new)
        )
        keys = new_fields.keys() & old_fields.keys()
        if not all(_equal(key, old_fields[key][1], new_fields[key][1]) for key in keys):
            return False
    return True


def _is_pair(config: Mapping[str, Any]) -> bool:
    """Return True for an ``EncoderDecoderModel``, with one config for each of its two models."""
    return isinstance(config.get("encoder"), Mapping)


def _relevant_fields(stack: str, config: Mapping[str, Any]) -> Mapping[str, tuple[str, Any]]:
    """Return the fields that change the function of a stack.

    Args:
        stack: ``encoder`` or ``decoder``.
        config: Config as plain values.

    Returns:
        Field name without the prefix of the stack, to the full name and the value. Without the
        prefix, ``encoder_attention_heads`` can be compared with ``decoder_attention_heads``.
    """
    other = {"encoder": "decoder_", "decoder": "encoder_"}[stack]
    found = {}
    for name, value in config.items():
        key = name.removeprefix(f"{stack}_")
        if name not in _COMMON and not name.startswith(other) and not _IGNORED.fullmatch(key):
            found[key] = (name, value)
    return found


def _equal(key: str, old: Any, new: Any) -> bool:
    if key == "layer_types" and old and new:  # one entry per layer, and the depths may differ
        shared = min(len(old), len(new))
        return list(old[:shared]) == list(new[:shared])
    return bool(old == new)
