"""Peers made of transformers and torch alone; nothing of ours, nor of Lightning, is imported."""

import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _head import start_output
from _settings import Work
from _turns import Result, stopwatch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

Rows = Sequence[dict[str, Any]]
CLASSES = 3


def pretrained(work: Work, *, seed: int) -> PreTrainedModel:
    """Return BERT with its classification head."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=CLASSES)
    start_output(model.classifier, seed=seed)
    return model


def freeze_encoder(model: PreTrainedModel) -> None:
    """Leave the head alone to train: the pooler, which is its first layer, and the classifier."""
    for part in (model.base_model.embeddings, model.base_model.encoder):
        part.requires_grad_(False)


def padding(work: Work) -> DataCollatorWithPadding:
    """Return what pads rows to the longest of their batch."""
    return DataCollatorWithPadding(AutoTokenizer.from_pretrained(work.model))


def train(
    work: Work,
    rows: Rows,
    test: Rows,
    *,
    seed: int,
    grouped: bool = False,
    prepare: Callable[[PreTrainedModel], None] | None = None,
) -> Result:
    """Train with Hugging Face's Trainer.

    Args:
        work: What both sides are given.
        rows: Tokenized training rows.
        test: Rows that the score is counted on.
        seed: Of the head's weights and of the order.
        grouped: Whether rows of like length share a batch.
        prepare: Called with the model, to freeze a part of it.
    """
    model = pretrained(work, seed=seed)
    if prepare is not None:
        prepare(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=work.epochs,
            per_device_train_batch_size=work.batch_size,
            learning_rate=work.lr,
            weight_decay=0.01,
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length" if grouped else "random",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        trainer = _Silent(model, arguments, train_dataset=rows, data_collator=padding(work))
        with stopwatch() as seconds:
            trainer.train()
    return Result(seconds[0], accuracy(model, test, work))


class _Silent(Trainer):
    """Trainer whose last line of times, which it prints itself, does not end up in our table."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        return


def plain_loop(work: Work, rows: Rows, test: Rows, *, seed: int) -> Result:
    """Train in a bare torch loop whose batches hold rows of like length."""
    model, collate = pretrained(work, seed=seed), padding(work)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=work.lr, weight_decay=0.01, fused=True)
    steps = work.epochs * -(-len(rows) // work.batch_size)
    schedule = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    model.train()
    with stopwatch() as seconds:
        for epoch in range(work.epochs):
            for places in buckets(rows, work.batch_size, seed=seed * 1000 + epoch):
                loss = model(**collate([rows[place] for place in places])).loss
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return Result(seconds[0], accuracy(model, test, work))


def buckets(rows: Rows, size: int, *, seed: int) -> list[list[int]]:
    """Return batches of rows of like length, in random order; like ones in random company."""
    chance = random.Random(seed)
    places = list(range(len(rows)))
    chance.shuffle(places)
    places.sort(key=lambda place: len(rows[place]["input_ids"]))
    batches = [places[start : start + size] for start in range(0, len(places), size)]
    chance.shuffle(batches)
    return batches


def accuracy(model: nn.Module, test: Rows, work: Work) -> float:
    """Return the share of test rows whose class is found."""
    model.eval()
    collate = padding(work)
    right = 0
    with torch.inference_mode():
        for places in buckets(test, work.batch_size, seed=0):
            batch = dict(collate([test[place] for place in places]))
            labels: Tensor = batch.pop("labels")
            found = model(**batch)
            logits = found if isinstance(found, Tensor) else found.logits  # (batch, classes)
            right += int((logits.argmax(dim=-1) == labels).sum())
    return right / len(test)
