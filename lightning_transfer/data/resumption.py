"""The place in an epoch, kept from a checkpoint until there is a loader to give it to."""

from typing import Any

from lightning_transfer.data.loader import ResumableLoader


class Resumption:
    """What a DataModule does to let its training batches be resumed in mid-epoch.

    Lightning gives a loader its place back as well, but not if the loader was made before the
    loops were restored, as any schedule that asks for ``estimated_stepping_batches`` does.
    """

    def __init__(self) -> None:
        """See the class."""
        self._loader: ResumableLoader | None = None
        self._place: dict[str, int] | None = None  # of a run that is resumed

    def begin(self, loader: ResumableLoader) -> ResumableLoader:
        """Return a new training loader, at the place that was loaded if there is one."""
        self._loader = loader
        if self._place is not None:
            loader.load_state_dict(self._place)
            self._place = None
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return how far the training batches are, for a DataModule's ``state_dict``."""
        return {} if self._loader is None else {"train": self._loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the place for the next training loader."""
        self._place = state.get("train")
