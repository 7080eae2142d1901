"""The pairs of one split as tokens; and how they become a batch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.masking import IGNORED
from lightning_transfer.data.token_table import TokenTable
from lightning_transfer.data.tokenized_split import Collate, TokenizedSplit


class TargetSplit(Dataset[Any]):
    """Pairs of one split: token ids of both sides, and the position in the split and in the table.

    Args:
        texts: The texts of the split.
        targets: Tokens of the target texts of the whole data set.
    """

    def __init__(self, texts: TokenizedSplit, targets: TokenTable) -> None:
        """See the class."""
        self.texts = texts
        self.targets = targets

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.texts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of text and target of each pair, int64 ``(rows, 2)``."""
        targets = self.targets.lengths[self.texts.positions]
        return np.stack([self.texts.lengths, targets], axis=1)  # (rows, 2)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one pair, or those of a list of positions end to end.

        Returns:
            What the :class:`TokenizedSplit` returns, and ``labels``, the target's tokens: of one
            pair ``(seq,)``, of a list ``(tokens,)`` with ``label_lengths``, int64 ``(rows,)``.
        """
        row = self.texts.positions[index]
        if not isinstance(index, list):
            return {**self.texts[index], "labels": self.targets.row(int(row))["input_ids"]}
        taken = self.targets.take(row)
        labels = {"labels": taken["input_ids"], "label_lengths": taken["lengths"]}
        return {**self.texts[index], **labels}

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """Return the pairs of a batch: what a ``DataLoader`` asks for, where it can."""
        return self[positions]


class TargetCollate:
    """Pads both sides of pairs to the longest of the batch.

    Args:
        tokenizer: Says the padding's id of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See the class."""
        self._texts = Collate(tokenizer)

    def __call__(self, rows: Any) -> dict[str, Tensor]:
        """Return one batch.

        Args:
            rows: Pairs end to end, as a :class:`TargetSplit` gives them: ``split[[3, 5]]``.

        Returns:
            What :class:`Collate` returns of the texts, with ``labels``: the targets' tokens, -100
            on padding, int64 ``(batch, target seq)``.
        """
        rest = dict(rows)
        labels, lengths = rest.pop("labels"), rest.pop("label_lengths")
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (batch, target seq)
        padded = np.full(mask.shape, IGNORED, dtype=np.int64)
        padded[mask] = labels  # row by row, as they lie end to end
        return {**self._texts(rest), "labels": torch.from_numpy(padded)}
