"""What trains and what does not: counted once, and its modes kept."""

from lightning.pytorch import LightningModule
from torch import nn

from lightning_transfer.optim import layers_of


def eval_frozen_layers(backbone: nn.Module) -> None:
    """Put the layers of a backbone in which nothing trains in eval mode; leave the others alone."""
    for layer in layers_of(backbone):
        parameters = list(layer.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            layer.eval()


def count_trainable(pl_module: LightningModule) -> str:
    """Say how many parameters of a module train, such as ``1,234 of 56,789 … (2.17 %)``."""
    sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
    trains, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"{trains:,} of {total:,} parameters train ({100 * trains / total:.2f} %)"
