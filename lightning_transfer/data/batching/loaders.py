"""A training loader that goes on in mid-epoch, at the batch where the run was cut off."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler


class ResumableLoader(DataLoader):
    """A ``DataLoader`` that knows how far it is.

    Lightning saves the state of a loader that has one into each checkpoint, and gives it back
    before it asks for the first batch. Without it a run resumed in mid-epoch sees other rows than
    one that was never interrupted (51 of 64 in our trial).

    The state is exact for checkpoints taken between two steps, which is when Lightning's own are
    taken. One taken in the middle of a step counts that step's batch as seen.

    Args:
        dataset: Rows; ``dataset[i]`` is what ``collate_fn`` gets a list of.
        batch_sampler: Deals the rows into batches.
        collate_fn: Makes a batch of a list of rows.

    Example:
        >>> sampler = LengthBatchSampler([1, 1, 1, 1], 1, seed=0, shuffle=True)
        >>> loader = ResumableLoader(list("abcd"), sampler, collate_fn=list)
        >>> batches = iter(loader)
        >>> seen = [next(batches), next(batches)]
        >>> resumed = ResumableLoader(
        ...     list("abcd"), LengthBatchSampler([1] * 4, 1, seed=0, shuffle=True), collate_fn=list
        ... )
        >>> resumed.load_state_dict(loader.state_dict())
        >>> list(resumed) == list(batches)
        True
    """

    batch_sampler: LengthBatchSampler

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_sampler: LengthBatchSampler,
        *,
        collate_fn: Callable[[list[Any]], Any],
    ) -> None:
        """See the class."""
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            # Its own: each new iterator draws a number, and from the global one that would
            # make a resumed run's dropout differ from an uninterrupted one's.
            generator=torch.Generator(),
        )
        self._epoch = batch_sampler.epoch  # the epoch that _batches counts in
        self._batches = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch ``epoch``, for loops without Lightning."""
        self.batch_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the epoch, from the place where a loaded state stood."""
        # A generator: all of this happens when the first batch is asked for, by then
        # Lightning has said which epoch it is.
        self._epoch, self._batches = self.batch_sampler.epoch, self.batch_sampler.start
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the place: ``batches`` of ``length`` were given out in epoch ``epoch``."""
        sampler = self.batch_sampler
        given = self._batches if self._epoch == sampler.epoch else 0
        return {"epoch": sampler.epoch, "batches": given, "length": len(sampler)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from ``state``; at the end of an epoch that is the start of the next.

        Raises:
            ValueError: If the state is from the middle of an epoch with another number of
                batches, whose place means nothing here.
        """
        epoch, batches = state["epoch"], state["batches"]
        length = len(self.batch_sampler)
        if batches >= state["length"]:
            epoch, batches = epoch + 1, 0
        elif batches and state["length"] != length:
            raise ValueError(
                f"the checkpoint stands at batch {batches} of {state['length']}, but an epoch now "
                f"has {length}; resume with the same data, batch_size, max_tokens and number of "
                "devices"
            )
        self.batch_sampler.set_epoch(epoch)
        self.batch_sampler.start = batches
        self._epoch, self._batches = epoch, batches


def distribute_to_ranks(
    lengths: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool,
    trainer: Trainer | None,
    max_tokens: int | None = None,
) -> LengthBatchSampler:
    """Return the batches of this process: a :class:`LengthBatchSampler` of its rank.

    Args:
        lengths: Tokens of each row, int64 ``(rows,)``.
        batch_size: Rows per device and batch at most.
        seed: Of the order.
        shuffle: ``True`` for training.
        trainer: Says the rank, and of how many; None: there is one process. One that is to
            overfit a few batches gets them in one order.
        max_tokens: Tokens per device and batch at most.
    """
    return LengthBatchSampler(
        lengths,
        batch_size,
        seed=seed,
        shuffle=shuffle and not getattr(trainer, "overfit_batches", 0),
        rank=trainer.global_rank if trainer else 0,
        world_size=trainer.world_size if trainer else 1,
        max_tokens=max_tokens,
    )


def check_ranks_have_rows(
    stage: str, count: Callable[[str], int], *, trainer: Trainer | None, where: str
) -> None:
    """Check that no rank goes without a row of the split that a stage evaluates on.

    Lightning leaves out the loop of a rank that has no batch, and the others would wait in vain for
    its part of the metrics. In training, rows are repeated where there are too few, and predictions
    are waited for by no one.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        count: Returns the rows of a split; one that has none is not evaluated.
        trainer: Says how many ranks there are; None: there is one process.
        where: What the data are called in the message.

    Raises:
        ValueError: If the split has rows, and fewer of them than there are ranks.
    """
    ranks = trainer.world_size if trainer else 1
    split, option = ("test", "test") if stage == "test" else ("validation", "val")
    if stage != "predict" and ranks > 1 and 0 < (rows := count(split)) < ranks:
        raise ValueError(
            f"{where}: {rows} {split} row(s) for {ranks} processes, and each needs one; hold back "
            f"more rows (splits.{option}) or use fewer processes (trainer.devices, "
            "trainer.num_nodes)"
        )


def evaluation_loader(
    rows: Dataset[Any], batches: LengthBatchSampler, collate: Callable[[Any], Any]
) -> DataLoader | list[Any]:
    """Return a loader of batches in a fixed order; nothing, where there are no rows.

    Args:
        rows: Of a split.
        batches: Deals them.
        collate: Makes a batch of a list of rows.
    """
    if not len(batches.lengths):
        return []
    return DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=collate,
        # Its own: or each evaluation would draw from the generator that dropout draws from.
        generator=torch.Generator(),
    )


def prediction_loader(
    rows: Dataset[Any], batches: LengthBatchSampler, collate: Callable[[Any], Any]
) -> DataLoader:
    """Return a loader of batches in a fixed order that Lightning can rebuild, as it does.

    Args:
        rows: Of a split.
        batches: Deals them.
        collate: Makes a batch of a list of rows.
    """
    # The batches as samples: Lightning rebuilds the loaders that it predicts with, and cannot
    # rebuild a batch sampler that is not torch's own.
    return DataLoader(
        rows, batch_size=None, sampler=batches, collate_fn=collate, generator=torch.Generator()
    )


class DistributedLoaders:
    """What Lightning asks a DataModule for: batches of each split, those of training resumable.

    A part of a DataModule, named before ``LightningDataModule`` among its bases; the DataModule
    says in ``_loader_parts`` what the batches of a split are made of.

    Lightning gives a training loader its place in the epoch back as well, but not if the loader was
    made before the loops were restored, as any schedule that asks for
    ``estimated_stepping_batches`` does. So the place is kept here too.
    """

    _train_loader: ResumableLoader | None = None
    _place: dict[str, int] | None = None  # of a run that is resumed

    def _loader_parts(
        self, split: str
    ) -> tuple[Dataset[Any], LengthBatchSampler, Callable[[Any], Any]]:
        """Return the rows of a split, what deals them, and what makes a batch of some of them."""
        raise NotImplementedError(f"{type(self).__name__} must define _loader_parts()")

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches: shuffled, of like lengths, resumable in mid-epoch."""
        rows, sampler, collate = self._loader_parts("train")
        self._train_loader = ResumableLoader(rows, sampler, collate_fn=collate)
        if self._place is not None:
            self._train_loader.load_state_dict(self._place)
            self._place = None
        return self._train_loader

    def val_dataloader(self) -> DataLoader | list[Any]:
        """Return the validation batches, longest rows first; none without validation rows."""
        return evaluation_loader(*self._loader_parts("validation"))

    def test_dataloader(self) -> DataLoader | list[Any]:
        """Return the test batches, longest rows first; none without test rows."""
        return evaluation_loader(*self._loader_parts("test"))

    def state_dict(self) -> dict[str, Any]:
        """Return how far the training batches are; Lightning puts it into checkpoints."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the place for the next training loader."""
        self._place = state_dict.get("train")
