"""Training in a plain Lightning script, without Hydra."""

from lightning.pytorch import Trainer, seed_everything

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints import load_tokenizer
from lightning_transfer.data import MovieSnippets, Splits
from lightning_transfer.heads import LinearHead
from lightning_transfer.tasks import SequenceRegression


def main(model: str = "asset:minilm", *, source: str | None = None, epochs: int = 3) -> float:
    """Train a regression on movie snippets, and return Pearson's r on the test rows.

    Args:
        model: ``asset:minilm``, a folder or a hub model id.
        source: File with the snippets; None for the packaged one.
        epochs: Number of epochs over the 500 training rows.
    """
    seed_everything(0)
    data = MovieSnippets(source, train_size=500, splits=Splits(val=0.05, test=0.1))
    data.tokenizer = load_tokenizer(model)  # the data need the backbone's
    backbone = Backbone.from_pretrained(model)
    head = LinearHead(backbone.hidden_size, data.labels.num_outputs)
    task = SequenceRegression(backbone, head, labels=data.labels)
    # The DataModule distributes its batches to the ranks itself.
    trainer = Trainer(max_epochs=epochs, use_distributed_sampler=False)
    trainer.fit(task, datamodule=data)
    [scores] = trainer.test(task, datamodule=data)
    return scores["test/pearson"]


if __name__ == "__main__":
    main()
