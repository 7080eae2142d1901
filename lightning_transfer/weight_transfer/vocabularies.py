"""Vocabularies of two tokenizers, and the rows of a token table that they share."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabularies:
    """Tokens of the weights and tokens of the stage.

    Args:
        old: Token string to id, of the weights.
        new: Token string to id, of the stage.

    Example:
        >>> vocabularies = Vocabularies({"a": 0, "b": 1}, {"b": 0, "c": 1, "a": 2})
        >>> [rows.tolist() for rows in vocabularies.shared_rows]
        [[1, 0], [0, 2]]
        >>> vocabularies.same
        False
    """

    old: Mapping[str, int]
    new: Mapping[str, int]

    @classmethod
    def of(
        cls, old: PreTrainedTokenizerBase | None, new: PreTrainedTokenizerBase | None
    ) -> "Vocabularies | None":
        """Return the vocabularies of two tokenizers, or None if one of them is unknown."""
        if old is None or new is None:
            return None
        return cls(old.get_vocab(), new.get_vocab())

    @property
    def same(self) -> bool:
        """True if each id is the same token in both vocabularies."""
        return self.old == self.new

    @property
    def shared_rows(self) -> tuple[Tensor, Tensor]:
        """Rows of the common tokens in the old and in the new table, int64 (shared tokens,)."""
        # Sorted: the order of a set of strings differs between processes, and with it the rounding
        # of a mean over these rows.
        tokens = sorted(set(self.old) & set(self.new), key=self.new.__getitem__)
        rows = ([ids[token] for token in tokens] for ids in (self.old, self.new))
        old, new = (torch.tensor(row, dtype=torch.long) for row in rows)
        return old, new

    def fit_tables(self, old_rows: int, new_rows: int) -> bool:
        """Return True if tables with this many rows have a row for each token."""
        # The largest id and not the count: a vocabulary may have gaps.
        return max(self.old.values()) < old_rows and max(self.new.values()) < new_rows


@dataclass(frozen=True)
class Tokenizers:
    """Tokenizers of the weights and of the stage; None if unknown.

    Only the decoder of an encoder-decoder has a target tokenizer. For a model without one, both
    target tokenizers are None, even if other stages of the run have one.

    Args:
        old: Tokenizer of the weights.
        new: Tokenizer of the stage.
        old_target: Target tokenizer of the weights; None: the same as ``old``.
        new_target: Target tokenizer of the stage; None: the same as ``new``.
    """

    old: PreTrainedTokenizerBase | None = None
    new: PreTrainedTokenizerBase | None = None
    old_target: PreTrainedTokenizerBase | None = None
    new_target: PreTrainedTokenizerBase | None = None

    def vocabularies(self, *, old_is_target: bool, new_is_target: bool) -> Vocabularies | None:
        """Return the vocabularies of a token table of the weights and of one of the stage.

        Args:
            old_is_target: True if the table of the weights is of the decoder of an
                encoder-decoder.
            new_is_target: True if the table of the stage is of the decoder of an encoder-decoder.
        """
        old = self.old_target if old_is_target and self.old_target is not None else self.old
        new = self.new_target if new_is_target and self.new_target is not None else self.new
        return Vocabularies.of(old, new)

    @property
    def same(self) -> bool:
        """True if the vocabularies of weights and stage agree; unknown ones count as equal."""
        found = [
            self.vocabularies(old_is_target=target, new_is_target=target)
            for target in (False, True)
        ]
        return all(vocabularies is None or vocabularies.same for vocabularies in found)

    @property
    def input_pair(self) -> "TokenizerPair | None":
        """Tokenizers of the input texts, or None if one of them is unknown."""
        return _pair(self.old, self.new)

    @property
    def target_pair(self) -> "TokenizerPair | None":
        """Tokenizers of the target texts, or None if one of them is unknown."""
        old = self.old if self.old_target is None else self.old_target
        return _pair(old, self.new if self.new_target is None else self.new_target)


TokenizerPair = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
"""Tokenizer of the weights and tokenizer of the stage."""


def _pair(
    old: PreTrainedTokenizerBase | None, new: PreTrainedTokenizerBase | None
) -> TokenizerPair | None:
    return None if old is None or new is None else (old, new)
