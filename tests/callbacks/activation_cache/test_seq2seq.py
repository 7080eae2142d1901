"""The frozen encoder below a trainable decoder runs once per row."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_transfer.callbacks import ActivationCache, Freezing, GradualUnfreezing
from tests.callbacks.activation_cache.test_callback import TRAIN, VAL, Watch, reviews
from tests.tiny import make_trainer
from tests.tiny_seq2seq import SEQ2SEQ, make_seq2seq

TOP = 3  # the depth of the encoder's output


class Copying(pl.LightningModule):
    """A LightningModule trained to generate its input."""

    def __init__(self, name):
        super().__init__()
        self.backbone = make_seq2seq(name)
        self.limit = 21  # the smaller of the vocabularies
        self.head = nn.Linear(self.backbone.hidden_size, self.limit)

    def step(self, batch):
        target = batch["input_ids"] % self.limit
        given = {name: batch[name] for name in ("from_depth", "hidden") if name in batch}
        hidden = self.backbone(
            batch["input_ids"], batch["attention_mask"], decoder_input_ids=target, **given
        )
        return nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), target.flatten())

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.step(batch), batch_size=len(batch["input_ids"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(name, *callbacks):
    torch.manual_seed(1)
    task, watch = Copying(name), Watch()
    torch.manual_seed(2)
    trainer = make_trainer(max_epochs=4, callbacks=[*callbacks, watch])
    trainer.fit(task, datamodule=reviews())
    return watch


@pytest.mark.parametrize("name", ["t5", "umt5", "bart", "marian", "bert2bert", "bert2bert-wider"])
def test_losses_equal_those_without_the_cache_and_the_encoder_runs_once(name):
    assert name in SEQ2SEQ
    phases = [{"from_depth": TOP + 1}, {"from_depth": TOP, "at_epoch": 2}]
    cached = fit(name, GradualUnfreezing(phases), ActivationCache())
    plain = fit(name, GradualUnfreezing(phases))
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert cached.val_losses == pytest.approx(plain.val_losses, rel=1e-5)
    assert cached.rows[1] == cached.rows[2] == TRAIN + VAL
    assert plain.rows[1] == 4 * (TRAIN + VAL)


def test_a_frozen_decoder_layer_runs_in_each_epoch():
    cached = fit("bart", Freezing(TOP + 2), ActivationCache())
    assert cached.rows[TOP] == TRAIN + VAL
    assert cached.rows[TOP + 1] == 4 * (TRAIN + VAL)
