"""The peer that a user of Lightning would write: its own callbacks, its default loader."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from _head import start_output
from _hf import CLASSES, Rows, accuracy, padding
from _settings import Work
from _turns import Result, stopwatch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import AutoModel

from lightning_transfer.experiments.training import run_trainer


class Plain(pl.LightningModule):
    """A backbone from transformers and BERT's classification head.

    The backbone is in eval mode, as ``from_pretrained`` leaves it and Lightning keeps it: while it
    is frozen, that is what our side does too.

    Args:
        work: What both sides are given.
        seed: Of the head's weights.
    """

    def __init__(self, work: Work, *, seed: int) -> None:
        """See the class."""
        super().__init__()
        torch.manual_seed(seed)
        self.backbone: Any = AutoModel.from_pretrained(work.model)
        dense, self.backbone.pooler = self.backbone.pooler.dense, None
        out = nn.Linear(self.backbone.config.hidden_size, CLASSES)
        self.head = nn.Sequential(dense, nn.Tanh(), nn.Dropout(0.1), out)
        start_output(out, seed=seed)
        self.lr = work.lr

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        return self.head(self.backbone(**inputs)[0][:, 0])  # (batch, classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        inputs = dict(batch)
        labels = inputs.pop("labels")
        return nn.functional.cross_entropy(self(**inputs), labels)

    def configure_optimizers(self) -> Optimizer:
        """Optimize what trains; the callbacks add what they unfreeze."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.01, fused=True)


class Schedule(BaseFinetuning):
    """Head, then the top two layers, then all.

    Args:
        top: Epoch with which the top two layers begin to train, counted from 0.
        all_from: Epoch with which all begin.
    """

    def __init__(self, *, top: int, all_from: int) -> None:
        """See the class."""
        super().__init__()
        self.top = top
        self.all_from = all_from

    def freeze_before_training(self, pl_module: Any) -> None:
        """Freeze the backbone."""
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        """Unfreeze what is due, with dropout from then on, as our side has it."""
        layers = list(pl_module.backbone.encoder.layer)
        lower = [pl_module.backbone.embeddings, *layers[:-2]]
        due = [(self.top, layers[-2:]), (self.all_from, lower)]
        for modules in (modules for start, modules in due if start == epoch):
            for module in modules:
                module.train()
            # Not unfreeze_and_add_param_group: it takes parameters of equal values for one and
            # the same, and leaves out biases that are all zero.
            self.make_trainable(modules)
            parameters = list(self.filter_params(modules))
            optimizer.add_param_group({"params": parameters, "lr": pl_module.lr})


def frozen(work: Work, rows: Rows, test: Rows, *, seed: int) -> Result:
    """Train the head with Lightning's ``BackboneFinetuning``, which never comes to unfreeze."""
    return _fit(work, rows, test, [BackboneFinetuning(work.epochs + 1)], seed=seed)


def gradual(work: Work, rows: Rows, test: Rows, *, seed: int, top: int, all_from: int) -> Result:
    """Train head, top two layers and all, one after the other; see :class:`Schedule`."""
    return _fit(work, rows, test, [Schedule(top=top, all_from=all_from)], seed=seed)


def _fit(
    work: Work, rows: Rows, test: Rows, callbacks: Sequence[pl.Callback], *, seed: int
) -> Result:
    module = Plain(work, seed=seed)
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=work.batch_size,
        shuffle=True,
        collate_fn=padding(work),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=work.epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    with stopwatch() as seconds:
        run_trainer(trainer, "fit", module, train_dataloaders=loader)  # keeps the warnings down
    return Result(seconds[0], accuracy(module, test, work))
