"""The rows of one split, as tokens; and how rows become a batch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.token_table import TokenTable


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

    def __getitem__(self, index: int | list[int]) -> Any:
        """Return one row, or a list of rows for a list of positions."""
        if isinstance(index, list):
            return [self[position] for position in index]
        row = self.positions[index]
        labels = {} if self.targets is None else {"labels": self.targets[row]}
        return {**self.table.row(row), **labels, "index": index, "row": row}


class Collate:
    """Pads rows to the longest of the batch.

    Args:
        tokenizer: Says the padding's id. Any id does where there is no padding token, because the
            mask hides it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See the class."""
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(token for token in ids if token is not None)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one batch.

        Returns:
            ``input_ids``, ``attention_mask`` (1 on tokens, 0 on padding) and, if the rows have
            them, ``token_type_ids``: int64 ``(batch, seq)``. ``labels``, if the rows have them: as
            :meth:`Rows.tensor_targets` says, ``(batch, ...)``. ``index``, the rows' positions in
            the split, and ``row``, those in the whole :class:`TokenTable`: int64 ``(batch,)``.
        """
        shape = (len(rows), max(1, *(len(row["input_ids"]) for row in rows)))
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        batch = {name: np.zeros(shape, dtype=np.int64) for name in [*names, "attention_mask"]}
        batch["input_ids"][:] = self.pad_id
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["attention_mask"][place, :length] = 1
            for name in names:
                batch[name][place, :length] = row[name]
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if "labels" in rows[0]:
            tensors["labels"] = torch.from_numpy(np.stack([row["labels"] for row in rows]))
        for number in ("index", "row"):
            tensors[number] = torch.tensor([int(row[number]) for row in rows])
        return tensors
