"""Length of token sequences, and truncation of longer texts."""

from dataclasses import dataclass

import numpy as np

MODES = ("head", "tail", "head+tail")


# The cache key of tokens contains the repr of this class: a renamed or an added field makes all
# cached tokens invalid.
@dataclass(frozen=True)
class Tokens:
    """Length of the token sequences, and the part of a longer text that is kept.

    The end of a review is often more informative than its beginning, so the part can be chosen.
    Sun et al. 2019 (arXiv:1905.05583) found ``head+tail`` best on IMDb, with a quarter of the
    length for the head. Special tokens are never truncated.

    Args:
        max_length: Largest number of tokens in a row, including special tokens, >= 1.
        truncation: Part of a longer text to keep: ``head`` (beginning), ``tail`` (end), or
            ``head+tail`` (both).
        head_fraction: Fraction of the kept tokens at the beginning of the text for ``head+tail``,
            in [0, 1].
        prefix: Text to prepend to each text, such as ``"summarize: "`` for T5.

    Raises:
        ValueError: If a value is out of range, ``truncation`` is unknown, or ``truncation`` may
            remove the prefix.

    Example:
        >>> Tokens(truncation="head+tail").kept(10, 4).tolist()
        [0, 7, 8, 9]
    """

    max_length: int = 128
    truncation: str = "head"
    head_fraction: float = 0.25
    prefix: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.max_length < 1:
            raise ValueError(f"tokens.max_length must be >= 1, got {self.max_length}")
        if self.truncation not in MODES:
            raise ValueError(
                f"tokens.truncation must be one of {', '.join(MODES)}, got {self.truncation!r}"
            )
        if not 0 <= self.head_fraction <= 1:
            raise ValueError(f"tokens.head_fraction must be in [0, 1], got {self.head_fraction}")
        if self.prefix and self.truncation != "head":
            raise ValueError(
                f"tokens.truncation must be head with tokens.prefix={self.prefix!r}, got "
                f"{self.truncation!r}: it may remove the prefix; set data.tokens.truncation=head"
            )

    def kept(self, length: int, budget: int) -> np.ndarray:
        """Return the positions of the tokens that remain after truncation.

        Args:
            length: Number of tokens before truncation, without special tokens.
            budget: Largest number of tokens after truncation.

        Returns:
            Positions in ascending order, int64 ``(min(length, budget),)``.
        """
        if length <= budget:
            return np.arange(length)
        head = {"head": budget, "tail": 0}.get(
            self.truncation, min(budget, round(budget * self.head_fraction))
        )
        return np.concatenate([np.arange(head), np.arange(length - (budget - head), length)])
