"""Two tokenizers, and which rows of a table of tokens go from one to the other."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabularies:
    """The tokens of the weights and those of the stage, by string.

    Args:
        old: String to id, of the weights.
        new: String to id, of the stage.

    Example:
        >>> words = Vocabularies({"a": 0, "b": 1}, {"b": 0, "c": 1, "a": 2})
        >>> [rows.tolist() for rows in words.shared]
        [[1, 0], [0, 2]]
        >>> words.same
        False
    """

    old: Mapping[str, int]
    new: Mapping[str, int]

    @classmethod
    def of(
        cls, old: PreTrainedTokenizerBase | None, new: PreTrainedTokenizerBase | None
    ) -> "Vocabularies | None":
        """Return the vocabularies of two tokenizers; None where one is not known."""
        if old is None or new is None:
            return None
        return cls(old.get_vocab(), new.get_vocab())

    @property
    def same(self) -> bool:
        """Whether each id means the same."""
        return self.old == self.new

    @property
    def shared(self) -> tuple[Tensor, Tensor]:
        """Rows of the tokens that both have, int64 (tokens,): in the old table and in the new."""
        words = sorted(set(self.old) & set(self.new), key=self.new.__getitem__)
        rows = ([ids[word] for word in words] for ids in (self.old, self.new))
        old, new = (torch.tensor(row, dtype=torch.long) for row in rows)
        return old, new

    def fit(self, old_rows: int, new_rows: int) -> bool:
        """Whether tables of that many rows can be those of the two tokenizers."""
        return max(self.old.values()) < old_rows and max(self.new.values()) < new_rows


@dataclass(frozen=True)
class Tokenizers:
    """What the weights and the stage read and write by; None where it is not known.

    Only a decoder behind an encoder has targets: of a model without one, both targets are None,
    whatever the run has for its other stages.

    Args:
        old: Of the weights.
        new: Of the stage.
        old_target: Of the targets of the weights; None: the same as ``old``.
        new_target: Of the targets of the stage; None: the same as ``new``.
    """

    old: PreTrainedTokenizerBase | None = None
    new: PreTrainedTokenizerBase | None = None
    old_target: PreTrainedTokenizerBase | None = None
    new_target: PreTrainedTokenizerBase | None = None

    def words(self, *, old_writes: bool, new_writes: bool) -> Vocabularies | None:
        """Return the vocabularies of a table of the weights and of one of the stage.

        Args:
            old_writes: Whether the first is that of a decoder behind an encoder.
            new_writes: Whether the second is.
        """
        old = self.old_target if old_writes and self.old_target is not None else self.old
        new = self.new_target if new_writes and self.new_target is not None else self.new
        return Vocabularies.of(old, new)

    @property
    def same(self) -> bool:
        """Whether the stage reads and writes as the weights do, as far as that is known."""
        found = [self.words(old_writes=writes, new_writes=writes) for writes in (False, True)]
        return all(words is None or words.same for words in found)

    @property
    def read_by(self) -> "Readers | None":
        """The tokenizers of what is read; None where one is not known."""
        return _both(self.old, self.new)

    @property
    def written_by(self) -> "Readers | None":
        """The tokenizers of what is written; None where one is not known."""
        old = self.old if self.old_target is None else self.old_target
        return _both(old, self.new if self.new_target is None else self.new_target)


Readers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
"""The tokenizer of the weights and that of the stage."""


def _both(
    old: PreTrainedTokenizerBase | None, new: PreTrainedTokenizerBase | None
) -> Readers | None:
    return None if old is None or new is None else (old, new)
