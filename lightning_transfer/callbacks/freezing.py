"""Freezing by depth."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_transfer.optim import layers_of

log = logging.getLogger(__name__)


class Freezing(Callback):
    """Freeze the layers below a depth, for the whole run.

    A frozen layer takes no gradient, which is settled before DDP wraps the module, and it is in
    eval mode: its dropout is off and its running statistics stand still. What is outside the
    backbone, such as a head, always trains.

    Args:
        below: ``all`` freezes the whole backbone, ``embeddings`` depth 0 alone, a number the
            layers at depths smaller than it (0: nothing; 1: the embeddings).
        backbone: Attribute path of the backbone in the LightningModule; it has ``layers``, an
            ordered list of modules from the input up.

    Raises:
        ValueError: If ``below`` is neither, or there is no such depth (at the start of the run).

    Example:
        >>> Freezing("all").below
        'all'
    """

    def __init__(self, below: int | str = "all", *, backbone: str = "backbone") -> None:
        """See the class."""
        super().__init__()
        if below not in ("all", "embeddings") and not (type(below) is int and below >= 0):
            raise ValueError(f"below must be all, embeddings or a depth >= 0, got {below!r}")
        self.below = below
        self.backbone = backbone

    def frozen_modules(self, pl_module: LightningModule) -> list[nn.Module]:
        """Return the modules that do not train.

        Raises:
            ValueError: If the backbone shows no layers, or fewer than ``below`` asks for.
        """
        backbone = pl_module.get_submodule(self.backbone)
        if self.below == "all":
            return [backbone]
        layers = layers_of(backbone)
        depth = 1 if self.below == "embeddings" else int(self.below)
        if depth > len(layers):
            raise ValueError(
                f"below={depth} is deeper than the backbone: its depths are 0..{len(layers) - 1}; "
                f"below={len(layers)} freezes all layers"
            )
        return layers[:depth]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the gradients away, before the strategy wraps the module."""
        if stage != "fit":
            return
        frozen = self.frozen_modules(pl_module)
        for module in frozen:
            module.requires_grad_(False)
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        trains, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
        log.info("frozen below %s: %d of %d parameters train", self.below, trains, total)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the frozen modules in eval mode; a run resumed in mid-epoch starts none."""
        for module in self.frozen_modules(pl_module):
            module.eval()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them there again, whatever has happened between the epochs."""
        self.on_train_start(trainer, pl_module)
