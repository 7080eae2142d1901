"""Special tokens of a row of one or two texts."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Frame:
    """Special tokens around the parts of a row.

    Documents are tokenized once without special tokens. The frame turns parts of them into model
    inputs, equal to those of the tokenizer.

    Args:
        around: Ids before the first part, between the parts, and after the last part: one tuple
            more than parts.
        types: Segment ids of the tokens in ``around``; None for tokenizers without segment ids.
        part_types: Segment id of each part.
    """

    around: tuple[tuple[int, ...], ...]
    types: tuple[tuple[int, ...], ...] | None
    part_types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of special tokens in a row."""
        return sum(map(len, self.around))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, *, parts: int) -> "Frame":
        """Determine the frame of a tokenizer by tokenizing a short text.

        Args:
            tokenizer: Any Hugging Face tokenizer.
            parts: 1 for single texts, 2 for pairs.
        """
        encoded = tokenizer(*["a"] * parts, return_special_tokens_mask=True, verbose=False)
        content = np.array(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
        special = np.array(encoded["special_tokens_mask"], dtype=bool)
        has_types = "token_type_ids" in encoded and "token_type_ids" in tokenizer.model_input_names
        ids = encoded["input_ids"]
        types = encoded["token_type_ids"] if has_types else [0] * len(ids)
        # The text may be several tokens, the same number in each part, so each part starts at every
        # len(content)-th of the tokens that are not special.
        starts = np.flatnonzero(~special)[:: max(len(content), 1)][:parts].tolist()
        edges = [0, *(edge for start in starts for edge in (start, start + len(content))), len(ids)]
        spans = [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        return cls(
            tuple(tuple(ids[span]) for span in spans),
            tuple(tuple(types[span]) for span in spans) if has_types else None,
            tuple(types[start] for start in starts),
        )

    def row(self, *parts: np.ndarray) -> dict[str, np.ndarray]:
        """Add the special tokens to the parts of a row.

        Args:
            *parts: Token ids of each part, int ``(tokens,)``.

        Returns:
            ``input_ids`` and, for tokenizers with segment ids, ``token_type_ids``: int64
            ``(seq,)``. ``special``: True for the added tokens, bool ``(seq,)``.
        """
        ids: list[np.ndarray] = []
        types: list[np.ndarray] = []
        special: list[np.ndarray] = []
        for number, around in enumerate(self.around):
            ids.append(np.array(around, dtype=np.int64))
            special.append(np.ones(len(around), dtype=bool))
            types.append(np.array(self.types[number] if self.types else around, dtype=np.int64))
            if number < len(parts):
                ids.append(parts[number].astype(np.int64))
                special.append(np.zeros(len(parts[number]), dtype=bool))
                types.append(np.full(len(parts[number]), self.part_types[number], dtype=np.int64))
        row = {"input_ids": np.concatenate(ids), "special": np.concatenate(special)}  # (seq,)
        return row | ({"token_type_ids": np.concatenate(types)} if self.types else {})
