"""The parts of lightning_transfer in a plain Lightning script: no Hydra, no config."""

from lightning.pytorch import Trainer, seed_everything

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.data import MovieSnippets, Splits
from lightning_transfer.heads import LinearHead
from lightning_transfer.tasks import SequenceRegression


def main(model: str = "asset:minilm", *, source: str | None = None, epochs: int = 3) -> float:
    """Learn to rate movie snippets, and return Pearson's r on the test rows.

    Args:
        model: ``asset:minilm``, a folder or a hub id.
        source: A file in place of the packaged one.
        epochs: Passes over the 500 training rows.
    """
    seed_everything(0)
    data = MovieSnippets(source, train_size=500, splits=Splits(val=0.05, test=0.1))
    data.tokenizer = load_tokenizer(model)
    backbone = Backbone.from_pretrained(model)
    head = LinearHead(backbone.hidden_size, data.labels.num_outputs)
    task = SequenceRegression(backbone, head, labels=data.labels)
    trainer = Trainer(max_epochs=epochs, use_distributed_sampler=False)  # ours is exact under DDP
    trainer.fit(task, datamodule=data)
    [scores] = trainer.test(task, datamodule=data)
    return scores["test/pearson"]


if __name__ == "__main__":
    main()
