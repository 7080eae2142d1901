"""Bias terms alone."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_transfer.callbacks.modes import count_trainable, eval_frozen_layers

log = logging.getLogger(__name__)


class BitFit(Callback):
    """Train the bias terms of the backbone, and whatever is outside of it, such as the head.

    Ben Zaken et al. 2022 (arXiv:2106.10199): all biases, those of the layer norms included. A layer
    with biases is trained, so its dropout is on; one without them is in eval mode. What another
    callback has frozen stays frozen.

    Args:
        backbone: Attribute path of the backbone in the LightningModule; it has ``layers``.

    Raises:
        ValueError: If the backbone has no bias terms (at the start of the run).

    Example:
        >>> BitFit().backbone
        'backbone'
    """

    def __init__(self, *, backbone: str = "backbone") -> None:
        """See the class."""
        super().__init__()
        self.backbone = backbone

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the gradients of all else away, before the strategy wraps the module."""
        if stage != "fit":
            return
        backbone = pl_module.get_submodule(self.backbone)
        named = dict(backbone.named_parameters())
        biases = [name for name in named if name.endswith("bias")]
        if not biases:
            raise ValueError(
                f"{type(backbone).__name__} has no bias terms (no parameter whose name ends in "
                "`bias`), so BitFit would train the head alone; use strategy=frozen for that"
            )
        for name in named.keys() - set(biases):
            named[name].requires_grad_(False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many parameters train."""
        log.info("biases: %s", count_trainable(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the modes; a run resumed in mid-epoch starts none."""
        eval_frozen_layers(pl_module.get_submodule(self.backbone))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them again, whatever has happened between the epochs."""
        self.on_train_start(trainer, pl_module)
