"""A callback of your own: how far the backbone moves away from its pretrained weights."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class BackboneDrift(Callback):
    """Log the backbone's distance from where the stage started, as a share of its length.

    Args:
        name: Column of ``metrics.csv``.
    """

    def __init__(self, name: str = "drift") -> None:
        """See the class."""
        super().__init__()
        self.name = name
        self._start: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that the stage starts from."""
        self._start = _weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        distance = (_weights(pl_module) - self._start).norm() / self._start.norm()
        pl_module.log(self.name, distance)


def _weights(pl_module: LightningModule) -> Tensor:
    parts = [p.detach().flatten() for p in pl_module.get_submodule("backbone").parameters()]
    return torch.cat(parts).clone()  # (parameters,)
