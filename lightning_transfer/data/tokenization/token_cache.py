"""Cache of tokenized texts on disk."""

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

_FORMAT = 2  # version of the cached file and of truncation; raise it if either changes
_WORDS_FORMAT = 1  # version of the tokenization of words


def cached_tokens(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
) -> TokenTable:
    """Return the tokens of all rows, from the cache if possible.

    The cache key is a hash of the texts, the tokenizer and ``tokens``. It does not depend on file
    names, dates or environment variables. Several processes may write the same file at the same
    time, because they write the same bytes.

    Args:
        texts: Text of each row.
        pairs: Second text of each row; ``None`` for single texts.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length of the rows, and truncation of longer texts.
    """
    key = fingerprint(texts, pairs, tokenizer, tokens)
    name = f"{len(texts):,} texts"
    return _cached(key, name, lambda: tokenize(texts, pairs, tokenizer=tokenizer, tokens=tokens))


def cached_words(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Return the tokens of sentences given as words, from the cache if possible.

    Args:
        sentences: Words of each row.
        tokenizer: A fast Hugging Face tokenizer.
        tokens: Length of the rows, and truncation of longer sentences.
    """
    # The length before each word keeps the boundaries: ["a b"] and ["a", "b"] need different keys.
    content = ["".join(f"{len(word)} {word}" for word in sentence) for sentence in sentences]
    key = f"words{_WORDS_FORMAT}-{fingerprint(content, None, tokenizer, tokens)}"
    name = f"{len(sentences):,} sentences"
    return _cached(key, name, lambda: tokenize_words(sentences, tokenizer=tokenizer, tokens=tokens))


def cached_targets(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Return the tokens of target texts, from the cache if possible.

    Args:
        texts: Target text of each row.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length of the rows including the end token, and truncation of longer texts.
    """
    key = fingerprint(texts, None, tokenizer, tokens, frame=TargetFrame.of(tokenizer))
    name = f"{len(texts):,} target texts"
    return _cached(key, name, lambda: tokenize_targets(texts, tokenizer=tokenizer, tokens=tokens))


def _cached(key: str, name: str, make: Callable[[], TokenTable]) -> TokenTable:
    """Return the cached table of a key; else make it, and write it to the cache."""
    path = cache_dir() / "tokens" / f"{key}.arrow"
    with contextlib.suppress(OSError, pa.ArrowInvalid):  # not cached yet, or a damaged file
        return TokenTable.read(path, key=key)
    log.info("tokenizing %s", name)
    table = make()
    table.key = key
    try:
        _write(table, path)
    except OSError as error:  # a full or read-only disk must not stop the run
        log.warning("tokens are not cached in %s: %s", path.parent, error)
        return table
    # The table is read back so that its arrays are memory-mapped and not held in memory.
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
    """Return a hash of all inputs of tokenization; equal hashes mean equal token ids.

    Args:
        texts: Text of each row.
        pairs: Second text of each row; ``None`` for single texts.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length of the rows, and truncation of longer texts.
        frame: Special tokens of target texts; ``None`` for input texts.
    """
    options = f"{_FORMAT} {tokens!r} {len(texts)} {pairs is not None}"
    state = hashlib.sha256((options if frame is None else f"{options} {frame!r}").encode())
    state.update(tokenizer_content(tokenizer))
    for column in (texts, pairs or ()):
        contents = [text.encode() for text in column]
        # The lengths separate the texts: "ab", "c" and "a", "bc" have the same bytes.
        state.update(np.array([len(content) for content in contents], dtype="<i8").tobytes())
        state.update(b"".join(contents))
    return state.hexdigest()


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Return the properties of a tokenizer on which its token ids depend, as bytes."""
    about: list[Any] = [type(tokenizer).__name__, tokenizer.model_input_names]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # The backend includes the vocabulary. Serialising it again in Python would take longer than
        # all other steps of the fingerprint.
        return json.dumps(about).encode() + _backend_json(backend).encode()
    about += [tokenizer.get_vocab(), tokenizer.init_kwargs]
    return json.dumps(about, sort_keys=True, default=str).encode()


def _backend_json(backend: Any) -> str:
    """Return a fast tokenizer as JSON, without truncation and padding."""
    # The backend keeps both from its last call. They do not change the token ids, because all texts
    # are tokenized without them.
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
