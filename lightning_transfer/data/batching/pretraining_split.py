"""Dataset and collate function of pretraining on raw text."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.tokenization.token_table import padding_id
from lightning_transfer.utils import IGNORED


class RowSource(Protocol):
    """Protocol of rows of tokens, such as :class:`Blocks` and :class:`SentencePairs`."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64 ``(rows,)``."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return ``input_ids`` and ``special``, each ``(seq,)``, and further arrays of the row."""
        ...


class TokenTargets(Protocol):
    """Protocol of token targets, such as :class:`Masker` and :class:`NextTokens`."""

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the input ids and the targets of a row, both int64 ``(seq,)``."""
        ...


class PretrainingSplit(Dataset[Any]):
    """Rows of one split with token targets, drawn again in each epoch.

    The draws depend only on (seed, epoch, row), not on the batch or the rank. A resumed run and a
    run on several devices therefore draw the same targets.

    Args:
        rows: Source of the rows.
        token_targets: Function that selects the tokens to predict.
        seed: Seed of all draws.
        sampler: Batch sampler with the current epoch; None: the same draws in every epoch.
    """

    def __init__(
        self,
        rows: RowSource,
        token_targets: TokenTargets,
        *,
        seed: int,
        sampler: LengthBatchSampler | None = None,
    ) -> None:
        """See the class."""
        self.rows = rows
        self.token_targets = token_targets
        self.seed = seed
        self.sampler = sampler

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int | list[int]) -> Any:
        """Return one row, or a list of rows for a list of positions."""
        if isinstance(index, list):
            return [self[position] for position in index]
        # 0 is reserved for evaluation: its draws differ from those of all training epochs.
        epoch = 0 if self.sampler is None else self.sampler.epoch + 1
        random = np.random.default_rng([self.seed, epoch, index])
        row = self.rows.row(index, random)
        special = row.pop("special")
        row["input_ids"], labels = self.token_targets(row["input_ids"], special, random)
        return {**row, "labels": labels, "index": np.int64(index)}


class PretrainingCollate:
    """Collate function that pads rows and targets to the longest row of the batch.

    Args:
        tokenizer: Tokenizer of the rows, for the padding id.
        unigram: Log-probability of each token id in the training text, the unigram baseline,
            float32 ``(vocabulary,)``; None: batches have no ``unigram_loss``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, unigram: np.ndarray | None = None
    ) -> None:
        """See the class."""
        self.pad_id = padding_id(tokenizer)
        self.unigram = unigram

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one batch.

        Returns:
            ``input_ids``, ``attention_mask`` (1 for tokens, 0 for padding), ``labels`` (-100 for
            tokens that are not predicted) and, if the rows have them, ``token_type_ids``: int64
            ``(batch, seq)``. ``pair_labels``, if the rows are pairs, and ``index``: int64
            ``(batch,)``. ``unigram_loss``: cross-entropy of the unigram baseline for each target,
            float32 ``(targets,)``.
        """
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        fill = {"input_ids": self.pad_id, "labels": IGNORED, "token_type_ids": 0}
        names = [name for name in fill if name in rows[0]]
        batch = {name: np.full(shape, fill[name], dtype=np.int64) for name in names}
        batch["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["attention_mask"][number, :length] = 1
            for name in names:
                batch[name][number, :length] = row[name]
        batch["index"] = np.array([row["index"] for row in rows])
        if "pair" in rows[0]:
            batch["pair_labels"] = np.array([row["pair"] for row in rows])
        if self.unigram is not None:
            # Computed here on the CPU, so the table of the vocabulary is never copied to a device.
            targets = batch["labels"][batch["labels"] != IGNORED]
            batch["unigram_loss"] = -self.unigram[targets]  # (targets,)
        return {name: torch.from_numpy(array) for name, array in batch.items()}
