"""The tokens that begin, end and pad a text that is to be written."""

from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

_NAMES = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


def special_tokens(config: PretrainedConfig) -> dict[str, int]:
    """Return the ids by transformers' names.

    Raises:
        ValueError: If the config of the model leaves one open.
    """
    found = {name: getattr(config, name, None) for name in _NAMES}
    if missing := [name for name, value in found.items() if value is None]:
        raise ValueError(
            f"the model does not say its {', '.join(missing)}; call task.adopt(tokenizer) with the "
            "tokenizer of the targets, or give the ids in the model's config"
        )
    return {name: int(_one(value)) for name, value in found.items()}


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def adopt_special_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fill what a model's config leaves open, and check what it says.

    A tokenizer of BERT's kind begins a text by its ``cls_token`` and ends it by its ``sep_token``.

    Args:
        config: Of an encoder-decoder; changed in place.
        tokenizer: Of the targets.

    Raises:
        ValueError: If the tokenizer has no token to end or pad a text with, or the config says
            other ids than the tokenizer has.
    """
    begins = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    own = {
        "eos_token_id": next((i for i in ends if i is not None), None),
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": next((i for i in begins if i is not None), None),
    }
    for name, value in own.items():
        if value is None:
            token = name.removesuffix("_token_id")
            raise ValueError(
                f"the tokenizer {type(tokenizer).__name__} has no {token} token for the texts that "
                f"are to be written; give it one (tokenizer.{token}_token = …)"
            )
        stated = getattr(config, name, None)
        if stated is None:
            setattr(config, name, value)
        elif name != "decoder_start_token_id" and value not in _all(stated):
            raise ValueError(
                f"the model's {name} is {stated}, and the tokenizer of the targets has {value} "
                f"({tokenizer.convert_ids_to_tokens(value)!r}); set "
                f"backbone.config.{name}={value}, or use the tokenizer that the model came with"
            )
    start = int(_one(getattr(config, "decoder_start_token_id")))  # noqa: B009
    if not 0 <= start < len(tokenizer):
        raise ValueError(
            f"the model's decoder_start_token_id is {start}, and the tokenizer of the targets has "
            f"{len(tokenizer):,} tokens; set backbone.config.decoder_start_token_id="
            f"{own['decoder_start_token_id']}"
        )


def _all(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
