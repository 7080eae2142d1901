"""Which tokens a model has to guess, and what it sees in their place."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the target of a token that is not to be guessed, as in torch


@dataclass(frozen=True)
class Masking:
    """BERT's masks (arXiv:1810.04805): of the chosen tokens most become the mask token.

    Exactly this share of a row is chosen (at least one token), so that no row is without a target.

    Args:
        probability: Share of a row's tokens that are to be guessed, in (0, 1).
        masked: Share of these that become the mask token, in [0, 1].
        random: Share of these that become a random token, in [0, 1]; the rest stays as it is.
        whole_words: Choose whole words instead of single tokens; the last word chosen may exceed
            the share.

    Raises:
        ValueError: If a share is out of its range, or the two add up to more than 1.
    """

    probability: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        """Check the shares."""
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
    """Masks rows of one tokenizer's tokens.

    Args:
        masking: Which tokens, and how.
        tokenizer: Has a mask token.

    Raises:
        ValueError: If it has none.
    """

    def __init__(self, masking: Masking, tokenizer: PreTrainedTokenizerBase) -> None:
        """See the class."""
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token: masked language modelling needs a "
                "tokenizer with one"
            )
        self.masking = masking
        self.mask_id = tokenizer.mask_token_id
        names = [str(tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer))]
        special = set(tokenizer.all_special_ids)
        self._plain = np.array([i for i in range(len(names)) if i not in special])
        self._continues = _continues(names)

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask one row.

        Args:
            ids: Token ids, int64 ``(seq,)``.
            special: Which are never to be guessed, bool ``(seq,)``.
            random: Draws which tokens and what takes their place.

        Returns:
            What the model sees, and what it has to guess (-100 elsewhere), both int64 ``(seq,)``.
        """
        chosen = self._choose(ids, np.flatnonzero(~special), random)
        targets = np.full(len(ids), IGNORED, dtype=np.int64)
        targets[chosen] = ids[chosen]
        seen = ids.copy()
        fate = random.random(len(chosen))
        seen[chosen[fate < self.masking.masked]] = self.mask_id
        swapped = chosen[
            (fate >= self.masking.masked) & (fate < self.masking.masked + self.masking.random)
        ]
        seen[swapped] = random.choice(self._plain, len(swapped))
        return seen, targets

    def _choose(
        self, ids: np.ndarray, places: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return the places of the tokens to guess, ascending."""
        count = max(1, round(self.masking.probability * len(places)))
        if not self.masking.whole_words:
            return np.sort(random.permutation(places)[:count])
        # A gap between two places, where a special token stands, ends a word too.
        begins = ~self._continues[ids[places]] | (np.diff(places, prepend=-2) != 1)
        words = np.cumsum(begins) - 1
        order = random.permutation(words[-1] + 1) if len(words) else words
        sizes = np.bincount(words)[order] if len(words) else words
        enough = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        return places[np.isin(words, order[:enough])]


def _continues(names: list[str]) -> np.ndarray:
    """Return for each token whether it goes on with the word before it, bool ``(vocabulary,)``."""
    for begin in ("▁", "Ġ"):  # SentencePiece and byte-level BPE mark the beginnings
        if any(name.startswith(begin) and len(name) > 1 for name in names):
            return np.array([not name.startswith(begin) for name in names])
    return np.array([name.startswith("##") for name in names])


class NextTokens:
    """Stands where a :class:`Masker` does: nothing is hidden, every position guesses the next."""

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the model sees of a row, and what it has to guess at each position.

        Ends of texts are guessed as well; what a row begins with is not, nothing stands before it.

        Args:
            ids: Token ids, int64 ``(seq,)``.
            special: Of no matter here.
            random: Of no matter here.

        Returns:
            The ids, and the same one place further on, with -100 at the last place; both int64
            ``(seq,)``.
        """
        return ids, np.append(ids[1:], IGNORED)
