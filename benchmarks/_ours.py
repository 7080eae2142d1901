"""Our side: this package, through its public classes."""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from _head import start_output
from _settings import Work, empty_cache, make_work
from _turns import Result, stopwatch
from lightning.pytorch import Callback
from torch import Tensor
from transformers.utils import logging

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import ActivationCache, AutoFreeze
from lightning_transfer.checkpoints import export, load_tokenizer, read_weights
from lightning_transfer.data import (
    LabelSpec,
    MovieSnippets,
    News,
    Splits,
    TextDataModule,
    Tokens,
)
from lightning_transfer.experiments.training import make_trainer, run_trainer
from lightning_transfer.heads import MLPHead
from lightning_transfer.heads.mlp import Activation
from lightning_transfer.optim import ParameterGroups, Recipe, linear_schedule
from lightning_transfer.tasks import SequenceClassification, TransferModule

CLASSES = LabelSpec("binned", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5))
"""Three classes of ratings in [-4, 4]: all peers train classifiers."""


@contextmanager
def session(options: argparse.Namespace, **changes: Any) -> Iterator[tuple[Work, Path]]:
    """Return the work and a scratch folder, for scripts that measure in their own process.

    Args:
        options: Options returned by ``parse``.
        changes: Arguments of :class:`Work` without an option.
    """
    torch.set_num_threads(options.threads)
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        yield make_work(options, Path(scratch), **changes), Path(scratch)


def quiet() -> None:
    """Hide the messages of Lightning and transformers about each run."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        getLogger(name).setLevel(ERROR)
    # Frozen layers are in eval mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")


def movies(work: Work, *, seed: int) -> TextDataModule:
    """Return the movie snippets, after ``setup``.

    Args:
        work: Work of all sides.
        seed: Seed of the choice of training rows and of the order of our batches; the splits do not
            depend on it.
    """
    data = MovieSnippets(
        str(work.movies),
        label=CLASSES,
        train_size=work.rows,
        splits=Splits(val=work.val, test=work.test),
        tokens=Tokens(max_length=work.max_length),
        batch_size=work.batch_size,
    )
    return _set_up(data, work, seed)


def news(work: Work, *, seed: int, rows: int) -> TextDataModule:
    """Return the news editorials, after ``setup``; all rows are training rows."""
    data = News(
        str(work.news),
        label=CLASSES,
        train_size=rows,
        splits=Splits(val=0, test=0),
        tokens=Tokens(max_length=work.max_length),
        batch_size=work.batch_size,
    )
    return _set_up(data, work, seed)


def _set_up(data: TextDataModule, work: Work, seed: int) -> TextDataModule:
    data.seed = seed
    data.tokenizer = load_tokenizer(work.model)
    data.setup("fit")  # reads and tokenizes the rows, outside of the measured time
    return data


def texts_of(data: TextDataModule, split: str = "train") -> tuple[list[str], list[int]]:
    """Return texts and classes of the split ``train`` or ``test``, for peers with a tokenizer."""
    dataset = _dataset(data, split)
    texts = data.load_rows()["text"]
    return [texts[row] for row in dataset.positions], [
        int(dataset.targets[row]) for row in dataset.positions
    ]


def _dataset(data: TextDataModule, split: str) -> Any:
    loader: Any = data.train_dataloader() if split == "train" else data.test_dataloader()
    return loader.dataset


def rows_of(data: TextDataModule, split: str = "train") -> list[dict[str, Any]]:
    """Return the tokenized rows of the split ``train`` or ``test`` as plain lists, for peers."""
    dataset = _dataset(data, split)
    return [
        {
            "input_ids": row["input_ids"].tolist(),
            "token_type_ids": row["token_type_ids"].tolist(),
            "attention_mask": [1] * len(row["input_ids"]),
            "labels": int(row["labels"]),
        }
        for row in (dataset[position] for position in range(len(dataset)))
    ]


def activation_cache() -> list[Callback]:
    """Return the callback that ``fit`` adds by default."""
    return [ActivationCache()]


def autofreeze(every: str) -> list[Callback]:
    """Return the callback of ``finetuning=autofreeze`` with intervals of another length."""
    return [AutoFreeze(every=every)]


def make_task(
    work: Work,
    data: TextDataModule,
    *,
    seed: int,
    decay: bool = True,
    activation: Activation = "tanh",
) -> SequenceClassification:
    """Return a classifier with the layers of ``BertForSequenceClassification``.

    Args:
        work: Work of all sides.
        data: DataModule with the labels.
        seed: Seed of the head's weights.
        decay: True for linear decay of the learning rate to zero, False for a constant one.
        activation: Activation of the head.
    """
    torch.manual_seed(seed)  # for dropout and layers without pretrained weights
    backbone = Backbone.from_pretrained(work.model)
    head = MLPHead(backbone.hidden_size, data.labels.num_outputs, activation=activation)
    # The pretrained pooler is the first layer of the head, as in BertForSequenceClassification.
    if backbone.pooler_state:
        head.load_pooler(backbone.pooler_state)
    start_output(head.out, seed=seed)
    recipe = Recipe(
        partial(torch.optim.AdamW, lr=work.lr, weight_decay=0.01, fused=True),
        partial(linear_schedule, warmup=0.0) if decay else None,
        groups=ParameterGroups(head_ratio=1.0),  # one learning rate, as on the other sides
    )
    return SequenceClassification(backbone, head, labels=data.labels, recipe=recipe)


def fit(
    task: TransferModule,
    data: TextDataModule,
    *,
    folder: Path,
    epochs: int,
    callbacks: Sequence[Callback] = (),
) -> float:
    """Train a task, and return the seconds of the fit.

    Args:
        task: Task to train.
        data: DataModule, after ``setup``.
        folder: Scratch folder.
        epochs: Number of epochs.
        callbacks: Callbacks in order.
    """
    arguments = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 10,
        "enable_checkpointing": False,  # peers write no checkpoints
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,  # peers do not validate
        "use_distributed_sampler": False,
    }
    trainer = make_trainer(arguments, folder=folder, callbacks=callbacks)
    with stopwatch() as seconds:
        run_trainer(trainer, "fit", task, datamodule=data)
    return seconds[0]


def learn_news(work: Work, folder: Path, *, rows: int) -> Path:
    """Train all layers on news for two epochs, and return the model folder."""
    data = news(work, seed=0, rows=rows)
    task = make_task(work, data, seed=0)
    fit(task, data, folder=folder, epochs=2)
    assert data.tokenizer is not None  # set by news()
    export(task, data.tokenizer, folder / "news")
    return folder / "news"


def accuracy(task: TransferModule, data: TextDataModule) -> float:
    """Return the accuracy on the validation rows, or on the test rows without any, in [0, 1]."""
    task.eval()
    right = total = 0
    with torch.inference_mode():
        for batch in data.val_dataloader() if data.n_val else data.test_dataloader():
            logits: Tensor = task(batch)  # (batch, classes)
            right += int((logits.argmax(dim=-1) == batch["labels"]).sum())
            total += len(logits)
    return right / total


@dataclass(frozen=True)
class Ours:
    """Our side of a training on the movie snippets; see :func:`_turns.in_turn`.

    Args:
        work: Work of all sides.
        folder: Scratch folder.
        decay: See :func:`make_task`.
        make_callbacks: Returns the callbacks of the fine-tuning method; None for full fine-tuning.
        start: Model folder with the initial weights; None for the pretrained backbone.
        use_cache: True to use the activation cache.
    """

    work: Work
    folder: Path
    decay: bool = True
    make_callbacks: Callable[[], list[Callback]] | None = None
    start: Path | None = None
    use_cache: bool = True

    def __call__(self, seed: int) -> Result:
        """Train once with an empty cache folder."""
        empty_cache(self.folder)
        data = movies(self.work, seed=seed)
        task = make_task(self.work, data, seed=seed, decay=self.decay)
        if self.start is not None:
            weights = read_weights(self.start)
            weights.fill(task.backbone, "backbone")
            weights.fill(task.head, "head")
        callbacks = list(self.make_callbacks()) if self.make_callbacks else []
        if self.use_cache:
            callbacks += activation_cache()  # after the callbacks that freeze layers
        epochs = self.work.epochs
        seconds = fit(task, data, folder=self.folder, epochs=epochs, callbacks=callbacks)
        return Result(seconds, accuracy(task, data))
