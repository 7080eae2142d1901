"""Each token of a row as the target of the position before it."""

import numpy as np

from lightning_transfer.data.masking import IGNORED


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
