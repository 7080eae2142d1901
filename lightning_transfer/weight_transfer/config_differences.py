"""What a config says of the function of layers, beside the sizes that their shapes show."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer.stack_weights import StackWeights

# What changes no function of the layers, or shows in the shapes and the names of their weights: all
# else does, in whatever architecture, so that a field that nobody thought of is no silent mistake.
_ASIDE = re.compile(
    r".*drop(out)?(_.*)?|.*pdrop|.*layerdrop|init.*|is_decoder|add_cross_attention|use_cache|legacy"
    r"|.*_token_ids?|.*vocab_size|.*(hidden|intermediate|embedding)_size|d_(model|kv|ff)|.*ffn_dim"
    r"|(hidden_)?dim|head_dim|n_(embd|inner|positions|ctx)|max_(2d_)?position_embeddings"
    r"|(num_|n_)?(hidden_|encoder_|decoder_)?layers?|(classifier|pooler|summary|seq_classif|qa)_.*"
    r"|tie_.*|share_encoder_decoder_embeddings|scale_decoder_outputs|output_.*|sparse_pred.*"
    r"|deterministic_.*|reference_compile|repad_.*|gradient_checkpointing|torchscript|router_.*"
    r"|is_gated_act|dense_act_fn|task_specific_params|lightning_transfer_.*|_.*"
)
_OF_ANY = frozenset(PretrainedConfig().to_dict())  # such as labels and output formats
_OF_TOKENS = ("scale_embedding",)


def differences(old: StackWeights, new: StackWeights) -> dict[str, str]:
    """Return the fields in which two sides of one architecture compute differently.

    Args:
        old: Of the weights.
        new: Of the backbone.

    Returns:
        The name of each field in the config of ``new``, and a sentence on both values.
    """
    configs = (config_to_dict(side.config) for side in (old, new))
    there, here = (_fields(s.name, c) for s, c in zip((old, new), configs, strict=True))
    return {
        here[key][0]: f"{here[key][0]} is {there[key][1]!r} in them and {here[key][1]!r} here"
        for key in here
        if key in there and not _same(key, there[key][1], here[key][1])
    }


def token_differences(old: StackWeights, new: StackWeights) -> dict[str, str]:
    """Return those of them that change how a table of tokens is read."""
    return {name: told for name, told in differences(old, new).items() if name in _OF_TOKENS}


def compute_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two configs of one architecture, as plain values, stand for the same function."""
    for side in ("encoder", "decoder"):
        both = [config[side] if _is_pair(config) else config for config in (old, new)]
        there, here = (_fields(side, config) for config in both)
        keys = here.keys() & there.keys()
        if not all(_same(key, there[key][1], here[key][1]) for key in keys):
            return False
    return True


def _is_pair(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("encoder"), Mapping)


def _fields(side: str, config: Mapping[str, Any]) -> Mapping[str, tuple[str, Any]]:
    """Return name and value of what matters, by the name without the side that it speaks of."""
    other = {"encoder": "decoder_", "decoder": "encoder_"}[side]
    found = {}
    for name, value in config.items():
        key = name.removeprefix(f"{side}_")
        if name not in _OF_ANY and not name.startswith(other) and not _ASIDE.fullmatch(key):
            found[key] = (name, value)
    return found


def _same(key: str, old: Any, new: Any) -> bool:
    if key == "layer_types" and old and new:  # one a layer: of stacks of unlike depth, the common
        both = min(len(old), len(new))
        return list(old[:both]) == list(new[:both])
    return bool(old == new)
