"""The tokens that begin, end and pad a text that is to be written."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lightning_transfer.backbones.lm_heads import GENERATION, kept_generation
from lightning_transfer.data.tokenization.languages import target_mark

_NAMES = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


# What may play each part, the first that a tokenizer has.
_PARTS = {
    "eos_token_id": ("eos_token", "sep_token"),
    "pad_token_id": ("pad_token",),
    "decoder_start_token_id": ("cls_token", "bos_token", "pad_token"),
}


def special_tokens(config: PretrainedConfig) -> dict[str, Any]:
    """Return the ids by transformers' names; of the end several, if the model knows several.

    Raises:
        ValueError: If the config of the model leaves one open.
    """
    found = {name: getattr(config, name, None) for name in _NAMES}
    if missing := [name for name, value in found.items() if value is None]:
        raise ValueError(
            f"the model does not say its {', '.join(missing)}; call task.adopt(tokenizer) with the "
            "tokenizer of the targets, or give the ids in the model's config"
        )
    ends = "eos_token_id"
    return {name: value if name == ends else int(_one(value)) for name, value in found.items()}


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def adopt_special_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fill what a model's config leaves open, and check what it says.

    A tokenizer of BERT's kind begins a text by its ``cls_token`` and ends it by its ``sep_token``.
    Where the tokenizer marks the language of targets, that is what a text begins by.

    Args:
        config: Of an encoder-decoder; changed in place.
        tokenizer: Of the targets.

    Raises:
        ValueError: If the tokenizer has no token to end or pad a text with, or the config says
            other ids than the tokenizer has.
    """
    own = {name: _first(tokenizer, tokens) for name, tokens in _PARTS.items()}
    _check_all_there(own, tokenizer)
    for name, value in own.items():
        stated = getattr(config, name, None)
        if stated is None:
            setattr(config, name, value)
        elif name != "decoder_start_token_id" and value not in _all(stated):
            raise ValueError(
                f"the model's {name} is {stated}, and the tokenizer of the targets has {value} "
                f"({tokenizer.convert_ids_to_tokens(value)!r}); set "
                f"backbone.config.{name}={value}, or use the tokenizer that the model came with"
            )
    _mark_language(config, tokenizer)
    start = int(_one(getattr(config, "decoder_start_token_id")))  # noqa: B009
    if not 0 <= start < len(tokenizer):
        raise ValueError(
            f"the model's decoder_start_token_id is {start}, and the tokenizer of the targets has "
            f"{len(tokenizer):,} tokens; set backbone.config.decoder_start_token_id="
            f"{own['decoder_start_token_id']}"
        )


def _mark_language(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let what is generated begin by the code of its language, as targets do in training."""
    found = target_mark(tokenizer)
    if found is None:
        return
    mark, first = found
    if first:
        setattr(config, GENERATION, {**kept_generation(config), "forced_bos_token_id": mark})
    else:
        config.decoder_start_token_id = mark


def _first(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> Any:
    ids = (getattr(tokenizer, f"{token}_id") for token in tokens)
    return next((found for found in ids if found is not None), None)


def _check_all_there(own: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise if a text could not be begun, ended or padded; what may pad may begin, too."""
    missing = [_PARTS[name] for name in ("eos_token_id", "pad_token_id") if own[name] is None]
    if not missing:
        return
    first = missing[0][0]
    raise ValueError(
        f"the tokenizer {type(tokenizer).__name__} has no "
        f"{' and no '.join(' or '.join(tokens) for tokens in missing)} for the texts that are to "
        f"be written; give it one that it has (tokenizer.{first} = tokenizer.unk_token), or a new "
        f"one (tokenizer.add_special_tokens({{'{first}': '<{first.partition('_')[0]}>'}}), and a "
        "row more for the decoder), save it by tokenizer.save_pretrained(folder), and set "
        "target_tokenizer=folder"
    )


def _all(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
