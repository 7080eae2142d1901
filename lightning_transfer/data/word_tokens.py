"""Tokens of sentences that come as words, and which word each token belongs to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.masking import IGNORED
from lightning_transfer.data.token_table import TokenTable, check_room
from lightning_transfer.data.tokens import Tokens

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
    rows = []
    for start in range(0, len(sentences), _CHUNK):
        rows += _encode(sentences[start : start + _CHUNK], tokenizer, tokens)
    with_types = "token_type_ids" in tokenizer.model_input_names
    flat = np.concatenate([np.empty((3, 0), np.int64), *(inputs for inputs, _ in rows)], axis=1)
    return TokenTable(
        flat[0].astype(np.int32),
        np.cumsum([0, *(inputs.shape[1] for inputs, _ in rows)], dtype=np.int64),
        token_type_ids=flat[1].astype(np.int8) if with_types else None,
        cut=np.array([was_cut for _, was_cut in rows], dtype=bool),
        words=flat[2].astype(np.int32),
    )


def _encode(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> list[tuple[np.ndarray, bool]]:
    """Return ids, segments and words of each row, int64 ``(3, seq)``, and whether it was cut."""
    encoded = _call(sentences, tokenizer)
    rows = []
    for place, sentence in enumerate(sentences):
        inputs, special = _row(encoded, place, sentence)
        lost = np.setdiff1d(np.arange(len(sentence)), inputs[2])
        if len(lost):
            inputs, special = _with_unknown(sentence, lost, tokenizer)
        too_long = inputs.shape[1] > tokens.max_length
        if too_long:
            content, budget = np.flatnonzero(~special), tokens.max_length - int(special.sum())
            kept = content[tokens.kept(len(content), budget)]
            inputs = inputs[:, np.sort(np.concatenate([np.flatnonzero(special), kept]))]
        rows.append((inputs, too_long))
    return rows


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
