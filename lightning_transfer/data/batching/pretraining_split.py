"""Rows of raw text with their targets, drawn anew in each epoch; and how they become a batch."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.batching.masking import IGNORED
from lightning_transfer.data.tokenization.token_table import padding_id


class RowSource(Protocol):
    """Rows of tokens, such as :class:`Blocks` and :class:`SentencePairs`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 ``(rows,)``."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def row(self, position: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return ``input_ids`` and ``special``, each ``(seq,)``, and what else the row has."""
        ...


class TokenTargets(Protocol):
    """What is to be guessed of a row, such as :class:`Masker` and :class:`NextTokens`."""

    def __call__(
        self, ids: np.ndarray, special: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the model sees and what it has to guess, both int64 ``(seq,)``."""
        ...


class PretrainingSplit(Dataset[Any]):
    """Rows of one split with what is to be guessed in them.

    What is drawn follows from (seed, epoch, row) and from nothing else, neither from the batch nor
    from the rank, so that a resumed run and one on several devices draw the same.

    Args:
        rows: Where the rows come from.
        token_targets: Chooses what is to be guessed.
        seed: Of all that is drawn.
        sampler: Says which epoch it is; None: the draw is the same in every epoch.
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
        epoch = 0 if self.sampler is None else self.sampler.epoch + 1
        random = np.random.default_rng([self.seed, epoch, index])
        row = self.rows.row(index, random)
        special = row.pop("special")
        row["input_ids"], labels = self.token_targets(row["input_ids"], special, random)
        return {**row, "labels": labels, "index": np.int64(index)}


class PretrainingCollate:
    """Pads rows and their targets to the longest of the batch.

    Args:
        tokenizer: Says the padding's id.
        unigram: Log-probability of each id where nothing is known of a text, float32
            ``(vocabulary,)``; None: batches do not say how well it does.
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
            ``input_ids``, ``attention_mask`` (1 on tokens), ``labels`` (-100 where nothing is to
            be guessed) and, if the rows have them, ``token_type_ids``: int64 ``(batch, seq)``.
            ``pair_labels``, if the rows are pairs, and ``index``: int64 ``(batch,)``.
            ``unigram_loss``: what the unigram baseline loses at each target, float32
            ``(targets,)``.
        """
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        fill = {"input_ids": self.pad_id, "labels": IGNORED, "token_type_ids": 0}
        names = [name for name in fill if name in rows[0]]
        batch = {name: np.full(shape, fill[name], dtype=np.int64) for name in names}
        batch["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["attention_mask"][place, :length] = 1
            for name in names:
                batch[name][place, :length] = row[name]
        batch["index"] = np.array([row["index"] for row in rows])
        if "pair" in rows[0]:
            batch["pair_labels"] = np.array([row["pair"] for row in rows])
        if self.unigram is not None:
            targets = batch["labels"][batch["labels"] != IGNORED]
            batch["unigram_loss"] = -self.unigram[targets]  # (targets,)
        return {name: torch.from_numpy(array) for name, array in batch.items()}
