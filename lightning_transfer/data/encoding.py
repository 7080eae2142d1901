"""Texts without labels as batches, for predictions."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching import LengthBatchSampler
from lightning_transfer.data.token_table import tokenize
from lightning_transfer.data.tokenized_split import Collate, TokenizedSplit
from lightning_transfer.data.tokens import Tokens


def encode_batches(
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    batch_size: int = 32,
    max_tokens: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Cut and pad texts exactly as a DataModule does; nothing is cached.

    Args:
        texts: The texts.
        pairs: Second text of each, or ``None``.
        tokenizer: Any Hugging Face tokenizer.
        tokens: Length and the part of a longer text that is kept.
        batch_size: Texts in a batch at most.
        max_tokens: Tokens in a batch at most, padding counted; ``None``: any number.

    Yields:
        ``input_ids``, ``attention_mask`` (and ``token_type_ids``): int64 ``(batch, seq)``, longest
        texts first. ``index``: which texts they are, int64 ``(batch,)``.

    Raises:
        ValueError: If ``tokens.max_length`` has no room beside the special tokens.
    """
    table = tokenize(texts, pairs, tokenizer=tokenizer, tokens=tokens)
    rows = TokenizedSplit(table, np.arange(len(table)), None)
    collate = Collate(tokenizer)
    sampler = LengthBatchSampler(
        rows.lengths, batch_size, seed=0, shuffle=False, max_tokens=max_tokens
    )
    for positions in sampler:
        yield collate(rows[positions])
