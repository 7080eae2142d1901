"""Modes of layers whose weights were frozen by something else."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_transfer.callbacks.modes import count_trainable, eval_frozen_layers

log = logging.getLogger(__name__)


class FrozenModes(Callback):
    """Keep layers in which nothing trains in eval mode, and say once how many parameters train.

    An adapter freezes the weights when it is applied, which settles the gradients; what remains is
    dropout. A layer that holds a part of the adapter is trained, and its dropout is on; one that
    holds none, such as the embeddings, only passes its input on, and its dropout is off.

    Args:
        title: What freezes, for the log line.
        backbone: Attribute path of the backbone in the LightningModule; it has ``layers``.

    Example:
        >>> FrozenModes("LoRA").title
        'LoRA'
    """

    def __init__(self, title: str = "frozen", *, backbone: str = "backbone") -> None:
        """See the class."""
        super().__init__()
        self.title = title
        self.backbone = backbone

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line, when all callbacks have frozen what they freeze."""
        log.info("%s: %s", self.title, count_trainable(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes; a run resumed in mid-epoch starts none."""
        eval_frozen_layers(pl_module.get_submodule(self.backbone))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them again, whatever has happened between the epochs."""
        self.on_train_start(trainer, pl_module)
