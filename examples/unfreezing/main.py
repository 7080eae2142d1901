"""Gradual unfreezing of a plain transformers model in a custom LightningModule."""

import logging

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lightning_transfer.assets import fetch
from lightning_transfer.callbacks import GradualUnfreezing

TEXTS = {1: "a warm, funny and very good film", 0: "a dull film with a bad, cold plot"}


class Classifier(LightningModule):
    """Text classifier without any code of lightning_transfer.

    Any optimizer and any scheduler can be used.

    Args:
        name: Folder or hub model id.
    """

    def __init__(self, name: str) -> None:
        """See the class."""
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(name)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        return self.model(**batch).loss

    def configure_optimizers(self) -> dict:
        """Return an optimizer with all parameters, and a schedule over the whole run."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-4, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rows(name: str, count: int) -> DataLoader:
    """Return a loader of toy texts with labels.

    Args:
        name: Folder or hub model id of the tokenizer.
        count: Number of texts.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    labels = [number % 2 for number in range(count)]
    tokens = tokenizer([TEXTS[label] for label in labels], padding=True)
    columns = {**tokens, "labels": labels}
    return DataLoader(
        [{k: torch.tensor(v[i]) for k, v in columns.items()} for i in range(count)], batch_size=8
    )


def main(model: str | None = None, *, epochs: int = 3) -> Classifier:
    """Train the head, then the top two layers too, then all layers.

    Args:
        model: Folder or hub model id of a BERT model; None for the packaged MiniLM.
        epochs: Number of epochs, at least one for each of the three phases.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows one line for each phase
    seed_everything(0)
    name = model or str(fetch("minilm"))
    classifier = Classifier(name)
    depth = classifier.model.config.num_hidden_layers
    # Regexes over parameter names, one for each depth. Pooler and output layer match none of them,
    # so they train from the start.
    layers = [r"embeddings\.", *(rf"encoder\.layer\.{number}\." for number in range(depth))]
    unfreezing = GradualUnfreezing("head > top 2 > all", layers=layers)
    trainer = Trainer(max_epochs=epochs, callbacks=[unfreezing], log_every_n_steps=1)
    trainer.fit(classifier, rows(name, 64))
    return classifier


if __name__ == "__main__":
    main()
