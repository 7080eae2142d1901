"""The package's own side, through its public classes."""

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
from lightning_transfer.checkpoints.loading import load_tokenizer, read_weights
from lightning_transfer.checkpoints.model_folder import export
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

BANDS = LabelSpec("binned", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5))
"""Ratings in [-4, 4] as three classes, so that every peer can learn them."""


@contextmanager
def session(options: argparse.Namespace, **changes: Any) -> Iterator[tuple[Work, Path]]:
    """Give the work and a scratch folder to a script that measures in its own process.

    Args:
        options: As ``parse`` returns them.
        changes: Values of :class:`Work` that the options do not have.
    """
    torch.set_num_threads(options.threads)
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        yield make_work(options, Path(scratch), **changes), Path(scratch)


def quiet() -> None:
    """Keep what Lightning and transformers say of each run off the terminal."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        getLogger(name).setLevel(ERROR)
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")


def movies(work: Work, *, seed: int) -> TextDataModule:
    """Return the movie snippets, set up; the training rows, but not the splits, follow the seed.

    Args:
        work: What both sides are given.
        seed: Of the draw of the training rows, and of the order of our batches.
    """
    data = MovieSnippets(
        str(work.movies),
        label=BANDS,
        train_size=work.rows,
        splits=Splits(val=work.val, test=work.test),
        tokens=Tokens(max_length=work.max_length),
        batch_size=work.batch_size,
    )
    return _set_up(data, work, seed)


def news(work: Work, *, seed: int, rows: int) -> TextDataModule:
    """Return news editorials, set up; all of them may be trained on."""
    data = News(
        str(work.news),
        label=BANDS,
        train_size=rows,
        splits=Splits(val=0, test=0),
        tokens=Tokens(max_length=work.max_length),
        batch_size=work.batch_size,
    )
    return _set_up(data, work, seed)


def _set_up(data: TextDataModule, work: Work, seed: int) -> TextDataModule:
    data.seed = seed
    data.tokenizer = load_tokenizer(work.model)
    data.setup("fit")
    return data


def texts_of(data: TextDataModule, split: str = "train") -> tuple[list[str], list[int]]:
    """Return texts and classes of ``train`` or ``test``, for peers that tokenize themselves."""
    dataset = _dataset(data, split)
    texts = data.load_rows()["text"]
    return [texts[row] for row in dataset.positions], [
        int(dataset.targets[row]) for row in dataset.positions
    ]


def _dataset(data: TextDataModule, split: str) -> Any:
    loader: Any = data.train_dataloader() if split == "train" else data.test_dataloader()
    return loader.dataset


def rows_of(data: TextDataModule, split: str = "train") -> list[dict[str, Any]]:
    """Return the tokenized rows of ``train`` or ``test`` as plain lists, as peers take them."""
    dataset = _dataset(data, split)
    return [
        {
            "input_ids": row["input_ids"].tolist(),
            "token_type_ids": row["token_type_ids"].tolist(),
            "attention_mask": [1] * len(row["input_ids"]),
            "labels": int(row["labels"]),
        }
        for row in (dataset[place] for place in range(len(dataset)))
    ]


def store() -> list[Callback]:
    """Return the callback that ``fit`` adds by itself: frozen layers are computed once."""
    return [ActivationCache()]


def autofreeze(every: str) -> list[Callback]:
    """Return AutoFreeze as the strategy has it, but for the length of its intervals."""
    return [AutoFreeze(every=every)]


def make_task(
    work: Work,
    data: TextDataModule,
    *,
    seed: int,
    decay: bool = True,
    activation: Activation = "tanh",
) -> SequenceClassification:
    """Return BERT with its own classification head, as transformers builds it.

    Args:
        work: What both sides are given.
        data: Says the labels.
        seed: Of the head's weights.
        decay: Whether the learning rate falls linearly to zero, or else stays.
        activation: Of the head.
    """
    torch.manual_seed(seed)
    backbone = Backbone.from_pretrained(work.model)
    head = MLPHead(backbone.hidden_size, data.labels.num_outputs, activation=activation)
    if backbone.pooler_state:
        head.load_pooler(backbone.pooler_state)
    start_output(head.out, seed=seed)
    recipe = Recipe(
        partial(torch.optim.AdamW, lr=work.lr, weight_decay=0.01, fused=True),
        partial(linear_schedule, warmup=0.0) if decay else None,
        groups=ParameterGroups(head_ratio=1.0),  # peers have one learning rate
    )
    return SequenceClassification(backbone, head, labels=data.labels, recipe=recipe)


def fit(
    task: TransferModule,
    data: TextDataModule,
    *,
    folder: Path,
    epochs: int,
    own: Sequence[Callback] = (),
) -> float:
    """Train, and return the seconds that the fit took.

    Args:
        task: What is trained.
        data: Set up.
        folder: Scratch folder.
        epochs: Passes over the training rows.
        own: Callbacks in order.
    """
    arguments = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 10,
        "enable_checkpointing": False,  # no peer writes any either
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,  # nothing is chosen while the time runs
        "use_distributed_sampler": False,
    }
    trainer = make_trainer(arguments, folder=folder, callbacks=own)
    with stopwatch() as seconds:
        run_trainer(trainer, "fit", task, datamodule=data)
    return seconds[0]


def learn_news(work: Work, folder: Path, *, rows: int) -> Path:
    """Train all layers on news for two epochs, and return the model folder."""
    data = news(work, seed=0, rows=rows)
    task = make_task(work, data, seed=0)
    fit(task, data, folder=folder, epochs=2)
    assert data.tokenizer is not None  # news() sets it
    export(task, data.tokenizer, folder / "news")
    return folder / "news"


def accuracy(task: TransferModule, data: TextDataModule) -> float:
    """Return the share of test rows, or of validation rows if there are any, that are right."""
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
    """Trains on the movie snippets with a seed; see :func:`_turns.in_turn`.

    Args:
        work: What both sides are given.
        folder: Scratch folder.
        decay: As :func:`make_task` has it.
        strategy: Makes the callbacks that say which parameters move; None: all, all the time.
        start: Model folder of ours to go on from; None: from the pretrained backbone.
        use_store: Whether activations of frozen layers may be kept.
    """

    work: Work
    folder: Path
    decay: bool = True
    strategy: Callable[[], list[Callback]] | None = None
    start: Path | None = None
    use_store: bool = True

    def __call__(self, seed: int) -> Result:
        """Run once, with nothing stored by an earlier run."""
        empty_cache(self.folder)
        data = movies(self.work, seed=seed)
        task = make_task(self.work, data, seed=seed, decay=self.decay)
        if self.start is not None:
            weights = read_weights(self.start)
            weights.fill(task.backbone, "backbone")
            weights.fill(task.head, "head")
        own = [*(self.strategy() if self.strategy else []), *(store() if self.use_store else [])]
        seconds = fit(task, data, folder=self.folder, epochs=self.work.epochs, own=own)
        return Result(seconds, accuracy(task, data))
