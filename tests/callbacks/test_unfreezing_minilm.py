"""Gradual unfreezing of the packaged MiniLM: trained layers and cost."""

import time

import lightning.pytorch as pl
import pytest
import torch

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import GradualUnfreezing
from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import make_loader, make_trainer

pytestmark = [pytest.mark.slow, pytest.mark.network]
PHASES = [
    {"from_depth": "head"},
    {"from_depth": 5, "at_step": 2},
    {"from_depth": 0, "at_fraction": 0.6},
]
DECLARED = [[]] * 2 + [[5, 6]] * 2 + [[0, 1, 2, 3, 4, 5, 6]] * 2


def make_task():
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained("asset:minilm")
    recipe = Recipe(
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, fused=True),
        lambda optimizer, total_steps: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1e-3, total_steps=total_steps
        ),
        ParameterGroups(layer_decay=0.5),
    )
    head = MLPHead(backbone.hidden_size, 1)
    return SequenceRegression(backbone, head, labels=Labels("regression"), recipe=recipe)


def fit(*callbacks, path=None):
    task = make_task()
    torch.manual_seed(1)
    trainer = make_trainer(max_epochs=2, callbacks=list(callbacks))
    trainer.fit(task, make_loader(rows=12, batch_size=4), make_loader(rows=4), ckpt_path=path)
    return task


class Watch(pl.Callback):
    def __init__(self):
        self.trains, self.changed = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = {n: p.detach().clone() for n, p in module.named_parameters()}

    def on_train_batch_end(self, trainer, module, *_):
        named = dict(module.named_parameters())
        self.trains.append({n for n, p in named.items() if p.requires_grad})
        self.changed.append({n for n, v in self.before.items() if not torch.equal(v, named[n])})


def test_declared_layers_train_and_frozen_tensors_do_not_change():
    watch = Watch()
    task = fit(GradualUnfreezing(PHASES), watch)
    for step, depths in enumerate(DECLARED):
        inside = {id(p) for d in depths for p in task.backbone.layers[d].parameters()}
        declared = {
            n for n, p in task.named_parameters() if id(p) in inside or n.startswith("head.")
        }
        assert watch.trains[step] == declared
        assert watch.changed[step] <= declared
        assert len(watch.changed[step]) > 0.8 * len(declared)  # key biases have no gradient


class Timed(GradualUnfreezing):
    """Measure the time spent in the callback before each step."""

    spent = 0.0

    def on_train_batch_start(self, *arguments):
        start = time.perf_counter()
        super().on_train_batch_start(*arguments)
        self.spent += time.perf_counter() - start


class Clock(pl.Callback):
    def on_train_batch_start(self, *_):
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_):
        self.taken = getattr(self, "taken", 0.0) + time.perf_counter() - self.start


def test_the_callback_takes_less_than_one_percent_of_a_step():
    """Only the head trains: the shortest possible step."""
    timed, clock = Timed([{"from_depth": "head"}, {"from_depth": 0, "at_fraction": 0.99}]), Clock()
    trainer = make_trainer(max_epochs=1, limit_train_batches=30, callbacks=[timed, clock])
    trainer.fit(make_task(), make_loader(rows=960, batch_size=32), make_loader(rows=4))
    share = timed.spent / clock.taken
    print(f"{1e6 * timed.spent / 30:.0f} us a step, {100 * share:.3f} % of it")
    assert share < 0.01
