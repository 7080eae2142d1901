"""Data loaders: distributed over ranks, and resumable within an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler


class ResumableLoader(DataLoader):
    """Training loader with a state: the epoch and the number of its batches so far.

    Lightning saves the state of a stateful loader in each checkpoint, and restores it before the
    first batch. Without a state, a run resumed within an epoch trains on other rows than an
    uninterrupted one (51 of 64 rows in a trial).

    The state is exact for checkpoints between two steps, as Lightning saves them. A checkpoint
    within a step counts the batch of that step as used.

    Args:
        dataset: Rows. ``dataset[i]`` is one element of the list for ``collate_fn``.
        batch_sampler: Sampler of the batches.
        collate_fn: Function of a list of rows that returns a batch.

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
            # A separate generator: each new iterator of a DataLoader draws a number. From the
            # global generator, it would change the dropout of a resumed run.
            generator=torch.Generator(),
        )
        self._epoch = batch_sampler.epoch  # epoch of the batches counted in _batches
        self._batches = 0

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the following iterations, for loops without Lightning."""
        self.batch_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the epoch, beginning at the position of a loaded state."""
        # A generator: the next line runs when the first batch is requested, after Lightning has
        # set the epoch.
        self._epoch, self._batches = self.batch_sampler.epoch, self.batch_sampler.start
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the training rows.

        Returns:
            ``epoch``, the number of ``batches`` used in it, and the number of all its batches as
            ``length``.
        """
        sampler = self.batch_sampler
        # The count is of another epoch if set_epoch was called since the last iteration.
        used = self._batches if self._epoch == sampler.epoch else 0
        return {"epoch": sampler.epoch, "batches": used, "length": len(sampler)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from a state; the end of an epoch resumes at the beginning of the next one.

        Args:
            state: State from :meth:`state_dict`.

        Raises:
            ValueError: If the state is within an epoch with another number of batches.
        """
        epoch, batches = state["epoch"], state["batches"]
        length = len(self.batch_sampler)
        if batches >= state["length"]:
            epoch, batches = epoch + 1, 0
        elif batches and state["length"] != length:
            raise ValueError(
                f"the checkpoint was saved at batch {batches} of {state['length']}, but an epoch "
                f"now has {length}; resume with the same data, batch_size, max_tokens and number "
                "of devices"
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
    """Return the batch sampler of this process.

    Args:
        lengths: Number of tokens of each row, int64 ``(rows,)`` or ``(rows, 2)``.
        batch_size: Largest number of rows per device and batch.
        seed: Seed of the order.
        shuffle: True for training.
        trainer: Trainer with the rank and the number of processes; None: a single process.
        max_tokens: Largest number of tokens per device and batch; None: no limit.
    """
    return LengthBatchSampler(
        lengths,
        batch_size,
        seed=seed,
        # overfit_batches needs the same batches in each epoch.
        shuffle=shuffle and not getattr(trainer, "overfit_batches", 0),
        rank=trainer.global_rank if trainer else 0,
        world_size=trainer.world_size if trainer else 1,
        max_tokens=max_tokens,
    )


def check_ranks_have_rows(
    stage: str, count: Callable[[str], int], *, trainer: Trainer | None, where: str
) -> None:
    """Check that each rank has a row of the split that a stage evaluates.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        count: Function of a split's name that returns its number of rows. A split without rows is
            not evaluated.
        trainer: Trainer with the number of processes; None: a single process.
        where: Name of the data in messages.

    Raises:
        ValueError: If the split has at least one row, but fewer rows than there are ranks.
    """
    # Lightning skips the evaluation loop of a rank without batches, and the other ranks wait for
    # its metrics forever. Training repeats rows instead, and in prediction no rank waits.
    ranks = trainer.world_size if trainer else 1
    split, option = ("test", "test") if stage == "test" else ("validation", "val")
    if stage != "predict" and ranks > 1 and 0 < (rows := count(split)) < ranks:
        raise ValueError(
            f"{where}: {rows} {split} row(s) for {ranks} processes, and each process needs one; "
            f"set data.splits.{option}={ranks} or more, or use fewer processes (trainer.devices, "
            "trainer.num_nodes)"
        )


def evaluation_loader(
    rows: Dataset[Any], batch_sampler: LengthBatchSampler, collate: Callable[[Any], Any]
) -> DataLoader | list[Any]:
    """Return a loader of batches in a fixed order, or an empty list if there are no rows.

    Args:
        rows: Rows of a split.
        batch_sampler: Sampler of the batches.
        collate: Function of a list of rows that returns a batch.
    """
    if not len(batch_sampler.lengths):
        return []
    return DataLoader(
        rows,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        # A separate generator: each evaluation would else draw from the generator of dropout.
        generator=torch.Generator(),
    )


def prediction_loader(
    rows: Dataset[Any], batch_sampler: LengthBatchSampler, collate: Callable[[Any], Any]
) -> DataLoader:
    """Return a loader of batches in a fixed order for ``Trainer.predict``.

    Args:
        rows: Rows of a split.
        batch_sampler: Sampler of the batches.
        collate: Function of a list of rows that returns a batch.
    """
    # Lightning rebuilds the loaders for prediction, and can rebuild torch's own batch samplers
    # only. Without a batch size, the batches are samples of an ordinary sampler.
    return DataLoader(
        rows,
        batch_size=None,
        sampler=batch_sampler,
        collate_fn=collate,
        generator=torch.Generator(),
    )


class DistributedLoaders:
    """Mixin of a DataModule with the loaders of its splits; the training loader is resumable.

    A DataModule names it before ``LightningDataModule`` among its bases, and implements
    ``_loader_parts``.
    """

    _train_loader: ResumableLoader | None = None
    # Lightning does not restore a training loader created before the loops are restored, as by a
    # schedule that reads estimated_stepping_batches. The DataModule therefore saves and restores
    # the state itself as well.
    _resume_state: dict[str, int] | None = None

    def _loader_parts(
        self, split: str
    ) -> tuple[Dataset[Any], LengthBatchSampler, Callable[[Any], Any]]:
        """Return the rows, the batch sampler and the collate function of a split."""
        raise NotImplementedError(f"{type(self).__name__} must define _loader_parts()")

    def train_dataloader(self) -> ResumableLoader:
        """Return the training loader: shuffled batches of similar length, resumable."""
        rows, sampler, collate = self._loader_parts("train")
        self._train_loader = ResumableLoader(rows, sampler, collate_fn=collate)
        if self._resume_state is not None:
            self._train_loader.load_state_dict(self._resume_state)
            self._resume_state = None
        return self._train_loader

    def val_dataloader(self) -> DataLoader | list[Any]:
        """Return the validation loader, longest rows first; empty without validation rows."""
        return evaluation_loader(*self._loader_parts("validation"))

    def test_dataloader(self) -> DataLoader | list[Any]:
        """Return the test loader, longest rows first; empty without test rows."""
        return evaluation_loader(*self._loader_parts("test"))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the training loader; Lightning saves it in checkpoints."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the state of a checkpoint for the next training loader."""
        self._resume_state = state_dict.get("train")
