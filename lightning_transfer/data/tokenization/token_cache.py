"""Keep tokenized text on disk, so that a second run does not tokenize."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lightning_transfer.assets import cache_dir
from lightning_transfer.data.tokenization.token_table import (
    TargetFrame,
    TokenTable,
    tokenize,
    tokenize_targets,
)
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.data.tokenization.word_tokens import tokenize_words
from lightning_transfer.utils.atomic_files import atomic_path

log = logging.getLogger(__name__)

_FORMAT = 2  # of the cached file and of the way a row is cut; raise it when either changes
_WORDS_FORMAT = 1  # of the way words become tokens


def cached_tokens(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
) -> TokenTable:
    """Return the tokens of all rows, from the cache if these texts were tokenized so before.

    The key is the content: bytes of the texts, tokenizer and ``tokens``. File names, dates and
    environment variables do not enter it. Two processes may race: both write the same bytes.

    Args:
        texts: Text of each row.
        pairs: Second text of each row, or ``None``.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length and the part that is kept.
    """
    key = fingerprint(texts, pairs, tokenizer, tokens)
    said = f"{len(texts):,} texts"
    return _cached(key, said, lambda: tokenize(texts, pairs, tokenizer=tokenizer, tokens=tokens))


def cached_words(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Return the tokens of sentences that come as words, from the cache if they lie there.

    Args:
        sentences: Words of each row.
        tokenizer: A fast Hugging Face tokenizer.
        tokens: Length and the part that is kept.
    """
    # Where words end is part of the content: no two lists of words join to the same text so.
    content = ["".join(f"{len(word)} {word}" for word in sentence) for sentence in sentences]
    key = f"words{_WORDS_FORMAT}-{fingerprint(content, None, tokenizer, tokens)}"
    said = f"{len(sentences):,} sentences"
    return _cached(key, said, lambda: tokenize_words(sentences, tokenizer=tokenizer, tokens=tokens))


def cached_targets(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Return the tokens of texts that are to be written, from the cache if they lie there.

    Args:
        texts: Text of each row.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length, the end token included, and the part that is kept.
    """
    key = fingerprint(texts, None, tokenizer, tokens, frame=TargetFrame.of(tokenizer))
    said = f"{len(texts):,} target texts"
    return _cached(key, said, lambda: tokenize_targets(texts, tokenizer=tokenizer, tokens=tokens))


def _cached(key: str, said: str, make: Callable[[], TokenTable]) -> TokenTable:
    path = cache_dir() / "tokens" / f"{key}.arrow"
    with contextlib.suppress(OSError, pa.ArrowInvalid):
        return TokenTable.read(path, key=key)
    log.info("tokenizing %s", said)
    table = make()
    table.key = key
    try:
        _write(table, path)
    except OSError as error:  # a full or read-only disk costs time, not the run
        log.warning("tokens are not cached in %s: %s", path.parent, error)
        return table
    return TokenTable.read(path, key=key)


def _write(table: TokenTable, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.write(temporary)


def fingerprint(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    *,
    frame: TargetFrame | None = None,
) -> str:
    """Return the hash of everything that the token ids follow from.

    Args:
        texts: Text of each row.
        pairs: Second text of each row, or ``None``.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length and the part that is kept.
        frame: What stands around texts that are to be written; ``None``: they are read.
    """
    told = f"{_FORMAT} {tokens!r} {len(texts)} {pairs is not None}"
    state = hashlib.sha256((told if frame is None else f"{told} {frame!r}").encode())
    state.update(tokenizer_content(tokenizer))
    for column in (texts, pairs or ()):
        contents = [text.encode() for text in column]
        state.update(np.array([len(content) for content in contents], dtype="<i8").tobytes())
        state.update(b"".join(contents))
    return state.hexdigest()


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Return all of a tokenizer that its ids follow from."""
    about: list[Any] = [type(tokenizer).__name__, tokenizer.model_input_names]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # To write the vocabulary once more in Python would take longer than all else here.
        return json.dumps(about).encode() + _rules(backend).encode()
    about += [tokenizer.get_vocab(), tokenizer.init_kwargs]
    return json.dumps(about, sort_keys=True, default=str).encode()


def _rules(backend: Any) -> str:
    """Return a fast tokenizer as json, without the arguments of its last call, which it keeps."""
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        return str(backend.to_str())
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
