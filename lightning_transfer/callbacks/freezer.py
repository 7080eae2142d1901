"""What callbacks that freeze have in common."""

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_transfer.callbacks._trainable import TrainableSet


class Freezer(Callback):
    """A callback that decides which parameters train during a fit.

    Its ``check`` tells mistakes before anything runs. What it leaves frozen binds no later fit.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        self._trainable: TrainableSet | None = None  # during a fit

    def check(self, pl_module: LightningModule) -> None:
        """Raise what is wrong with the arguments for a module.

        Raises:
            ValueError: As the class says.
        """
        raise NotImplementedError(f"{type(self).__name__} must define check()")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let later fits train what this one has left frozen."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let later fits train what this one has left frozen."""
        if self._trainable is not None:
            self._trainable.release()
            self._trainable = None
