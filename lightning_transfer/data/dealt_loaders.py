"""Loaders of a DataModule that deals its batches to the processes itself."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lightning_transfer.data.batching import LengthBatchSampler
from lightning_transfer.data.loader import ResumableLoader, evaluation_loader


class DealtLoaders:
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
