"""The rows of one split, as tokens; and how rows become a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.masking import IGNORED
from lightning_transfer.data.tokenization.token_table import TokenTable, padding_id


class TokenizedSplit(Dataset[Any]):
    """Rows of one split: token ids, target, and the position in the split and in the table.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table that belong to the split, int64 ``(rows,)``.
        targets: Target of each row of the table, ``(table rows, ...)``; ``None``: no labels.
    """

    def __init__(
        self, table: TokenTable, positions: np.ndarray, targets: np.ndarray | None
    ) -> None:
        """See the class."""
        self.table = table
        self.positions = positions
        self.targets = targets

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.positions)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 ``(rows,)``."""
        return self.table.lengths[self.positions]

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one row, or the rows of a list of positions end to end.

        Returns:
            Of one row: the model inputs, each ``(seq,)``, ``labels`` if there are any, ``index``
            and ``row``. Of a list: the same, the model inputs as ``(tokens,)`` and the rest as
            ``(rows, ...)``, and the ``lengths`` of the rows, int64 ``(rows,)``.
        """
        row = self.positions[index]
        several = isinstance(index, list)
        inputs = self.table.take(row) if several else self.table.row(int(row))
        labels = {} if self.targets is None else {"labels": self.targets[row]}
        return {**inputs, **labels, "index": np.array(index) if several else index, "row": row}

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """Return the rows of a batch: what a ``DataLoader`` asks for, if there is such a method."""
        return self[positions]


class Collate:
    """Pads rows to the longest of the batch.

    Args:
        tokenizer: Says the padding's id.
        of_tokens: What else the rows have for each token, and what fills it up: name to value.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, of_tokens: Mapping[str, int] | None = None
    ) -> None:
        """See the class."""
        self.padding = {"input_ids": padding_id(tokenizer), "token_type_ids": 0}
        self.padding |= of_tokens or {}

    def __call__(self, rows: Any) -> dict[str, Tensor]:
        """Return one batch.

        Args:
            rows: Rows end to end, as a :class:`TokenizedSplit` gives them: ``split[[3, 5]]``.

        Returns:
            ``input_ids``, ``attention_mask`` (1 on tokens, 0 on padding) and, if the rows have
            them, ``token_type_ids``: int64 ``(batch, seq)``. ``labels``, if the rows have them: as
            :meth:`Rows.tensor_targets` says, ``(batch, ...)``, or int64 ``(batch, seq)`` if they
            are of the tokens. ``index``, the rows' positions in
            the split, and ``row``, those in the whole :class:`TokenTable`: int64 ``(batch,)``.
        """
        rest = dict(rows)
        lengths = rest.pop("lengths")
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (batch, seq)
        batch = {"attention_mask": mask.astype(np.int64)}
        for name, padding in self.padding.items():
            if name in rest:
                batch[name] = np.full(mask.shape, padding, dtype=np.int64)
                batch[name][mask] = rest.pop(name)  # row by row, as they lie end to end
        return {name: torch.from_numpy(array) for name, array in {**batch, **rest}.items()}


def mark_full(batch: Any) -> Any:
    """Mark a batch that has no padding by an entry ``full``, while it is on the CPU.

    Attention then needs no mask, and no device has to be waited for to find out. The entry is an
    empty tuple, because Lightning takes the size of a batch from all that it holds.

    Args:
        batch: A batch, or a mapping of batches; anything else is left as it is.
    """
    if not isinstance(batch, Mapping):
        return batch
    if "attention_mask" in batch:
        return {**batch, "full": ()} if batch["attention_mask"].all() else batch
    return {name: mark_full(part) for name, part in batch.items()}


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
