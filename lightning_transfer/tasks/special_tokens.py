"""Special tokens of target texts: start token, end token and padding."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lightning_transfer.backbones.lm_heads import GENERATION, pretrained_generation
from lightning_transfer.data.tokenization.languages import target_language_token

_NAMES = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
# Candidates of a tokenizer for each id; the first existing one is used. Tokenizers like BERT's have
# cls_token and sep_token, but neither bos_token nor eos_token.
_TOKENIZER_TOKENS = {
    "eos_token_id": ("eos_token", "sep_token"),
    "pad_token_id": ("pad_token",),
    "decoder_start_token_id": ("cls_token", "bos_token", "pad_token"),
}


def special_tokens(config: PretrainedConfig) -> dict[str, Any]:
    """Return the ids of start token, end token and padding, by their names in transformers.

    Args:
        config: Config of an encoder-decoder. ``eos_token_id`` may be a list of ids.

    Raises:
        ValueError: If an id is missing.
    """
    found = {name: getattr(config, name, None) for name in _NAMES}
    if missing := [name for name, value in found.items() if value is None]:
        raise ValueError(
            f"the model config has no {', '.join(missing)}; call "
            "task.set_special_tokens(tokenizer) with the tokenizer of the target texts"
        )
    # Models may have several end tokens; `generate` stops at any of them.
    ends = "eos_token_id"
    return {name: value if name == ends else int(_scalar(value)) for name, value in found.items()}


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def set_special_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the missing ids of a model config from a tokenizer, and compare the existing ones.

    If the tokenizer marks the language of target texts by a token, generated texts start with it.

    Args:
        config: Config of an encoder-decoder; changed in place.
        tokenizer: Tokenizer of the target texts.

    Raises:
        ValueError: If the tokenizer has no end token or no padding, or an id of the config differs
            from that of the tokenizer.
    """
    own = {name: _first(tokenizer, tokens) for name, tokens in _TOKENIZER_TOKENS.items()}
    _check_tokens_exist(own, tokenizer)
    for name, value in own.items():
        stated = getattr(config, name, None)
        if stated is None:
            setattr(config, name, value)
        # The start token may differ: it is an input of the decoder only, and pretrained models use
        # various tokens for it. Its range is checked below.
        elif name != "decoder_start_token_id" and value not in _as_list(stated):
            raise ValueError(
                f"{name} of the model is {stated}, but that of the target tokenizer is {value} "
                f"({tokenizer.convert_ids_to_tokens(value)!r}); use the tokenizer of the "
                f"pretrained model, or for a new model set backbone.config.{name}={value}"
            )
    _set_language(config, tokenizer)
    start = int(_scalar(getattr(config, "decoder_start_token_id")))  # noqa: B009
    if not 0 <= start < len(tokenizer):
        raise ValueError(
            f"decoder_start_token_id of the model is {start}, but the target tokenizer has only "
            f"{len(tokenizer):,} tokens; use the tokenizer of the pretrained model, or for a new "
            f"model set backbone.config.decoder_start_token_id={own['decoder_start_token_id']}"
        )


def _set_language(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generated texts start with the token of their language, as target texts in training."""
    found = target_language_token(tokenizer)
    if found is None:
        return
    token, is_first = found
    # A language token at the beginning of the targets follows the start token. Elsewhere, as at the
    # end in mBART, it is the start token itself.
    if is_first:
        setattr(config, GENERATION, {**pretrained_generation(config), "forced_bos_token_id": token})
    else:
        config.decoder_start_token_id = token


def _first(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> Any:
    ids = (getattr(tokenizer, f"{token}_id") for token in tokens)
    return next((found for found in ids if found is not None), None)


def _check_tokens_exist(own: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise if the tokenizer has no end token or no padding."""
    # The start token needs no check: padding is one of its candidates.
    needed = ("eos_token_id", "pad_token_id")
    missing = [_TOKENIZER_TOKENS[name] for name in needed if own[name] is None]
    if not missing:
        return
    first = missing[0][0]
    raise ValueError(
        f"the tokenizer {type(tokenizer).__name__} has no "
        f"{' and no '.join(' or '.join(tokens) for tokens in missing)} for target texts; use one "
        f"of its tokens (tokenizer.{first} = tokenizer.unk_token) or add one "
        f"(tokenizer.add_special_tokens({{'{first}': '<{first.partition('_')[0]}>'}}), which "
        "needs one more row of decoder embeddings), save it with "
        "tokenizer.save_pretrained(folder), and set target_tokenizer=folder"
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
