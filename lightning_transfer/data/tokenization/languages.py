"""Source and target languages of multilingual tokenizers such as mBART's."""

import copy
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_transfer.utils.suggestions import closest, did_you_mean


def with_languages(
    tokenizer: Any, *, where: str, source: str | None = None, target: str | None = None
) -> Any:
    """Return a copy of a tokenizer with a source and a target language.

    Args:
        tokenizer: Any Hugging Face tokenizer. It is not changed.
        where: Dotted key of the stage, for messages.
        source: Language code of the input texts; None: the tokenizer's own.
        target: Language code of the target texts; None: the tokenizer's own.

    Returns:
        A copy, or ``tokenizer`` itself if both languages are None.

    Raises:
        ValueError: If the tokenizer has no language tokens, or none for the given code.
    """
    requested = {"source_language": source, "target_language": target}
    requested = {key: code for key, code in requested.items() if code is not None}
    if not requested:
        return tokenizer
    name = type(tokenizer).__name__
    codes = sorted(language_codes(tokenizer))
    for key, code in requested.items():
        if not codes:
            raise ValueError(
                f"{where}.{key} needs a tokenizer with language tokens, such as those of mBART, "
                f"M2M100 and NLLB, got {code!r} for {name}; set {where}.{key}=null"
            )
        if code not in codes:
            raise ValueError(
                f"unknown {where}.{key} {code!r}{did_you_mean(closest(str(code), codes))} Language "
                f"codes of {name}: {', '.join(codes)}"
            )
    copied = copy.deepcopy(tokenizer)
    if target is not None:
        copied.tgt_lang = target
    # Assigned in any case: the setter of src_lang updates the special tokens.
    copied.src_lang = source if source is not None else copied.src_lang
    return copied


def language_codes(tokenizer: Any) -> Collection[str]:
    """Return the language codes of a tokenizer; empty for a tokenizer without language tokens."""
    if not hasattr(tokenizer, "src_lang"):
        return ()
    # NLLB has no table of codes; its language tokens are extra special tokens.
    known = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.extra_special_tokens
    return [str(code) for code in known]


def target_language_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int, bool] | None:
    """Return the language token of target texts, and True if target texts begin with it.

    If they do not, the token is the start token of the decoder: the tokenizer of mBART appends it
    to the end of the text, and the shift of the labels to the right moves it to the front.

    Returns:
        Token id and flag; None if the tokenizer adds no language token to target texts.
    """
    code = getattr(tokenizer, "tgt_lang", None)
    if code is None:
        return None
    tokens = getattr(tokenizer, "lang_code_to_token", {})  # M2M100: the token of "en" is "__en__"
    token_id: Any = tokenizer.convert_tokens_to_ids(tokens.get(code, code))
    ids = tokenizer(text_target="a", verbose=False)["input_ids"]
    return (token_id, ids[0] == token_id) if token_id in ids else None
