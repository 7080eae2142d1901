"""Two tokenizers, and which rows of a table of tokens go from one to the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# Models whose tables of positions begin behind the row of the padding token's id.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm")
_ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")


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
        old = (old_writes and self.old_target) or self.old
        new = (new_writes and self.new_target) or self.new
        return Vocabularies.of(old, new)

    @property
    def same(self) -> bool:
        """Whether the stage reads and writes as the weights do, as far as that is known."""
        found = [self.words(old_writes=writes, new_writes=writes) for writes in (False, True)]
        return all(words is None or words.same for words in found)


def config_for(
    config: Mapping[str, Any], old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return a model's config with the vocabulary of another tokenizer.

    Its special tokens keep their parts: the id of the token that begins a decoder, ends a text or
    fills it up becomes that of the same string, or of the token of the same role.

    Args:
        config: Of a model of transformers, as plain values.
        old: The tokenizer that it was made for.
        new: The one that it is to have.
    """
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("encoder", "decoder") and isinstance(value, Mapping):
            known = value.get("vocab_size") == config["encoder"].get("vocab_size")
            changed[key] = config_for(value, old, new) if known else value
        elif key == "vocab_size" and value is not None:
            changed[key] = len(new)
        elif key == "decoder_vocab_size" and value == config.get("vocab_size"):
            changed[key] = len(new)
        elif key.endswith("_token_id") and isinstance(value, int):
            changed[key] = _same_token(value, old, new)
        else:
            changed[key] = value
    if config.get("model_type") in _BEHIND_PADDING:
        moved = (changed.get("pad_token_id") or 0) - (config.get("pad_token_id") or 0)
        changed["max_position_embeddings"] = config["max_position_embeddings"] + moved
    return changed


def _same_token(
    token_id: int, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> int | None:
    """Return the id of a special token in another tokenizer, by string, then by role."""
    found = new.get_vocab().get(str(old.convert_ids_to_tokens(token_id)))
    if found is not None:
        return found
    for role in _ROLES:
        if getattr(old, f"{role}_token_id") == token_id:
            other: int | None = getattr(new, f"{role}_token_id")
            if other is not None:
                return other
    return None
