"""Languages of tokenizers that mark a text by the code of its language, such as mBART's."""

import copy
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_transfer.utils.suggestions import closest, did_you_mean


def in_languages(
    tokenizer: Any, *, where: str, source: str | None = None, target: str | None = None
) -> Any:
    """Return a tokenizer that reads one language and writes another; the one that is given stays.

    Args:
        tokenizer: Any of transformers'.
        where: Dotted key of the stage, for messages.
        source: Code of the language of texts that are read; None: as the tokenizer has it.
        target: Code of that of texts that are written; None: as the tokenizer has it.

    Raises:
        ValueError: If the tokenizer knows no languages, or not that one.
    """
    asked = {"source_language": source, "target_language": target}
    asked = {key: code for key, code in asked.items() if code is not None}
    if not asked:
        return tokenizer
    codes = language_codes(tokenizer)
    for key, code in asked.items():
        if not codes:
            raise ValueError(
                f"{where}.{key}={code}: the tokenizer {type(tokenizer).__name__} marks no text by "
                f"its language; set {where}.{key}=null, or use that of mBART, M2M100 or NLLB"
            )
        if code not in codes:
            near = did_you_mean(closest(str(code), sorted(codes)))
            raise ValueError(
                f"{where}.{key}={code!r} is no language of the tokenizer "
                f"{type(tokenizer).__name__}; its codes are {', '.join(sorted(codes))}{near}"
            )
    own = copy.deepcopy(tokenizer)
    if target is not None:
        own.tgt_lang = target
    own.src_lang = source if source is not None else own.src_lang  # which renews its special tokens
    return own


def language_codes(tokenizer: Any) -> Collection[str]:
    """Return the codes that a tokenizer knows; none for one that marks no language."""
    if not hasattr(tokenizer, "src_lang"):
        return ()
    known = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.extra_special_tokens
    return [str(code) for code in known]


def target_mark(tokenizer: PreTrainedTokenizerBase) -> tuple[int, bool] | None:
    """Return the id that marks the language of targets, and whether they begin by it.

    None where no language is set. A target that does not begin by it is begun by it as by a start
    token: mBART's first kind puts it behind the end, from where it is shifted to the front.
    """
    code = getattr(tokenizer, "tgt_lang", None)
    if code is None:
        return None
    tokens = getattr(tokenizer, "lang_code_to_token", {})  # M2M100 spells its tokens otherwise
    mark: Any = tokenizer.convert_tokens_to_ids(tokens.get(code, code))
    ids = tokenizer(text_target="a", verbose=False)["input_ids"]
    return (mark, ids[0] == mark) if mark in ids else None
