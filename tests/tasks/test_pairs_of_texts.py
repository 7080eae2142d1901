"""Training of encoder-decoders with the texts and target texts of a domain."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from lightning_transfer.callbacks import ActivationCache, Freezing
from lightning_transfer.data import Splits
from lightning_transfer.optim import Recipe
from tests.callbacks.activation_cache.test_callback import Watch
from tests.conftest import WORDS, make_tokenizer
from tests.data.test_text_to_text import domain
from tests.seq2seq import make_target_tokenizer, make_task
from tests.tiny import make_trainer

TOP = 3  # the depth of the encoder's output
TEXTS = [f"{first} {second}" for first in WORDS[:14] for second in WORDS[:6]]
Backwards = domain(text=TEXTS, target=[" ".join(reversed(text.split())) for text in TEXTS])


class Losses(pl.Callback):
    def __init__(self):
        self.train, self.rows = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, *_):
        self.train.append(float(outputs["loss"]))
        self.rows += batch["row"].tolist()


def fit(name, *callbacks, epochs=2, **arguments):
    data = Backwards(batch_size=8, splits=Splits(val=8, test=8))
    data.tokenizer = make_tokenizer()
    for key, value in arguments.items():
        setattr(data, key, value)
    task = make_task(name, recipe=Recipe(partial(torch.optim.AdamW, lr=3e-3)))
    torch.manual_seed(2)
    losses = Losses()
    trainer = make_trainer(
        max_epochs=epochs, callbacks=[*callbacks, losses], use_distributed_sampler=False
    )
    trainer.fit(task, datamodule=data)
    return trainer, task, data, losses


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_training_on_pairs_reduces_the_loss_and_generated_texts_are_scored(name):
    trainer, task, data, losses = fit(name, epochs=6)
    assert len(losses.rows) == 6 * len(set(losses.rows)) == 6 * data.n_train
    per_epoch = len(losses.train) // 6
    assert sum(losses.train[-per_epoch:]) < 0.8 * sum(losses.train[:per_epoch])
    [found] = trainer.test(task, datamodule=data, verbose=False)
    assert {"test/loss", "test/bleu", "test/chrf", "test/rougeL"} <= found.keys()
    generated = {}
    for part in trainer.predict(task, datamodule=data):
        texts = task.decode_texts(part["ids"], data.tokenizer)
        generated |= dict(zip(part["index"].tolist(), texts, strict=True))
    assert sorted(generated) == list(range(8))


def test_training_with_another_tokenizer_for_targets_reduces_the_loss():
    _, task, _, losses = fit("bert2bert-wider", target_tokenizer=make_target_tokenizer(), epochs=4)
    per_epoch = len(losses.train) // 4
    assert sum(losses.train[-per_epoch:]) < 0.9 * sum(losses.train[:per_epoch])
    assert task.backbone.config.decoder_start_token_id == make_target_tokenizer().cls_token_id


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_a_frozen_encoder_runs_once_for_each_text(name):
    watch = Watch()
    *_, plain = fit(name, Freezing(TOP + 1), epochs=3)
    _, _, data, cached = fit(name, Freezing(TOP + 1), ActivationCache(), watch, epochs=3)
    assert cached.train == pytest.approx(plain.train, rel=1e-5)
    assert watch.rows[TOP] == data.n_train + data.n_val
