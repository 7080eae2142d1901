"""Training with LightningCLI and jsonargparse instead of Hydra."""

from collections.abc import Callable

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, OptimizerCallable
from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints import load_tokenizer
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
    """Build a task from the values of a config.

    Args:
        labels: Labels of the data; linked to the DataModule, so not an option.
        name: ``asset:minilm``, a folder or a hub model id.
        head: Head without its sizes; called with the hidden size and the number of outputs.
        optimizer: Optimizer without parameters; called with the parameter groups.
    """
    backbone = Backbone.from_pretrained(name)
    built = head(backbone.hidden_size, labels.num_outputs)
    return SequenceRegression(backbone, built, labels=labels, recipe=Recipe(optimizer))


class TransferCLI(LightningCLI):
    """LightningCLI that passes the labels to the task and the tokenizer to the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the labels of the data to the task."""
        parser.link_arguments("data.labels", "model.labels", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build model, data and trainer, then set the tokenizer of the data."""
        super().instantiate_classes()
        self.datamodule.tokenizer = load_tokenizer(self.config[self.subcommand].model.name)


def main() -> TransferCLI:
    """Run the command line."""
    return TransferCLI(
        rating_task,
        TextDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # the task does it, with a parameter group for each depth
    )


if __name__ == "__main__":
    main()
