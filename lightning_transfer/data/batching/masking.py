"""Inputs and targets of masked and of causal language modelling."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.utils import IGNORED


@dataclass(frozen=True)
class Masking:
    """Options of masked language modelling as in BERT (arXiv:1810.04805).

    Exactly this fraction of each row is selected, and at least one token, so every row has a
    target.

    Args:
        probability: Fraction of a row's tokens to predict, in (0, 1).
        masked: Fraction of the tokens to predict that the mask token replaces, in [0, 1].
        random: Fraction of the tokens to predict that a random token replaces, in [0, 1]. The
            remaining ones are not changed.
        whole_words: True to select whole words instead of single tokens. The last selected word may
            exceed ``probability``.

    Raises:
        ValueError: If a fraction is out of range, or ``masked`` and ``random`` add up to more than
            1.
    """

    probability: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        """Check the fractions."""
        if not 0 < self.probability < 1:
            raise ValueError(f"masking.probability must be in (0, 1), got {self.probability}")
        for name in ("masked", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.masked + self.random > 1:
            raise ValueError(
                f"masking.masked={self.masked} and masking.random={self.random} add up to more "
                "than 1"
            )


class Masker:
    """Token targets of masked language modelling.

    Args:
        masking: Options of masking.
        tokenizer: Tokenizer of the rows, with a mask token.

    Raises:
        ValueError: If the tokenizer has no mask token.
    """

    def __init__(self, masking: Masking, tokenizer: PreTrainedTokenizerBase) -> None:
        """See the class."""
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token: masked language modelling needs a "
                "tokenizer with one; for causal language modelling, set data.pretraining=causal"
            )
        self.masking = masking
        self.mask_id = tokenizer.mask_token_id
        names = [str(tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer))]
        special = set(tokenizer.all_special_ids)
        # Random replacements are drawn from these: a special token would change the structure of
        # the row.
        self._plain = np.array([i for i in range(len(names)) if i not in special])
        self._continues = _continues_word(names)

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask one row.

        Args:
            ids: Token ids, int64 ``(seq,)``.
            special: True for tokens that are never predicted, bool ``(seq,)``.
            random: Generator of all draws.

        Returns:
            Input ids, and targets with -100 for tokens that are not predicted, both int64
            ``(seq,)``.
        """
        chosen = self._choose(ids, np.flatnonzero(~special), random)
        targets = np.full(len(ids), IGNORED, dtype=np.int64)
        targets[chosen] = ids[chosen]
        inputs = ids.copy()
        draws = random.random(len(chosen))
        inputs[chosen[draws < self.masking.masked]] = self.mask_id
        replaced = chosen[
            (draws >= self.masking.masked) & (draws < self.masking.masked + self.masking.random)
        ]
        inputs[replaced] = random.choice(self._plain, len(replaced))
        return inputs, targets

    def _choose(
        self, ids: np.ndarray, positions: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return the positions of the tokens to predict in ascending order.

        Args:
            ids: Token ids, int64 ``(seq,)``.
            positions: Positions of tokens that are not special, int64 ``(tokens,)``.
            random: Generator of the draw.
        """
        count = max(1, round(self.masking.probability * len(positions)))
        if not self.masking.whole_words:
            return np.sort(random.permutation(positions)[:count])
        # A gap between two positions is a special token, and ends a word as well.
        begins = ~self._continues[ids[positions]] | (np.diff(positions, prepend=-2) != 1)
        words = np.cumsum(begins) - 1
        order = random.permutation(words[-1] + 1) if len(words) else words
        sizes = np.bincount(words)[order] if len(words) else words
        # Words in random order, up to and including the word that reaches the count.
        enough = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        return positions[np.isin(words, order[:enough])]


def _continues_word(names: list[str]) -> np.ndarray:
    """Return True for tokens that continue the word before them, bool ``(vocabulary,)``."""
    for begin in ("▁", "Ġ"):  # SentencePiece and byte-level BPE mark the first token of a word
        if any(name.startswith(begin) and len(name) > 1 for name in names):
            return np.array([not name.startswith(begin) for name in names])
    return np.array([name.startswith("##") for name in names])  # WordPiece marks the others


class NextTokens:
    """Token targets of causal language modelling: each position predicts the next token."""

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the input ids and the targets of one row.

        Special tokens are predicted as well, so the model learns the ends of texts. The first token
        of a row is never predicted.

        Args:
            ids: Token ids, int64 ``(seq,)``.
            special: Not used.
            random: Not used.

        Returns:
            The ids, and the ids shifted to the left by one with -100 at the last position, both
            int64 ``(seq,)``.
        """
        return ids, np.append(ids[1:], IGNORED)
