"""A custom callback: distance of the backbone from its initial weights."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class BackboneDrift(Callback):
    """Log the relative distance of the backbone from its weights at the start of the stage.

    The distance is the 2-norm of the change, divided by the 2-norm of the initial weights.

    Args:
        name: Column of ``metrics.csv``.
    """

    def __init__(self, name: str = "drift") -> None:
        """See the class."""
        super().__init__()
        self.name = name
        self._start: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the initial weights."""
        self._start = _weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the distance at the end of an epoch."""
        distance = (_weights(pl_module) - self._start).norm() / self._start.norm()
        pl_module.log(self.name, distance)


def _weights(pl_module: LightningModule) -> Tensor:
    """Return a copy of all parameters of the backbone as one vector."""
    parts = [p.detach().flatten() for p in pl_module.get_submodule("backbone").parameters()]
    return torch.cat(parts).clone()  # (parameters,)
