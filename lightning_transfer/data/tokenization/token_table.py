"""Token sequences of a whole data set, in one memory-mapped Arrow file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.tokenization.tokens import Tokens

_CHUNK = 1000  # texts per tokenizer call: bounds the memory, costs nothing


class TokenTable:
    """Token ids of each row, stored end to end.

    Rows are slices of one flat array, because reading rows of a data set in torch format costs
    thirty times as much, and because the array can stay on disk.

    Args:
        input_ids: Ids of all rows end to end, int32 ``(tokens,)``.
        starts: Where each row begins, int64 ``(rows + 1,)``.
        token_type_ids: Segment of each token, int8 ``(tokens,)``, for tokenizers that have them.
        cut: Whether a row was longer than allowed, bool ``(rows,)``.
        words: Which word of its row each token belongs to, int32 ``(tokens,)``, for sentences that
            come as words: ``word`` on the first token of a word, ``-2 - word`` on its others, -1 on
            tokens of no word.
        key: What the table is cached under, if it is.
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        starts: np.ndarray,
        *,
        token_type_ids: np.ndarray | None,
        cut: np.ndarray,
        words: np.ndarray | None = None,
        key: str | None = None,
    ) -> None:
        """See the class."""
        self.input_ids = input_ids
        self.starts = starts
        self.token_type_ids = token_type_ids
        self.cut = cut
        self.words = words
        self.key = key

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.cut)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 ``(rows,)``."""
        return np.diff(self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """Name of the content: tables of one fingerprint hold the same tokens in the same order.

        The key of the cache, which is known before the tokens are; the hash of the tokens for a
        table that never had one.
        """
        if self.key is not None:
            return self.key
        state = hashlib.sha256()
        for column in (self.starts, self.input_ids, self.token_type_ids, self.words):
            if column is not None:
                state.update(np.ascontiguousarray(column).tobytes())
        return state.hexdigest()

    def row(self, position: int) -> dict[str, np.ndarray]:
        """Return the model inputs of one row, each ``(seq,)``, without padding."""
        span = slice(self.starts[position], self.starts[position + 1])
        inputs = {"input_ids": self.input_ids[span]}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids[span]
        return inputs

    def take(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model inputs of several rows end to end, ``(tokens,)``, and ``lengths``."""
        lengths = self.starts[positions + 1] - self.starts[positions]  # (rows,)
        places = self.places(positions)  # (tokens,)
        inputs = {"input_ids": self.input_ids[places], "lengths": lengths}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids[places]
        return inputs

    def places(self, positions: np.ndarray) -> np.ndarray:
        """Return where the tokens of several rows lie in the flat arrays, int64 ``(tokens,)``."""
        lengths = self.starts[positions + 1] - self.starts[positions]  # (rows,)
        # Where a row begins here, taken from where it begins in the table.
        shifts = self.starts[positions] - (np.cumsum(lengths) - lengths)
        return np.arange(lengths.sum()) + np.repeat(shifts, lengths)  # (tokens,)

    def write(self, path: Path) -> None:
        """Write the table to ``path`` as an Arrow file."""
        starts = _to_arrow(self.starts)
        columns = {
            "cut": _to_arrow(self.cut.astype(np.uint8)).cast(pa.bool_()),
            "input_ids": pa.LargeListArray.from_arrays(starts, _to_arrow(self.input_ids)),
        }
        for name, column in (("token_type_ids", self.token_type_ids), ("words", self.words)):
            if column is not None:
                columns[name] = pa.LargeListArray.from_arrays(starts, _to_arrow(column))
        table = pa.table(columns)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(len(self), 1))

    @classmethod
    def read(cls, path: Path, *, key: str | None = None) -> "TokenTable":
        """Map the table at ``path``, cached under ``key``, into memory.

        Raises:
            OSError: If there is no such file.
            pyarrow.ArrowInvalid: If it is not a table of tokens.
        """
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if {"cut", "input_ids"} - set(table.column_names) or table["cut"].num_chunks != 1:
            raise pa.ArrowInvalid(f"{path} is not a table of tokens")
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
            cut=_to_numpy(table["cut"].chunk(0).cast(pa.uint8()), np.uint8).astype(bool),
            words=rest.get("words"),
            key=key,
        )


# Arrow's own ways from and to numpy import pandas, which takes longer than all the rest.
def _to_arrow(array: np.ndarray) -> pa.Array:
    kind = pa.from_numpy_dtype(array.dtype)
    buffer = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(kind, len(array), [None, buffer])


def _to_numpy(array: pa.Array, kind: type[np.generic]) -> np.ndarray:
    """Return the values of an array of numbers without a copy."""
    buffer = array.buffers()[1]
    if buffer is None:  # of no values
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
    """Tokenize all rows, and cut those that are too long.

    Args:
        texts: Text of each row.
        pairs: Second text of each row, or ``None``.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length and the part that is kept. Of a pair the longer text is cut first.

    Raises:
        ValueError: If ``tokens.max_length`` has no room beside the special tokens.
    """
    check_room(tokenizer, tokens, pair=pairs is not None)
    with_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    cut: list[bool] = []
    for start in range(0, len(texts), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        for inputs, was_cut in _encode(
            texts[chunk], pairs[chunk] if pairs else None, tokenizer, tokens
        ):
            ids.append(inputs[0].astype(np.int32))
            types.append(inputs[1].astype(np.int8))
            cut.append(was_cut)
    return TokenTable(
        np.concatenate([*ids, np.empty(0, np.int32)]),
        np.cumsum([0, *map(len, ids)], dtype=np.int64),
        token_type_ids=np.concatenate([*types, np.empty(0, np.int8)]) if with_types else None,
        cut=np.array(cut, dtype=bool),
    )


def _encode(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
) -> list[tuple[np.ndarray, bool]]:
    """Return ids and segments of each row, int64 ``(2, seq)``, and whether the row was cut."""
    # Untruncated: the tokenizer can cut one end only, and would not say that it did.
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
            inputs = inputs[:, _kept(mask, text, tokenizer, tokens)]
        rows.append((inputs, too_long))
    return rows


def _kept(
    special: np.ndarray, first: str | None, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> np.ndarray:
    """Return the positions kept of one long row: the special tokens and the chosen part.

    Args:
        special: Which tokens are special, bool ``(seq,)``.
        first: First text of a pair, to find where it ends; ``None`` for a single text.
        tokenizer: The row's tokenizer.
        tokens: Length and the part that is kept.
    """
    content = np.flatnonzero(~special)
    budget = max(tokens.max_length - int(special.sum()), 0)
    ends = len(content)
    if first is not None:
        alone = tokenizer(first, add_special_tokens=False, truncation=False, verbose=False)
        ends = min(len(alone["input_ids"]), ends)
    parts = [content[:ends], content[ends:]]
    room = _share(len(parts[0]), len(parts[1]), budget)
    kept = [part[tokens.kept(len(part), size)] for part, size in zip(parts, room, strict=True)]
    return np.sort(np.concatenate([np.flatnonzero(special), *kept]))


def _share(first: int, second: int, budget: int) -> tuple[int, int]:
    """Share the room between two texts: the longer is cut first, then both evenly."""
    half = budget // 2
    if second <= half:
        return budget - second, second
    if first <= budget - half:
        return first, budget - first
    return budget - half, half


def check_room(tokenizer: PreTrainedTokenizerBase, tokens: Tokens, *, pair: bool = False) -> None:
    """Check that there is room for text beside the special tokens.

    Raises:
        ValueError: If there is none.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if tokens.max_length <= special:
        raise ValueError(
            f"tokens.max_length={tokens.max_length} leaves no room for text: the tokenizer adds "
            f"{special} special tokens; raise tokens.max_length"
        )


def need_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return a DataModule's tokenizer.

    Raises:
        RuntimeError: If it has none yet.
    """
    if tokenizer is None:
        raise RuntimeError("no tokenizer: set data.tokenizer before fit, validate or test")
    return tokenizer


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills up short rows.

    Any id does where there is no padding token, because the mask hides it.
    """
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in ids if token is not None)


@dataclass(frozen=True)
class TargetFrame:
    """What stands around a text that is to be written.

    A decoder begins with a token of its own, so of what a BERT-like tokenizer puts around a text
    only the end is to be written. Tokenizers of encoder-decoders know targets, and are followed;
    one that ends no text, like GPT-2's, has its end token put behind.

    Args:
        start: Ids before the text.
        end: Ids behind it, not empty.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TargetFrame":
        """Find the frame of a tokenizer, by tokenizing a letter.

        Raises:
            ValueError: If the tokenizer has no token that ends a text.
        """
        whole = tokenizer(text_target="a", verbose=False)["input_ids"]
        content = tokenizer(text_target="a", add_special_tokens=False, verbose=False)["input_ids"]
        begin = next(
            (i for i in range(len(whole)) if whole[i : i + len(content)] == content), len(whole)
        )
        start, end = tuple(whole[:begin]), tuple(whole[begin + len(content) :])
        eos = tokenizer.eos_token_id
        if eos is None:
            start, eos = (), tokenizer.sep_token_id
        if eos is None:
            raise ValueError(
                f"the tokenizer {type(tokenizer).__name__} has no token that ends a text, so that "
                "a model could not learn where to stop; give it an eos_token"
            )
        return cls(start, end if eos in end else (*end, eos))

    @property
    def size(self) -> int:
        """Number of tokens around a text."""
        return len(self.start) + len(self.end)


def tokenize_targets(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> TokenTable:
    """Tokenize texts that are to be written, and cut those that are too long.

    Args:
        texts: Text of each row.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length, the end token included, and the part that is kept.

    Raises:
        ValueError: If ``tokens.max_length`` has no room beside the end token, or there is none.
    """
    frame = TargetFrame.of(tokenizer)
    budget = tokens.max_length - frame.size
    if budget < 1:
        raise ValueError(
            f"target_tokens.max_length={tokens.max_length} leaves no room for text: {frame.size} "
            "special tokens stand around it; raise target_tokens.max_length"
        )
    start, end = np.array(frame.start, dtype=np.int32), np.array(frame.end, dtype=np.int32)
    rows: list[np.ndarray] = []
    cut: list[bool] = []
    for first in range(0, len(texts), _CHUNK):
        chunk = [tokens.prefix + text for text in texts[first : first + _CHUNK]]
        encoded = tokenizer(
            text_target=chunk, add_special_tokens=False, truncation=False, verbose=False
        )
        for ids in encoded["input_ids"]:
            content = np.array(ids, dtype=np.int32)[tokens.kept(len(ids), budget)]
            rows.append(np.concatenate([start, content, end]))  # (seq,)
            cut.append(len(ids) > budget)
    return TokenTable(
        np.concatenate([*rows, np.empty(0, np.int32)]),
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        token_type_ids=None,
        cut=np.array(cut, dtype=bool),
    )
