"""AutoFreeze on the packaged MiniLM: accuracy and cost of sampled gradients."""

import time

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_transfer.callbacks import AutoFreeze
from lightning_transfer.callbacks.auto_freeze import relative_changes
from tests.callbacks.test_unfreezing_minilm import Clock, make_task
from tests.tiny import make_trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def texts(rows, batch_size):
    """Return batches of 32 tokens with frequent and rare tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = 1000 + (29000 * torch.rand(rows, 32, generator=generator) ** 4).long()
    labels = torch.randn(rows, generator=generator)
    samples = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": label, "index": n}
        for n, (i, label) in enumerate(zip(ids, labels, strict=True))
    ]
    return DataLoader(samples, batch_size=batch_size)


class Exact(pl.Callback):
    """Record the exact norm of each layer's summed gradient, in intervals of two steps.

    Without the embeddings, which AutoFreeze does not test.
    """

    def __init__(self):
        self.norms, self.sums, self.steps = [], None, 0

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parts = [list(layer.parameters()) for layer in module.backbone.layers[1:]]
        if self.sums is None:
            self.sums = [[torch.zeros_like(p) for p in part] for part in parts]
        for total, part in zip(self.sums, parts, strict=True):
            for value, parameter in zip(total, part, strict=True):
                value += parameter.grad
        self.steps += 1
        if self.steps % 2 == 0:
            squares = [sum(value.square().sum() for value in total) for total in self.sums]
            norms = {depth: s.sqrt().item() for depth, s in enumerate(squares, start=1)}
            self.norms.append(norms)
            self.sums = None


class Sampled(AutoFreeze):
    """Record the estimated norms, and freeze nothing."""

    def __init__(self):
        super().__init__(every=2, start=0)
        self.norms = []

    def _end_interval(self, trainer, pl_module):
        self.norms.append(self._sums.norms(self._stack.depth_of))
        self._sums.clear()
        self._steps = 0


def test_sampled_gradients_estimate_the_change_of_each_layer():
    exact, sampled = Exact(), Sampled()
    trainer = make_trainer(max_epochs=1, limit_train_batches=9, callbacks=[sampled, exact])
    trainer.fit(make_task(), texts(144, 16))
    assert len(exact.norms) == len(sampled.norms) == 4
    for number in range(3):
        ours = relative_changes(*sampled.norms[number : number + 2])
        theirs = relative_changes(*exact.norms[number : number + 2])
        print({depth: (round(ours[depth], 3), round(theirs[depth], 3)) for depth in theirs})
        for depth, change in theirs.items():
            assert ours[depth] == pytest.approx(change, rel=0.2, abs=0.02), depth


class Timed(AutoFreeze):
    """Measure the time spent in the callback."""

    spent = 0.0

    def on_train_batch_start(self, *arguments):
        start = time.perf_counter()
        super().on_train_batch_start(*arguments)
        self.spent += time.perf_counter() - start

    def on_before_optimizer_step(self, *arguments):
        start = time.perf_counter()
        super().on_before_optimizer_step(*arguments)
        self.spent += time.perf_counter() - start


def test_the_callback_takes_less_than_one_percent_of_a_step():
    timed, clock = Timed(every=100, start=0), Clock()
    trainer = make_trainer(max_epochs=1, limit_train_batches=20, callbacks=[timed, clock])
    trainer.fit(make_task(), texts(640, 32))
    share = timed.spent / clock.taken
    print(f"{1e3 * timed.spent / 20:.2f} ms a step, {100 * share:.3f} % of it")
    assert share < 0.01
