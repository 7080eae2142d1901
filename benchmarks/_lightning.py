"""Peer in plain Lightning, with its own callbacks and its default loader."""

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
    """Backbone of transformers with BERT's classification head.

    The backbone is in eval mode at first: ``from_pretrained`` returns it so, and Lightning keeps
    the mode. A frozen backbone is in eval mode on our side too.

    Args:
        work: Work of all sides.
        seed: Seed of the head's weights.
    """

    def __init__(self, work: Work, *, seed: int) -> None:
        """See the class."""
        super().__init__()
        torch.manual_seed(seed)
        self.backbone: Any = AutoModel.from_pretrained(work.model)
        # The pooler is the first layer of the head, so it is not frozen with the backbone.
        dense, self.backbone.pooler = self.backbone.pooler.dense, None
        out = nn.Linear(self.backbone.config.hidden_size, CLASSES)
        # The layers of BertForSequenceClassification.
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
        """Return an optimizer of the trainable parameters; callbacks add unfrozen ones."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        # No schedule: a constant learning rate, as in gradual.py on our side.
        return torch.optim.AdamW(trainable, lr=self.lr, weight_decay=0.01, fused=True)


class Schedule(BaseFinetuning):
    """Gradual unfreezing: the head, then the top two layers too, then all.

    Args:
        top: First epoch of the top two layers, counted from 0.
        all_from: First epoch of all layers, counted from 0.
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
        """Unfreeze the layers of an epoch, and set them to train mode, as our side does."""
        layers = list(pl_module.backbone.encoder.layer)
        lower = [pl_module.backbone.embeddings, *layers[:-2]]
        due = [(self.top, layers[-2:]), (self.all_from, lower)]
        for modules in (modules for start, modules in due if start == epoch):
            for module in modules:
                module.train()
            # Not unfreeze_and_add_param_group: it compares parameters by their values, so it
            # leaves out biases that are all zero.
            self.make_trainable(modules)
            parameters = list(self.filter_params(modules))
            optimizer.add_param_group({"params": parameters, "lr": pl_module.lr})


def frozen(work: Work, rows: Rows, test: Rows, *, seed: int) -> Result:
    """Train the head with Lightning's ``BackboneFinetuning``."""
    # It unfreezes after the last epoch, that is never.
    return _fit(work, rows, test, [BackboneFinetuning(work.epochs + 1)], seed=seed)


def gradual(work: Work, rows: Rows, test: Rows, *, seed: int, top: int, all_from: int) -> Result:
    """Train with gradual unfreezing; see :class:`Schedule`."""
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
        gradient_clip_val=1.0,  # as on the other sides
        logger=False,  # this and the next: nothing but the training
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    with stopwatch() as seconds:
        run_trainer(trainer, "fit", module, train_dataloaders=loader)  # hides the warnings
    return Result(seconds[0], accuracy(module, test, work))
