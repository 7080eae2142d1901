"""Token sequences of texts that a model is to write."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.token_table import TokenTable
from lightning_transfer.data.tokens import Tokens

_CHUNK = 1000  # texts per tokenizer call, as for sources


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
