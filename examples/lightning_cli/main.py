"""The parts of lightning_transfer under LightningCLI: jsonargparse in place of Hydra."""

from collections.abc import Callable

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, OptimizerCallable
from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.data import TextDataModule
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels


def rating_task(
    labels: Labels,
    name: str,
    head: Callable[[int, int], nn.Module],
    optimizer: OptimizerCallable,
) -> SequenceRegression:
    """Build a task from what a config can say.

    Args:
        labels: Linked to the data; no option.
        name: ``asset:minilm``, a folder or a hub id.
        head: Called with the width of the features and the number of outputs.
        optimizer: Called with the parameter groups.
    """
    backbone = Backbone.from_pretrained(name)
    built = head(backbone.hidden_size, labels.num_outputs)
    return SequenceRegression(backbone, built, labels=labels, recipe=Recipe(optimizer))


class TransferCLI(LightningCLI):
    """Labels go from the data to the task, and the backbone's tokenizer to the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the labels."""
        parser.link_arguments("data.labels", "model.labels", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build everything, then set the tokenizer."""
        super().instantiate_classes()
        self.datamodule.tokenizer = load_tokenizer(self.config[self.subcommand].model.name)


def main() -> TransferCLI:
    """Run the command line."""
    return TransferCLI(
        rating_task,
        TextDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # the task does it: one learning rate for each depth
    )


if __name__ == "__main__":
    main()
