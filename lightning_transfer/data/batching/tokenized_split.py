"""Datasets and collate functions of labelled texts and of pairs of text and target text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.tokenization.token_table import TokenTable, padding_id
from lightning_transfer.utils import IGNORED


class TokenizedSplit(Dataset[Any]):
    """Tokenized rows of one split with their targets.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table in the split, int64 ``(rows,)``.
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
        """Number of tokens of each row, int64 ``(rows,)``."""
        return self.table.lengths[self.positions]

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one row, or several concatenated rows.

        Args:
            index: Position in the split, or a list of positions.

        Returns:
            For one row: the model inputs, each ``(seq,)``, ``labels`` if there are any, ``index``
            (position in the split) and ``row`` (position in the table). For a list: the
            concatenated model inputs, each ``(tokens,)``, their ``lengths``, int64 ``(rows,)``, and
            the other entries, ``(rows, ...)``.
        """
        row = self.positions[index]
        several = isinstance(index, list)
        inputs = self.table.take(row) if several else self.table.row(int(row))
        labels = {} if self.targets is None else {"labels": self.targets[row]}
        return {**inputs, **labels, "index": np.array(index) if several else index, "row": row}

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """Return the rows of a batch; a ``DataLoader`` prefers this method to single rows."""
        # One vectorised gather for the batch instead of a slice for each row.
        return self[positions]


class Collate:
    """Collate function that pads rows to the longest row of the batch.

    Args:
        tokenizer: Tokenizer of the rows, for the padding id.
        token_padding: Name -> padding value of further entries with a value for each token, such as
            the labels of tags.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, token_padding: Mapping[str, int] | None = None
    ) -> None:
        """See the class."""
        self.padding = {"input_ids": padding_id(tokenizer), "token_type_ids": 0}
        self.padding |= token_padding or {}

    def __call__(self, rows: Any) -> dict[str, Tensor]:
        """Return one batch.

        Args:
            rows: Concatenated rows of a :class:`TokenizedSplit`, such as ``split[[3, 5]]``.

        Returns:
            ``input_ids``, ``attention_mask`` (1 for tokens, 0 for padding) and, if the rows have
            them, ``token_type_ids``: int64 ``(batch, seq)``. ``labels``, if the rows have them:
            ``(batch, ...)`` as from :meth:`Rows.tensor_targets`, or int64 ``(batch, seq)`` for
            labels of tokens. ``index`` (position in the split) and ``row`` (position in the
            :class:`TokenTable`): int64 ``(batch,)``.
        """
        rest = dict(rows)
        lengths = rest.pop("lengths")
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (batch, seq)
        batch = {"attention_mask": mask.astype(np.int64)}
        for name, padding in self.padding.items():
            if name in rest:
                batch[name] = np.full(mask.shape, padding, dtype=np.int64)
                # A boolean mask is filled in row-major order, the order of the concatenated rows.
                batch[name][mask] = rest.pop(name)
        return {name: torch.from_numpy(array) for name, array in {**batch, **rest}.items()}


def mark_unpadded(batch: Any) -> Any:
    """Add an entry ``full`` to a batch without padding.

    Attention needs no mask for such a batch. The check runs while the batch is on the CPU, because
    reading the mask from a device would wait for the device.

    Args:
        batch: A batch, or a mapping of batches. Any other value is returned unchanged.

    Returns:
        The batch, with an empty tuple as ``full`` if all values of its attention mask are 1.
    """
    if not isinstance(batch, Mapping):
        return batch
    if "attention_mask" in batch:
        # An empty tuple and not True: Lightning infers the batch size from all values, and only an
        # empty one is skipped.
        return {**batch, "full": ()} if batch["attention_mask"].all() else batch
    return {name: mark_unpadded(part) for name, part in batch.items()}


class TargetSplit(Dataset[Any]):
    """Tokenized pairs of one split: text and target text.

    Args:
        texts: Texts of the split.
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
        """Number of tokens of the text and the target text of each pair, int64 ``(rows, 2)``."""
        targets = self.targets.lengths[self.texts.positions]
        return np.stack([self.texts.lengths, targets], axis=1)  # (rows, 2)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one pair, or several concatenated pairs.

        Args:
            index: Position in the split, or a list of positions.

        Returns:
            The entries of :class:`TokenizedSplit`, and the tokens of the target texts as
            ``labels``: ``(seq,)`` for one pair; for a list ``(tokens,)``, with ``label_lengths``,
            int64 ``(rows,)``.
        """
        row = self.texts.positions[index]
        if not isinstance(index, list):
            return {**self.texts[index], "labels": self.targets.row(int(row))["input_ids"]}
        taken = self.targets.take(row)
        labels = {"labels": taken["input_ids"], "label_lengths": taken["lengths"]}
        return {**self.texts[index], **labels}

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """Return the pairs of a batch; a ``DataLoader`` prefers this method to single pairs."""
        return self[positions]


class TargetCollate:
    """Collate function that pads texts and target texts to the longest ones of the batch.

    Args:
        tokenizer: Tokenizer of the texts, for the padding id.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See the class."""
        self._texts = Collate(tokenizer)

    def __call__(self, rows: Any) -> dict[str, Tensor]:
        """Return one batch.

        Args:
            rows: Concatenated pairs of a :class:`TargetSplit`, such as ``split[[3, 5]]``.

        Returns:
            The entries of :class:`Collate` for the texts, and the tokens of the target texts as
            ``labels``, -100 for padding, int64 ``(batch, target seq)``.
        """
        rest = dict(rows)
        labels, lengths = rest.pop("labels"), rest.pop("label_lengths")
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (batch, target seq)
        padded = np.full(mask.shape, IGNORED, dtype=np.int64)
        padded[mask] = labels  # filled in row-major order
        return {**self._texts(rest), "labels": torch.from_numpy(padded)}
