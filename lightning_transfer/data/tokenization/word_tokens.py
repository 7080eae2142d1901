"""Tokenization of sentences given as words, with the word of each token."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.tokenization.token_table import TokenTable, check_max_length
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import IGNORED

_CHUNK = 1000  # sentences per call of the tokenizer: bounds the memory at no measurable cost
_NONE = -1  # word of a token outside of words


def tokenize_words(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize sentences given as words, and store the word of each token.

    The words are joined by spaces and tokenized like running text, so a model tags words in files
    and in running text in the same way. Every word gets a token: if the tokenizer drops a word,
    such as a single zero-width space, the unknown token replaces it.

    Args:
        sentences: Words of each row, none of them empty.
        tokenizer: A fast tokenizer. Only fast tokenizers return offsets.
        tokens: Length of the rows, and truncation of longer ones.

    Returns:
        Table with :attr:`TokenTable.words`.

    Raises:
        ValueError: If the tokenizer is not fast, ``tokens`` has a prefix, ``tokens.max_length`` is
            not larger than the number of special tokens, or the tokenizer drops a word and has no
            unknown token.
    """

    def truncate(words: np.ndarray, budget: int) -> list[np.ndarray]:
        return [tokens.kept(len(words), budget)]

    return _tokenize(sentences, tokenizer, tokens, truncate)


def tokenize_windows(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize sentences like :func:`tokenize_words`, and divide long ones into several rows.

    Rows are divided between words and are in the order of the words. The first token of each word
    is in exactly one row. A word longer than a row is truncated.

    Args:
        sentences: Words of each sentence, none of them empty.
        tokenizer: A fast tokenizer.
        tokens: Length of the rows. The truncation mode is ignored.

    Returns:
        Table with :attr:`TokenTable.words`, numbered from the beginning of the sentence in all of
        its rows.

    Raises:
        ValueError: As for :func:`tokenize_words`.
    """
    # The sentence is tokenized as a whole, then divided. Byte-level tokenizers encode a word at the
    # beginning of a text in another way than after a space, so the words of a window, tokenized on
    # their own, may have more tokens than fit into a row.
    return _tokenize(sentences, tokenizer, tokens, _windows)


def _tokenize(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    divide: Callable[[np.ndarray, int], Iterable[np.ndarray]],
) -> TokenTable:
    """Tokenize sentences into rows chosen by ``divide``.

    Args:
        sentences: Words of each sentence.
        tokenizer: A fast tokenizer.
        tokens: Length of the rows.
        divide: Function of the words of a sentence's tokens, int64 ``(tokens,)``, and the number of
            tokens that fit into a row. It returns the positions of the tokens of each row.
    """
    _check(tokenizer, tokens)
    rows, truncated = [], []
    for inputs, special in _encode(sentences, tokenizer):
        around, content = np.flatnonzero(special), np.flatnonzero(~special)
        for positions in divide(inputs[2, content], tokens.max_length - len(around)):
            kept = np.sort(np.concatenate([around, content[positions]]))
            rows.append(inputs[:, kept])  # (3, seq)
            truncated.append(len(positions) < len(content))
    with_types = "token_type_ids" in tokenizer.model_input_names
    flat = np.concatenate([np.empty((3, 0), np.int64), *rows], axis=1)  # (3, tokens)
    return TokenTable(
        flat[0].astype(np.int32),
        np.cumsum([0, *(row.shape[1] for row in rows)], dtype=np.int64),
        token_type_ids=flat[1].astype(np.int8) if with_types else None,
        truncated=np.array(truncated, dtype=bool),
        words=flat[2].astype(np.int32),
    )


def _check(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    """Raise if words cannot be tokenized with these arguments."""
    if not tokenizer.is_fast:
        raise ValueError(
            "tags of words need a fast tokenizer, the only kind with offsets of tokens, got "
            f"{type(tokenizer).__name__}; use the fast tokenizer of the model"
        )
    if tokens.prefix:
        raise ValueError(
            f"tokens.prefix is not supported for tagged words, got {tokens.prefix!r}; set "
            "data.tokens.prefix=''"
        )
    check_max_length(tokenizer, tokens)


def _windows(words: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield the positions of the tokens of each row, with as many whole words as fit.

    Args:
        words: Word of each token in the encoding of :attr:`TokenTable.words`, int64 ``(seq,)``.
        budget: Number of tokens that fit into a row.
    """
    own = np.where(words < _NONE, -2 - words, words)
    # A token outside of words is a space. It counts as part of the next word; after the last word,
    # as part of the last word.
    own[words == _NONE] = own.max()
    own = np.minimum.accumulate(own[::-1])[::-1]
    ends = np.append(np.flatnonzero(np.diff(own)) + 1, len(own))
    begin = before = 0
    for end in ends:
        if end - begin > budget:
            if before > begin:
                yield np.arange(begin, before)
            begin = before
        if end - begin > budget:  # a single word is longer than a row
            # Begin at the first token of the word and not at a space, so that it is in the row.
            first = begin + int(np.argmax(words[begin:end] >= 0))
            yield np.arange(first, min(first + budget, end))
            begin = end
        before = end
    if begin < len(own):
        yield np.arange(begin, len(own))


def _encode(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield token ids, segment ids and words of each sentence, and its special tokens.

    Yields:
        The three arrays stacked, int64 ``(3, seq)``; True for special tokens, bool ``(seq,)``.
    """
    for start in range(0, len(sentences), _CHUNK):
        chunk = sentences[start : start + _CHUNK]
        encoded = _call(chunk, tokenizer)
        for position, sentence in enumerate(chunk):
            inputs, special = _row(encoded, position, sentence)
            # A word without a first token has no token at all.
            dropped = np.setdiff1d(np.arange(len(sentence)), inputs[2])
            yield (
                _with_unknown(sentence, dropped, tokenizer) if len(dropped) else (inputs, special)
            )


def _call(sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return dict(
        tokenizer(
            [" ".join(sentence) for sentence in sentences],
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            verbose=False,
        )
    )


def _row(
    encoded: dict[str, Any], position: int, sentence: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one sentence of a tokenized chunk as :func:`_encode` yields it."""
    ids = encoded["input_ids"][position]
    segments = (encoded.get("token_type_ids") or {position: [0] * len(ids)})[position]
    special = np.array(encoded["special_tokens_mask"][position], dtype=bool)
    words = _words(sentence, encoded["offset_mapping"][position], special)
    return np.array([ids, segments, words], dtype=np.int64), special


def _words(
    sentence: Sequence[str], offsets: Sequence[tuple[int, int]], special: np.ndarray
) -> np.ndarray:
    """Return the word of each token in the encoding of :attr:`TokenTable.words`.

    Args:
        sentence: Words of the sentence.
        offsets: Begin and end of each token in the joined words, in characters.
        special: True for special tokens, bool ``(seq,)``.

    Returns:
        Word of each token, int64 ``(seq,)``.
    """
    owners = np.repeat(np.arange(len(sentence)), [len(word) + 1 for word in sentence])
    ends = np.cumsum([len(word) + 1 for word in sentence]) - 1
    owners[ends] = _NONE  # the space after a word
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    # The last character decides: some tokenizers include the space before a word in its token.
    found = np.where(special | (spans[:, 1] <= spans[:, 0]), _NONE, owners[spans[:, 1] - 1])
    words, first = np.unique(found, return_index=True)
    encoded = np.where(found == _NONE, _NONE, -2 - found)
    encoded[first[words != _NONE]] = words[words != _NONE]
    return encoded


def _with_unknown(
    sentence: Sequence[str], dropped: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize a sentence with the unknown token in place of dropped words.

    Args:
        sentence: Words of the sentence.
        dropped: Positions of the words without a token, int64 ``(words,)``.
        tokenizer: A fast tokenizer.

    Raises:
        ValueError: If the tokenizer has no unknown token, or drops it as well.
    """
    if tokenizer.unk_token is not None:
        replaced = list(sentence)
        for word in dropped:
            replaced[word] = tokenizer.unk_token
        row, special = _row(_call([replaced], tokenizer), 0, replaced)
        # Checked again: a tokenizer may not recognise its unknown token in a text.
        if np.isin(np.arange(len(sentence)), row[2]).all():
            return row, special
    raise ValueError(
        f"the tokenizer finds no token in the word {sentence[dropped[0]]!r} (number "
        f"{dropped[0] + 1} of {' '.join(sentence)[:40]!r}), and has no unknown token to replace "
        "it; remove the word"
    )


def word_targets(
    table: TokenTable, tags: Sequence[Sequence[int]], *, inside: np.ndarray | None = None
) -> np.ndarray:
    """Return the target of each token.

    Args:
        table: Table with :attr:`TokenTable.words`.
        tags: Tag of each word of each row.
        inside: For each tag of a word, the target of the other tokens of the word, int64
            ``(tags,)``. None: only the first token of a word has a target.

    Returns:
        Tag of each token, -100 for tokens without a target, int64 ``(tokens,)``.
    """
    assert table.words is not None
    flat = np.fromiter((tag for row in tags for tag in row), dtype=np.int64)
    begins = np.cumsum([0, *map(len, tags)])[:-1]
    row_begins = np.repeat(begins, table.lengths)  # (tokens,)
    words = table.words.astype(np.int64)
    targets = np.full(len(words), IGNORED, dtype=np.int64)
    first = words >= 0
    targets[first] = flat[row_begins[first] + words[first]]
    if inside is not None:
        rest = words < _NONE
        targets[rest] = inside[flat[row_begins[rest] - 2 - words[rest]]]
    return targets
