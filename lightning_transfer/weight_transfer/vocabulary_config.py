"""Model config with the vocabulary of other tokenizers: table sizes and special tokens."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_transfer.backbones.lm_heads import GENERATION
from lightning_transfer.weight_transfer.vocabularies import TokenizerPair, Tokenizers

# Architectures with a first position after the padding token's id.
_POSITIONS_AFTER_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
)
_ROLES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
# Fields of a generation config with token ids whose names do not end in _token_id: lists of ids,
# or lists of sequences of ids.
_ID_LISTS = (
    "bad_words_ids",
    "force_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
)


def config_for(config: Mapping[str, Any], tokenizers: Tokenizers) -> dict[str, Any]:
    """Return a model config with the vocabulary of the stage's tokenizers.

    The encoder follows the tokenizer of the input texts, the decoder that of the target texts. The
    id of a special token, also of a forced or forbidden one, becomes the id of the new token with
    the same role, else of the new token with the same string, else None, which the task fills from
    the target tokenizer. With equal vocabularies the table keeps its size, which may be larger than
    the vocabulary.

    Args:
        config: Config of a model of transformers, as plain values.
        tokenizers: Tokenizers of the weights with this config, and of the stage.
    """
    inputs, targets = tokenizers.input_pair, tokenizers.target_pair
    if not config.get("is_encoder_decoder"):
        return _with_size(_with_token_ids(config, inputs), "vocab_size", inputs)
    # The special tokens of an encoder-decoder are used in generation: they are of the targets.
    changed = _with_token_ids(config, targets)
    if isinstance(config.get("encoder"), Mapping):  # an EncoderDecoderModel, with two configs
        for stack, pair in (("encoder", inputs), ("decoder", targets)):
            own = _with_token_ids(config[stack], pair)
            changed[stack] = _with_size(own, "vocab_size", pair)
        return changed
    changed = _with_size(changed, "vocab_size", inputs)
    # Only a few architectures have it, such as Marian with separate vocabularies.
    return _with_size(changed, "decoder_vocab_size", targets)


def _with_size(config: dict[str, Any], key: str, pair: TokenizerPair | None) -> dict[str, Any]:
    """Return a config with the vocabulary size of the second tokenizer, if it has this key."""
    # With equal vocabularies the size stays: a table may be padded to more rows than tokens.
    if pair is None or config.get(key) is None or pair[0].get_vocab() == pair[1].get_vocab():
        return config
    return {**config, key: len(pair[1])}


def _with_token_ids(config: Mapping[str, Any], pair: TokenizerPair | None) -> dict[str, Any]:
    """Return a config with token ids of the second tokenizer."""
    changed = dict(config)
    if pair is None:
        return changed
    for key, value in config.items():
        if key == GENERATION and isinstance(value, Mapping):
            changed[key] = _with_token_ids(value, pair)
        elif key.endswith(("_token_id", "_token_ids")) or key in _ID_LISTS:
            role = key.removesuffix("_token_id")
            changed[key] = _convert_ids(value, pair, role)
    if config.get("model_type") in _POSITIONS_AFTER_PADDING:
        # Another padding id shifts the first position; the number of positions stays the same.
        shift = (changed.get("pad_token_id") or 0) - (config.get("pad_token_id") or 0)
        changed["max_position_embeddings"] = config["max_position_embeddings"] + shift
    return changed


def _convert_ids(value: Any, pair: TokenizerPair, role: str = "") -> Any:
    """Return a token id, or nested lists of ids, converted to the second tokenizer.

    A list of tokens loses the tokens without a counterpart. A sequence of tokens is removed as a
    whole if one of its tokens has no counterpart.
    """
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    if isinstance(value, int):
        return _convert_id(value, *pair, role=role)
    converted = [_convert_ids(item, pair, role) for item in value]
    complete = [new for old, new in zip(value, converted, strict=True) if _is_complete(old, new)]
    return complete or None  # generate() rejects an empty list


def _is_complete(old: Any, new: Any) -> bool:
    """Return True if no token was lost in conversion."""
    return new is not None and (not isinstance(old, list | tuple) or len(new) == len(old))


def _convert_id(
    token_id: int, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, *, role: str
) -> int | None:
    """Return the id of a token in another tokenizer, matched by role, then by string.

    Args:
        token_id: Id in the old tokenizer.
        old: Tokenizer of the weights.
        new: Tokenizer of the stage.
        role: Role of the config field, such as ``eos``.
    """
    roles = [name for name in _ROLES if getattr(old, f"{name}_token_id") == token_id]
    # GPT-2 has one special token for several roles. The role of the field counts first, and `unk`
    # is the last of the others.
    for name in sorted(roles, key=lambda name: name != role):
        other: int | None = getattr(new, f"{name}_token_id")
        if other is not None:
            return other
    if not 0 <= token_id < len(old):
        return None
    token = old.convert_ids_to_tokens(token_id)
    return new.get_vocab().get(token) if isinstance(token, str) else None
