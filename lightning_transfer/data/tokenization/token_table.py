"""Tokenization of all rows of a data set into one memory-mapped table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.tokenization.tokens import Tokens

_CHUNK = 1000  # texts per call of the tokenizer: bounds the memory at no measurable cost


class TokenTable:
    """Token ids of the rows of a data set, concatenated in one flat array.

    A row is a slice of the array. Reading a row is thirty times as fast as from a ``datasets``
    data set in torch format, and the array can stay on disk.

    Args:
        input_ids: Concatenated token ids of all rows, int32 ``(tokens,)``.
        starts: Start of each row in the flat arrays, int64 ``(rows + 1,)``.
        token_type_ids: Segment id of each token, int8 ``(tokens,)``; None for tokenizers without
            segment ids.
        truncated: True for truncated rows, bool ``(rows,)``.
        words: Word of each token, int32 ``(tokens,)``, for sentences given as words: ``word`` for
            the first token of a word, ``-2 - word`` for its other tokens, -1 for tokens outside of
            words. None for other texts.
        key: Cache key of the table, if it is cached.
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        starts: np.ndarray,
        *,
        token_type_ids: np.ndarray | None,
        truncated: np.ndarray,
        words: np.ndarray | None = None,
        key: str | None = None,
    ) -> None:
        """See the class."""
        self.input_ids = input_ids
        self.starts = starts
        self.token_type_ids = token_type_ids
        self.truncated = truncated
        self.words = words
        self.key = key

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.truncated)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 ``(rows,)``."""
        return np.diff(self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: tables with equal fingerprints have equal tokens in equal order.

        It is the cache key or, for a table without one, a hash of the tokens.
        """
        if self.key is not None:
            return self.key
        state = hashlib.sha256()
        for column in (self.starts, self.input_ids, self.token_type_ids, self.words):
            if column is not None:
                state.update(np.ascontiguousarray(column).tobytes())
        return state.hexdigest()

    def row(self, position: int) -> dict[str, np.ndarray]:
        """Return the model inputs of a row.

        Returns:
            ``input_ids``, int32 ``(seq,)``, and for tokenizers with segment ids
            ``token_type_ids``, int8 ``(seq,)``; without padding.
        """
        span = slice(self.starts[position], self.starts[position + 1])
        inputs = {"input_ids": self.input_ids[span]}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids[span]
        return inputs

    def take(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the concatenated model inputs of several rows.

        Args:
            positions: Rows of the table, int64 ``(rows,)``.

        Returns:
            The inputs as from :meth:`row`, ``(tokens,)``, and the ``lengths`` of the rows, int64
            ``(rows,)``.
        """
        lengths = self.starts[positions + 1] - self.starts[positions]  # (rows,)
        indices = self.token_indices(positions)  # (tokens,)
        inputs = {"input_ids": self.input_ids[indices], "lengths": lengths}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids[indices]
        return inputs

    def token_indices(self, positions: np.ndarray) -> np.ndarray:
        """Return the indices of the tokens of several rows in the flat arrays.

        Args:
            positions: Rows of the table, int64 ``(rows,)``.

        Returns:
            Indices of the tokens, row by row, int64 ``(tokens,)``.
        """
        lengths = self.starts[positions + 1] - self.starts[positions]  # (rows,)
        # Offset of each row between the table and the concatenation of the selected rows. One
        # vectorised gather for the batch is faster than a slice for each row.
        shifts = self.starts[positions] - (np.cumsum(lengths) - lengths)
        return np.arange(lengths.sum()) + np.repeat(shifts, lengths)  # (tokens,)

    def write(self, path: Path) -> None:
        """Write the table to an Arrow file."""
        starts = _to_arrow(self.starts)
        columns = {
            # The names of the columns are the file format, so "cut" stays.
            "cut": _to_arrow(self.truncated.astype(np.uint8)).cast(pa.bool_()),
            "input_ids": pa.LargeListArray.from_arrays(starts, _to_arrow(self.input_ids)),
        }
        for name, column in (("token_type_ids", self.token_type_ids), ("words", self.words)):
            if column is not None:
                columns[name] = pa.LargeListArray.from_arrays(starts, _to_arrow(column))
        table = pa.table(columns)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            # One record batch: read() maps each column as a single array.
            writer.write_table(table, max_chunksize=max(len(self), 1))

    @classmethod
    def read(cls, path: Path, *, key: str | None = None) -> "TokenTable":
        """Map a table into memory.

        Args:
            path: File from :meth:`write`.
            key: Cache key of the table, if it is cached.

        Raises:
            OSError: If the file does not exist.
            pyarrow.ArrowInvalid: If the file does not contain a token table.
        """
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if {"cut", "input_ids"} - set(table.column_names) or table["cut"].num_chunks != 1:
            raise pa.ArrowInvalid(f"{path} does not contain a token table")
        ids = table["input_ids"].chunk(0)
        rest = {
            name: _to_numpy(table[name].chunk(0).values, kind)
            for name, kind in (("token_type_ids", np.int8), ("words", np.int32))
            if name in table.column_names
        }
        return cls(
            _to_numpy(ids.values, np.int32),
            _to_numpy(ids.offsets, np.int64),
            token_type_ids=rest.get("token_type_ids"),
            truncated=_to_numpy(table["cut"].chunk(0).cast(pa.uint8()), np.uint8).astype(bool),
            words=rest.get("words"),
            key=key,
        )


# Arrow's own conversions from and to NumPy import pandas, which takes half a second or more.
def _to_arrow(array: np.ndarray) -> pa.Array:
    """Return a NumPy array as an Arrow array that shares its memory."""
    kind = pa.from_numpy_dtype(array.dtype)
    buffer = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(kind, len(array), [None, buffer])


def _to_numpy(array: pa.Array, kind: type[np.generic]) -> np.ndarray:
    """Return the values of an Arrow array of numbers without a copy."""
    buffer = array.buffers()[1]  # the first buffer is the validity bitmap
    if buffer is None:  # an empty array may have no buffer
        return np.empty(0, kind)
    values: np.ndarray = np.frombuffer(buffer, dtype=kind)
    return values[array.offset : array.offset + len(array)]


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
) -> TokenTable:
    """Tokenize texts or pairs of texts, and truncate long rows.

    Args:
        texts: Text of each row.
        pairs: Second text of each row; ``None`` for single texts.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length of the rows, and truncation of longer ones. The longer text of a pair is
            truncated first.

    Raises:
        ValueError: If ``tokens.max_length`` is not larger than the number of special tokens.
    """
    check_max_length(tokenizer, tokens, pair=pairs is not None)
    with_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    truncated: list[bool] = []
    for start in range(0, len(texts), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        for inputs, too_long in _encode(
            texts[chunk], pairs[chunk] if pairs else None, tokenizer, tokens
        ):
            ids.append(inputs[0].astype(np.int32))
            types.append(inputs[1].astype(np.int8))
            truncated.append(too_long)
    return TokenTable(
        np.concatenate([*ids, np.empty(0, np.int32)]),
        np.cumsum([0, *map(len, ids)], dtype=np.int64),
        token_type_ids=np.concatenate([*types, np.empty(0, np.int8)]) if with_types else None,
        truncated=np.array(truncated, dtype=bool),
    )


def _encode(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
) -> list[tuple[np.ndarray, bool]]:
    """Return token ids and segment ids of each row, int64 ``(2, seq)``, and its truncation flag."""
    # Without truncation by the tokenizer: it supports one end only, and does not report it.
    encoded = tokenizer(
        [tokens.prefix + text for text in texts],
        list(pairs) if pairs is not None else None,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    segments = encoded.get("token_type_ids") or [[0] * len(row) for row in encoded["input_ids"]]
    rows = []
    for position, ids in enumerate(encoded["input_ids"]):
        inputs = np.array([ids, segments[position]], dtype=np.int64)  # (2, seq)
        too_long = len(ids) > tokens.max_length
        if too_long:
            text = tokens.prefix + texts[position] if pairs is not None else None
            mask = np.array(encoded["special_tokens_mask"][position], dtype=bool)
            inputs = inputs[:, _kept_positions(mask, text, tokenizer, tokens)]
        rows.append((inputs, too_long))
    return rows


def _kept_positions(
    special: np.ndarray, first: str | None, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> np.ndarray:
    """Return the positions that remain after truncation, including all special tokens.

    Args:
        special: True for special tokens, bool ``(seq,)``.
        first: First text of a pair, tokenized again to determine its length; ``None`` for single
            texts.
        tokenizer: Tokenizer of the row.
        tokens: Length of the row, and truncation.

    Returns:
        Positions in ascending order, int64 ``(kept,)``.
    """
    content = np.flatnonzero(~special)
    budget = max(tokens.max_length - int(special.sum()), 0)
    ends = len(content)
    if first is not None:
        alone = tokenizer(first, add_special_tokens=False, truncation=False, verbose=False)
        ends = min(len(alone["input_ids"]), ends)
    parts = [content[:ends], content[ends:]]
    budgets = _split_budget(len(parts[0]), len(parts[1]), budget)
    kept = [part[tokens.kept(len(part), size)] for part, size in zip(parts, budgets, strict=True)]
    return np.sort(np.concatenate([np.flatnonzero(special), *kept]))


def _split_budget(first: int, second: int, budget: int) -> tuple[int, int]:
    """Return the number of tokens for each text of a pair.

    The longer text is truncated first. Texts that are both too long get one half each.
    """
    half = budget // 2
    if second <= half:
        return budget - second, second
    if first <= budget - half:
        return first, budget - first
    return budget - half, half


def check_max_length(
    tokenizer: PreTrainedTokenizerBase, tokens: Tokens, *, pair: bool = False
) -> None:
    """Check that a row has space for at least one token that is not special.

    Args:
        tokenizer: Tokenizer of the rows.
        tokens: Length of the rows.
        pair: True if the rows are pairs of texts.

    Raises:
        ValueError: If ``tokens.max_length`` is not larger than the number of special tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if tokens.max_length <= special:
        raise ValueError(
            f"tokens.max_length must be >= {special + 1}, got {tokens.max_length}: the tokenizer "
            f"adds {special} special tokens to each row; set data.tokens.max_length={special + 1} "
            "or more"
        )


def need_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a DataModule.

    Raises:
        RuntimeError: If the tokenizer is None.
    """
    if tokenizer is None:
        raise RuntimeError("no tokenizer: set data.tokenizer before fit, validate or test")
    return tokenizer


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id for padding."""
    # GPT-like tokenizers have no padding token. Any id will do: the attention mask hides it.
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in ids if token is not None)


# The cache key of target texts contains the repr of this class, so its names must not change.
@dataclass(frozen=True)
class TargetFrame:
    """Special tokens around a target text.

    Tokenizers of encoder-decoder models add the right tokens to targets themselves. From a
    BERT-like tokenizer only the end is used, because the decoder adds its own start token. A
    tokenizer without an end, such as GPT-2's, gets its end token appended.

    Args:
        start: Ids before the text.
        end: Ids after the text, not empty.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TargetFrame":
        """Determine the frame of a tokenizer by tokenizing a letter as a target.

        Raises:
            ValueError: If the tokenizer has neither an ``eos_token`` nor a ``sep_token``.
        """
        whole = tokenizer(text_target="a", verbose=False)["input_ids"]
        content = tokenizer(text_target="a", add_special_tokens=False, verbose=False)["input_ids"]
        begin = next(
            (i for i in range(len(whole)) if whole[i : i + len(content)] == content), len(whole)
        )
        start, end = tuple(whole[:begin]), tuple(whole[begin + len(content) :])
        eos = tokenizer.eos_token_id
        if eos is None:  # as in BERT: [SEP] ends the text, and [CLS] is not a token of targets
            start, eos = (), tokenizer.sep_token_id
        if eos is None:
            raise ValueError(
                f"the tokenizer {type(tokenizer).__name__} has no end token (eos_token or "
                "sep_token), so a model could not learn to end a text; set an eos_token"
            )
        return cls(start, end if eos in end else (*end, eos))

    @property
    def size(self) -> int:
        """Number of special tokens around a target text."""
        return len(self.start) + len(self.end)


def tokenize_targets(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize target texts, and truncate long ones.

    Args:
        texts: Target text of each row.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length of the rows including special tokens, and truncation of longer texts.

    Raises:
        ValueError: If ``tokens.max_length`` is not larger than the number of special tokens, or
            the tokenizer has no end token.
    """
    frame = TargetFrame.of(tokenizer)
    budget = tokens.max_length - frame.size
    if budget < 1:
        raise ValueError(
            f"target_tokens.max_length must be >= {frame.size + 1}, got {tokens.max_length}: each "
            f"target has {frame.size} special token(s); set data.target_tokens.max_length="
            f"{frame.size + 1} or more"
        )
    start, end = np.array(frame.start, dtype=np.int32), np.array(frame.end, dtype=np.int32)
    rows: list[np.ndarray] = []
    truncated: list[bool] = []
    for first in range(0, len(texts), _CHUNK):
        chunk = [tokens.prefix + text for text in texts[first : first + _CHUNK]]
        encoded = tokenizer(
            text_target=chunk, add_special_tokens=False, truncation=False, verbose=False
        )
        for ids in encoded["input_ids"]:
            content = np.array(ids, dtype=np.int32)[tokens.kept(len(ids), budget)]
            rows.append(np.concatenate([start, content, end]))  # (seq,)
            truncated.append(len(ids) > budget)
    return TokenTable(
        np.concatenate([*rows, np.empty(0, np.int32)]),
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        token_type_ids=None,
        truncated=np.array(truncated, dtype=bool),
    )
