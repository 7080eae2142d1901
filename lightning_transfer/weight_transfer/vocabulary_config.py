"""A model's config with the vocabulary of other tokenizers: sizes and special tokens."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_transfer.backbones.lm_heads import GENERATION
from lightning_transfer.weight_transfer.vocabularies import Readers, Tokenizers

# Models whose tables of positions begin behind the row of the padding token's id.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm")
_ROLES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
# What generation is told of tokens beside ids that end in _token_id: lists of them, or of lists.
_LISTS = (
    "bad_words_ids",
    "force_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
)


def config_for(config: Mapping[str, Any], tokenizers: Tokenizers) -> dict[str, Any]:
    """Return a model's config with the vocabulary of the stage's tokenizers.

    An encoder's side follows the tokenizer of the texts, a decoder's that of the targets. So do the
    special tokens, which keep their parts: the id of a token that begins, ends or pads a text, that
    is forced or forbidden, becomes that of the token of the same role, or else of the same string.
    What is not found is left open, for the targets' tokenizer to fill. Rows beyond a tokenizer's
    tokens stay where the tokenizer stays.

    Args:
        config: Of a model of transformers, as plain values.
        tokenizers: Of the weights that the config belongs to, and of the stage.
    """
    reads, writes = tokenizers.read_by, tokenizers.written_by
    if not config.get("is_encoder_decoder"):
        return _resized(_with_ids(config, reads), "vocab_size", reads)
    changed = _with_ids(config, writes)
    if isinstance(config.get("encoder"), Mapping):  # made of two models
        for side, both in (("encoder", reads), ("decoder", writes)):
            changed[side] = _resized(_with_ids(config[side], both), "vocab_size", both)
        return changed
    changed = _resized(changed, "vocab_size", reads)
    return _resized(changed, "decoder_vocab_size", writes)  # which few have


def _resized(config: dict[str, Any], key: str, both: Readers | None) -> dict[str, Any]:
    if both is None or config.get(key) is None or both[0].get_vocab() == both[1].get_vocab():
        return config
    return {**config, key: len(both[1])}


def _with_ids(config: Mapping[str, Any], both: Readers | None) -> dict[str, Any]:
    """Return a config with the ids of special tokens of the second tokenizer."""
    changed = dict(config)
    if both is None:
        return changed
    for key, value in config.items():
        if key == GENERATION and isinstance(value, Mapping):
            changed[key] = _with_ids(value, both)
        elif key.endswith(("_token_id", "_token_ids")) or key in _LISTS:
            role = key.removesuffix("_token_id")
            changed[key] = _mapped(value, both, role)
    if config.get("model_type") in _BEHIND_PADDING:
        moved = (changed.get("pad_token_id") or 0) - (config.get("pad_token_id") or 0)
        changed["max_position_embeddings"] = config["max_position_embeddings"] + moved
    return changed


def _mapped(value: Any, both: Readers, role: str = "") -> Any:
    """Return ids, in whatever lists they stand, in the second tokenizer.

    A list of single tokens loses those that have no counterpart; a sequence of tokens with such a
    one is none any more, and is lost as a whole.
    """
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    if isinstance(value, int):
        return _same_token(value, *both, role=role)
    found = [_mapped(item, both, role) for item in value]
    kept = [new for old, new in zip(value, found, strict=True) if _whole(old, new)]
    return kept or None


def _whole(old: Any, new: Any) -> bool:
    return new is not None and (not isinstance(old, list | tuple) or len(new) == len(old))


def _same_token(
    token_id: int, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, *, role: str
) -> int | None:
    """Return the id of a special token in another tokenizer, by role, then by string.

    Of a token that has several roles, as GPT-2's only one has, the role that is asked for counts
    first, and what stands for unknown words last.
    """
    held = [name for name in _ROLES if getattr(old, f"{name}_token_id") == token_id]
    for name in sorted(held, key=lambda name: name != role):
        other: int | None = getattr(new, f"{name}_token_id")
        if other is not None:
            return other
    if not 0 <= token_id < len(old):
        return None
    token = old.convert_ids_to_tokens(token_id)
    return new.get_vocab().get(token) if isinstance(token, str) else None
