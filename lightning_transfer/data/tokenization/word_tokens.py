"""Tokens of sentences that come as words, and which word each token belongs to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.masking import IGNORED
from lightning_transfer.data.tokenization.token_table import TokenTable, check_room
from lightning_transfer.data.tokenization.tokens import Tokens

_CHUNK = 1000  # sentences per tokenizer call: bounds the memory, costs nothing
_NONE = -1  # a token of no word


def tokenize_words(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize sentences, and note for each token the word that it comes from.

    The words are joined by spaces and read as any text is, so that a model tags words in files and
    words in running text alike. A word that the tokenizer drops, such as a lone zero-width space,
    is read as its unknown token: every word has a token.

    Args:
        sentences: Words of each row, none of them empty.
        tokenizer: A fast one: it says where its tokens come from.
        tokens: Length of the rows and the part that is kept of longer ones.

    Returns:
        A table with ``words``.

    Raises:
        ValueError: If the tokenizer is not fast, ``tokens`` has a prefix or no room beside the
            special tokens, or a word has no token even so.
    """

    def part(words: np.ndarray, room: int) -> list[np.ndarray]:
        return [tokens.kept(len(words), room)]

    return _tokenize(sentences, tokenizer, tokens, part)


def tokenize_windows(
    sentences: Sequence[Sequence[str]], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize sentences as :func:`tokenize_words`, those too long in several rows.

    A sentence is tokenized first and cut between words then: byte-level tokenizers read a word at
    the head of a text otherwise than behind a space, so the words of a part, tokenized anew, may
    be more tokens than there is room for. The first token of each word lies in one row, and the
    rows are in the order of the words; a word that no row has room for loses its end.

    Args:
        sentences: Words of each sentence, none of them empty.
        tokenizer: A fast one.
        tokens: Length of the rows; nothing else of it counts.

    Returns:
        A table with ``words``, counted from the beginning of the sentence in all of its rows.

    Raises:
        ValueError: As for :func:`tokenize_words`.
    """
    return _tokenize(sentences, tokenizer, tokens, _windows)


def _tokenize(
    sentences: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    parts: Callable[[np.ndarray, int], Iterable[np.ndarray]],
) -> TokenTable:
    """Tokenize sentences; ``parts`` gets the words of a sentence's tokens, and the room in a row.

    It returns, for each row that is made of the sentence, the places of its tokens.
    """
    _check(tokenizer, tokens)
    rows, cut = [], []
    for inputs, special in _encode(sentences, tokenizer):
        around, content = np.flatnonzero(special), np.flatnonzero(~special)
        for places in parts(inputs[2, content], tokens.max_length - len(around)):
            kept = np.sort(np.concatenate([around, content[places]]))
            rows.append(inputs[:, kept])  # (3, seq)
            cut.append(len(places) < len(content))
    with_types = "token_type_ids" in tokenizer.model_input_names
    flat = np.concatenate([np.empty((3, 0), np.int64), *rows], axis=1)  # (3, tokens)
    return TokenTable(
        flat[0].astype(np.int32),
        np.cumsum([0, *(row.shape[1] for row in rows)], dtype=np.int64),
        token_type_ids=flat[1].astype(np.int8) if with_types else None,
        cut=np.array(cut, dtype=bool),
        words=flat[2].astype(np.int32),
    )


def _check(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"tags of words need a fast tokenizer, which says where its tokens come from; "
            f"{type(tokenizer).__name__} is none"
        )
    if tokens.prefix:
        raise ValueError(
            f"words that are tagged take no prefix, got tokens.prefix={tokens.prefix!r}; leave it "
            "out"
        )
    check_room(tokenizer, tokens)


def _windows(words: np.ndarray, room: int) -> Iterator[np.ndarray]:
    """Yield the places of the tokens of each row that a sentence fills, as many words as fit.

    Args:
        words: Word of each token as a :class:`TokenTable` notes it, int64 ``(seq,)``.
        room: Tokens in a row.
    """
    own = np.where(words < _NONE, -2 - words, words)
    own[words == _NONE] = own.max()
    # A token of no word stands for the space before the next one; behind the last, it is its own.
    own = np.minimum.accumulate(own[::-1])[::-1]
    ends = np.append(np.flatnonzero(np.diff(own)) + 1, len(own))
    begin = before = 0
    for end in ends:
        if end - begin > room:
            if before > begin:
                yield np.arange(begin, before)
            begin = before
        if end - begin > room:  # one word
            first = begin + int(np.argmax(words[begin:end] >= 0))
            yield np.arange(first, min(first + room, end))
            begin = end
        before = end
    if begin < len(own):
        yield np.arange(begin, len(own))


def _encode(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids, segments and words of each sentence, ``(3, seq)``, and which are special."""
    for start in range(0, len(sentences), _CHUNK):
        chunk = sentences[start : start + _CHUNK]
        encoded = _call(chunk, tokenizer)
        for place, sentence in enumerate(chunk):
            inputs, special = _row(encoded, place, sentence)
            lost = np.setdiff1d(np.arange(len(sentence)), inputs[2])
            yield _with_unknown(sentence, lost, tokenizer) if len(lost) else (inputs, special)


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
    encoded: dict[str, Any], place: int, sentence: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one row's ids, segments and words, ``(3, seq)``, and which tokens are special."""
    ids = encoded["input_ids"][place]
    segments = (encoded.get("token_type_ids") or {place: [0] * len(ids)})[place]
    special = np.array(encoded["special_tokens_mask"][place], dtype=bool)
    words = _words(sentence, encoded["offset_mapping"][place], special)
    return np.array([ids, segments, words], dtype=np.int64), special


def _words(
    sentence: Sequence[str], offsets: Sequence[tuple[int, int]], special: np.ndarray
) -> np.ndarray:
    """Return the word of each token as a :class:`TokenTable` notes it, int64 ``(seq,)``."""
    owners = np.repeat(np.arange(len(sentence)), [len(word) + 1 for word in sentence])
    ends = np.cumsum([len(word) + 1 for word in sentence]) - 1
    owners[ends] = _NONE  # the space behind a word
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    # By its last character: some tokenizers count the space before a word as the token's.
    found = np.where(special | (spans[:, 1] <= spans[:, 0]), _NONE, owners[spans[:, 1] - 1])
    words, first = np.unique(found, return_index=True)
    noted = np.where(found == _NONE, _NONE, -2 - found)
    noted[first[words != _NONE]] = words[words != _NONE]
    return noted


def _with_unknown(
    sentence: Sequence[str], lost: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray]:
    """Return a row with the unknown token in place of the words that have none."""
    if tokenizer.unk_token is not None:
        mended = list(sentence)
        for word in lost:
            mended[word] = tokenizer.unk_token
        row, special = _row(_call([mended], tokenizer), 0, mended)
        if np.isin(np.arange(len(sentence)), row[2]).all():
            return row, special
    raise ValueError(
        f"the tokenizer finds no token in the word {sentence[lost[0]]!r} (number {lost[0] + 1} of "
        f"{' '.join(sentence)[:40]!r}) and has no unknown token in its place; take the word out"
    )


def word_targets(
    table: TokenTable, tags: Sequence[Sequence[int]], *, inside: np.ndarray | None = None
) -> np.ndarray:
    """Return the target of each token, int64 ``(tokens,)``, -100 where there is none.

    Args:
        table: Has ``words``.
        tags: Tag of each word of each row.
        inside: The tag that the further tokens of a word get for the word's own, int64 ``(tags,)``;
            None: they have no target.
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
