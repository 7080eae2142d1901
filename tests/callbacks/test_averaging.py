"""Averaged weights are validated, saved, transferred and exported."""

import csv
import json
from functools import partial
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from lightning_transfer.callbacks import Freezing, ema_averaging
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.heads import LinearHead
from lightning_transfer.optim import ParameterGroups, Recipe, linear_schedule
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from tests.runs import Stop, Watch, stage, transfer, weights
from tests.tiny import HIDDEN, OwnBackbone, make_loader, make_trainer

pytestmark = pytest.mark.slow  # whole runs

DECAY = 0.7
AVERAGES = {"ema": ("callbacks.ema.decay=0.7",), "swa": ()}
averages = pytest.mark.parametrize("name", AVERAGES)


class Steps(pl.Callback):
    """Record the weights after each step and in each validation."""

    after: ClassVar[list] = []
    validated: ClassVar[list] = []

    @classmethod
    def reset(cls):
        cls.after, cls.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        Steps.after.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *_):
        if batch_idx == 0:
            Steps.validated.append({k: v.clone() for k, v in pl_module.state_dict().items()})


@pytest.fixture(autouse=True)
def _reset():
    Watch.reset()
    Steps.reset()


def overrides(runs, name, *options, place="target"):
    return [
        *stage(
            place,
            runs.movies,
            *AVERAGES[name],
            "+callbacks.steps._target_=tests.callbacks.test_averaging.Steps",
            *options,
        ),
        f"+callbacks@stages.{place}.callbacks={name}",
    ]


def average(name, states):
    """Return the average of the weights after some steps, computed in float64."""
    found = {k: v.double() for k, v in states[0].items()}
    for count, state in enumerate(states[1:], start=1):
        share = (1 - DECAY) if name == "ema" else 1 / (count + 1)
        found = {k: v + share * (state[k].double() - v) for k, v in found.items()}
    return found


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.allclose(ours[key].double(), theirs[key].double(), atol=1e-6), key


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def final(folder, name="target-seed0"):
    return weights(folder / "stages" / name / "final.ckpt")


@averages
def test_the_average_is_validated_and_saved(runs, tmp_path, name):
    runs.fit(tmp_path, *overrides(runs, name, "keep=last"))
    first, last = Steps.validated[:2]
    assert_close(first, average(name, Steps.after[:4]))
    assert_close(last, average(name, Steps.after))
    assert_same(final(tmp_path), last)
    assert not torch.equal(last["head.out.weight"], Steps.after[-1]["head.out.weight"])


@averages
def test_the_best_validated_weights_are_saved(runs, tmp_path, name):
    runs.fit(tmp_path, *overrides(runs, name, "epochs=4"))
    best = json.loads((tmp_path / "stages/target-seed0/fit.json").read_text())["best"]
    kept = final(tmp_path)
    same = [all(torch.equal(kept[k], state[k]) for k in kept) for state in Steps.validated]
    assert any(same[:4])
    loaded = load(tmp_path / "stages/target-seed0/final.ckpt")
    assert_same({k: v for k, v in loaded.task.state_dict().items() if k in kept}, kept)
    with (tmp_path / "stages/target-seed0/metrics.csv").open() as file:
        scores = [float(row["val/pearson"]) for row in csv.DictReader(file) if row["val/pearson"]]
    assert max(scores) == pytest.approx(best)
    assert same.index(True) == scores.index(max(scores))


@averages
def test_the_average_is_exported(runs, tmp_path, name):
    runs.fit(tmp_path, *overrides(runs, name))
    kept, model = final(tmp_path), load(tmp_path).task.state_dict()
    assert all(torch.equal(model[key], kept[key]) for key in kept)


def test_the_average_is_transferred_to_the_next_stage(runs, tmp_path):
    ema = ["+callbacks@stages.source.callbacks=ema", "stages.source.callbacks.ema.decay=0.7"]
    runs.fit(tmp_path, *transfer(runs.news, runs.movies, baselines=False), *ema)
    kept = final(tmp_path, "source-seed0")
    start = Watch.started[-1][1]
    backbone = {k: v for k, v in kept.items() if k.startswith("backbone.")}
    assert_same({k: start[k] for k in backbone}, backbone)


@averages
@pytest.mark.parametrize("stop", [("batch", 2), ("batch", 6), ("epoch", 4), ("end", 8)])
def test_an_interrupted_run_equals_an_uninterrupted_one(runs, tmp_path, name, stop):
    options = [*overrides(runs, name), "resume_every=1"]
    runs.fit(tmp_path / "whole", *options)
    Watch.stop = ("target-seed0", *stop)
    with pytest.raises(Stop):
        runs.fit(tmp_path / "cut", *options)
    Watch.stop = None
    runs.fit(tmp_path / "cut", *options, resume=True)
    assert_same(final(tmp_path / "cut"), final(tmp_path / "whole"))
    curves = [
        (tmp_path / n / "stages/target-seed0/metrics.csv").read_text() for n in ("cut", "whole")
    ]
    assert curves[0] == curves[1]


@averages
def test_frozen_layers_do_not_change_at_all(runs, tmp_path, name):
    runs.fit(tmp_path, *overrides(runs, name), "finetuning@stages.target.finetuning=frozen")
    start, kept = Watch.started[0][1], final(tmp_path)
    backbone = [key for key in kept if key.startswith("backbone.")]
    assert all(torch.equal(kept[key], start[key]) for key in backbone)
    assert not torch.equal(kept["head.out.weight"], start["head.out.weight"])


def make_task(kind="regression", **arguments):
    torch.manual_seed(0)
    recipe = Recipe(
        partial(torch.optim.AdamW, lr=1e-2), linear_schedule, ParameterGroups(layer_decay=0.5)
    )
    if kind == "regression":
        head = LinearHead(HIDDEN, 1)
        return SequenceRegression(OwnBackbone(), head, labels=Labels(kind), recipe=recipe)
    labels = Labels(kind, ("a", "b"))
    return SequenceClassification(
        OwnBackbone(), LinearHead(HIDDEN, 2), labels=labels, recipe=recipe, **arguments
    )


class Counts(pl.LightningDataModule):
    label_counts: ClassVar = {"a": 1, "b": 9}

    def train_dataloader(self):
        return make_loader("single_label")

    def val_dataloader(self):
        return make_loader("single_label")


def test_balanced_class_weights_apply_in_validation_and_afterwards():
    losses = {}
    for name, callbacks in (("plain", []), ("ema", [ema_averaging(0.0)])):
        task = make_task("single_label", class_weights="balanced")
        trainer = make_trainer(callbacks=callbacks)
        trainer.fit(task, datamodule=Counts())
        losses[name] = trainer.callback_metrics["val/loss"].item()
        assert task.loss_weights.tolist() == pytest.approx([5.0, 5 / 9])
    assert losses["ema"] == pytest.approx(losses["plain"])  # the average is the last step's


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        ema_averaging(decay)


def test_lightnings_ema_changes_frozen_layers():
    """The reason for ema_averaging. If this fails, use Lightning's EMAWeightAveraging instead."""
    moved = {}
    for name, callback in (
        ("ours", ema_averaging(0.999)),
        ("lightning's", EMAWeightAveraging(decay=0.999, use_buffers=False)),
    ):
        task = make_task()
        start = task.backbone.first.weight.detach().clone()
        trainer = make_trainer(max_epochs=10, callbacks=[Freezing("all"), callback])
        trainer.fit(task, make_loader(), make_loader())
        moved[name] = (task.backbone.first.weight - start).abs().max().item()
    assert moved["ours"] == 0.0
    assert 0 < moved["lightning's"] < 1e-5


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_lightnings_swa_saves_weights_that_are_not_averaged(tmp_path):
    """The reason for another callback in swa.yaml: learning-rate ratios and averages are lost."""
    rates, task = [], make_task()

    class Rates(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    best = ModelCheckpoint(tmp_path, monitor="val/loss", save_weights_only=True, save_top_k=-1)
    swa = StochasticWeightAveraging(1e-2, swa_epoch_start=1, annealing_epochs=1)
    trainer = make_trainer(max_epochs=4, callbacks=[Rates(), swa, best], enable_checkpointing=True)
    trainer.fit(task, make_loader(), make_loader())
    assert rates[-1]["head"] == rates[-1]["depth 0"] == 1e-2
    saved = weights(best.best_model_path)["head.out.weight"]
    assert not torch.equal(saved, task.state_dict()["head.out.weight"])


def test_the_callback_is_a_class_of_lightning():
    assert type(ema_averaging()) is WeightAveraging
