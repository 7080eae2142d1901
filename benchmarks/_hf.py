"""Peers with transformers and torch; imports neither this package nor Lightning."""

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
    """Return a BERT classifier with a new output layer."""
    torch.manual_seed(seed)  # for dropout; the only new weights are those of the output layer
    model = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=CLASSES)
    start_output(model.classifier, seed=seed)
    return model


def freeze_encoder(model: PreTrainedModel) -> None:
    """Freeze embeddings and encoder; the head (pooler and classifier) stays trainable."""
    for part in (model.base_model.embeddings, model.base_model.encoder):
        part.requires_grad_(False)


def padding(work: Work) -> DataCollatorWithPadding:
    """Return a collator that pads to the longest row of a batch."""
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
        work: Work of all sides.
        rows: Tokenized training rows.
        test: Tokenized rows for the score.
        seed: Seed of the head's weights and of the order of the rows.
        grouped: True to group rows of similar length into batches.
        prepare: Called with the model before training, for example to freeze a part of it.
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
            weight_decay=0.01,  # this and the next, as on our side
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length" if grouped else "random",
            save_strategy="no",  # no side writes checkpoints
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
    """Trainer without its own log lines, which would appear within the table."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        return


def plain_loop(work: Work, rows: Rows, test: Rows, *, seed: int) -> Result:
    """Train in a plain torch loop with batches of rows of similar length."""
    model, collate = pretrained(work, seed=seed), padding(work)
    # No weight decay of biases and norms, as on our side.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=work.lr, weight_decay=0.01, fused=True)
    # Linear decay to zero, the default of Trainer; the last batch of an epoch may be smaller.
    steps = work.epochs * -(-len(rows) // work.batch_size)
    schedule = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    model.train()
    with stopwatch() as seconds:
        for epoch in range(work.epochs):
            # A different order in each epoch and for each seed.
            for positions in buckets(rows, work.batch_size, seed=seed * 1000 + epoch):
                loss = model(**collate([rows[position] for position in positions])).loss
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return Result(seconds[0], accuracy(model, test, work))


def buckets(rows: Rows, size: int, *, seed: int) -> list[list[int]]:
    """Return batches of the positions of rows with similar length, in random order.

    Args:
        rows: Tokenized rows.
        size: Rows in a batch.
        seed: Seed of the order, and of the batches of rows with equal length.
    """
    generator = random.Random(seed)
    positions = list(range(len(rows)))
    generator.shuffle(positions)  # the sort is stable: rows of equal length stay shuffled
    positions.sort(key=lambda position: len(rows[position]["input_ids"]))
    batches = [positions[start : start + size] for start in range(0, len(positions), size)]
    generator.shuffle(batches)
    return batches


def accuracy(model: nn.Module, test: Rows, work: Work) -> float:
    """Return the accuracy on the test rows, in [0, 1]."""
    model.eval()
    collate = padding(work)
    right = 0
    with torch.inference_mode():
        for positions in buckets(test, work.batch_size, seed=0):
            batch = dict(collate([test[position] for position in positions]))
            labels: Tensor = batch.pop("labels")
            output = model(**batch)  # logits of a LightningModule, an object of transformers
            logits = output if isinstance(output, Tensor) else output.logits  # (batch, classes)
            right += int((logits.argmax(dim=-1) == labels).sum())
    return right / len(test)
