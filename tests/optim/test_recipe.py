"""Recipes: optimizer, schedule and groups in a fit, and the arguments that a recipe sets."""

import csv
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import ParameterGroups, Recipe, linear_schedule
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, make_backbone, make_loader, make_trainer

UNIT = 1e-3  # a learning rate without divergence; recorded rates are multiples of it
SGD = partial(torch.optim.SGD, lr=UNIT)


def make_task(name="bert", backbone=None, recipe=None, **arguments):
    backbone = make_backbone(name) if backbone is None else backbone
    return SequenceRegression(
        backbone, MLPHead(HIDDEN, 1), labels=Labels("regression"), recipe=recipe, **arguments
    )


class Rates(pl.Callback):
    """Record the learning rate of every group, in multiples of UNIT, at every optimizer step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        groups = optimizer.param_groups
        self.seen.append({group["name"]: group["lr"] / UNIT for group in groups})


def fit(recipe, *, epochs=2, monitor=None, **arguments):
    """Return the rates of all steps, three per epoch, and the trainer."""
    task = make_task(recipe=recipe)
    rates = Rates()
    trainer = make_trainer(max_epochs=epochs, callbacks=[rates], **arguments)
    trainer.fit(task, make_loader(), make_loader())
    return rates.seen, trainer


def test_the_default_is_adamw_with_a_constant_rate():
    rates, trainer = fit(None)
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
    assert trainer.lr_scheduler_configs == []
    assert {rate["depth 3"] for rate in rates} == {1e-4 / UNIT}
    assert {rate["head"] for rate in rates} == {1e-3 / UNIT}
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01


def test_linear_schedule_spans_the_whole_fit():
    recipe = Recipe(SGD, partial(linear_schedule, warmup=0.34), ParameterGroups(head_ratio=2.0))
    rates, _ = fit(recipe)
    expected = [1 / 3, 2 / 3, 1.0, 3 / 4, 2 / 4, 1 / 4]
    assert [rate["depth 3"] for rate in rates] == pytest.approx(expected)
    assert [rate["head"] for rate in rates] == pytest.approx([2 * rate for rate in expected])


def test_accumulated_batches_are_one_step_of_the_schedule():
    rates, _ = fit(Recipe(SGD, partial(linear_schedule, warmup=0)), accumulate_grad_batches=3)
    assert [rate["depth 3"] for rate in rates] == pytest.approx([1.0, 0.5])


SCHEDULES = {
    "constant": partial(ConstantLR, factor=1.0, total_iters=0),
    "step": partial(StepLR, step_size=2, gamma=0.1),
    "exponential": partial(ExponentialLR, gamma=0.7),
    "cosine": partial(CosineAnnealingLR, T_max=6),
    "linear": partial(linear_schedule, warmup=0.2),
    "one cycle": partial(OneCycleLR, max_lr=3 * UNIT),
    "cyclic": partial(
        CyclicLR, base_lr=0.1 * UNIT, max_lr=UNIT, step_size_up=2, cycle_momentum=False
    ),
    "plateau": partial(ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5),
    "a function": lambda optimizer: OneCycleLR(optimizer, max_lr=3 * UNIT, total_steps=6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_ratios_hold_at_every_step_with_any_schedule(name):
    groups = ParameterGroups(head_ratio=4.0, layer_decay=0.5)
    rates, _ = fit(Recipe(SGD, SCHEDULES[name], groups))
    assert len(rates) == 6
    for rate in rates:
        for group, ratio in (
            ("head", 4.0),
            ("depth 2", 0.5),
            ("depth 1", 0.25),
            ("depth 0", 0.125),
        ):
            assert rate[group] == pytest.approx(ratio * rate["depth 3"])
            assert rate[f"{group}, no decay"] == rate[group]


def test_one_cycle_spans_the_whole_fit_with_its_peak_at_max_lr():
    rates, trainer = fit(Recipe(SGD, partial(OneCycleLR, max_lr=3 * UNIT, pct_start=0.5)))
    top = [rate["depth 3"] for rate in rates]
    assert top[0] == pytest.approx(3.0 / 25)
    assert max(top) == top[2] == pytest.approx(3.0)
    assert trainer.lr_scheduler_configs[0].scheduler.inner.total_steps == 6
    assert top[-1] == pytest.approx(3.0 / 25 / 1e4)


def test_peaks_per_group_count_before_the_ratio():
    peaks = [1.0 + i for i in range(10)]
    one_cycle = partial(OneCycleLR, max_lr=[peak * UNIT for peak in peaks], pct_start=0.5)
    rates, _ = fit(Recipe(SGD, one_cycle, ParameterGroups(head_ratio=0.5)))
    assert list(rates[2].values()) == pytest.approx([*peaks[:8], 4.5, 5.0])


def test_a_given_length_is_kept():
    _, trainer = fit(Recipe(SGD, partial(OneCycleLR, max_lr=UNIT, total_steps=50)))
    assert trainer.lr_scheduler_configs[0].scheduler.inner.total_steps == 50


@pytest.mark.parametrize(("mode", "rate"), [("max", 1.0), ("min", 0.25)])
def test_plateau_uses_the_direction_of_the_metric(mode, rate):
    task = make_task(recipe=Recipe(SGD, partial(ReduceLROnPlateau, patience=0, factor=0.5)))
    task.mode = mode
    task.trainer = SimpleNamespace(estimated_stepping_batches=9, check_val_every_n_epoch=1)
    configured = task.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["monitor"] == "val/pearson"
    assert configured["lr_scheduler"]["interval"] == "epoch"
    for score in (0.1, 0.2, 0.3):  # improves, if higher is better
        scheduler.step(score)
    assert configured["optimizer"].param_groups[0]["lr"] / UNIT == pytest.approx(rate)


def test_a_given_mode_is_kept():
    task = make_task(recipe=Recipe(SGD, partial(ReduceLROnPlateau, mode="min")))
    task.trainer = SimpleNamespace(check_val_every_n_epoch=1)
    assert task.configure_optimizers()["lr_scheduler"]["scheduler"].inner.mode == "min"


def test_plateau_is_stepped_once_per_epoch():
    recipe = Recipe(SGD, partial(ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5))
    rates, _ = fit(recipe, epochs=3)
    assert [rate["depth 3"] for rate in rates] == pytest.approx([1.0] * 6 + [0.5] * 3)


@pytest.mark.parametrize(
    ("monitor", "mode", "rate"), [("val/loss", "min", 0.25), ("val/r2", "max", 1.0)]
)
def test_plateau_monitors_the_metric_of_the_recipe(monitor, mode, rate):
    plateau = partial(ReduceLROnPlateau, patience=0, factor=0.5)
    task = make_task(recipe=Recipe(SGD, plateau, monitor=monitor, mode=mode))
    task.trainer = SimpleNamespace()
    configured = task.configure_optimizers()
    assert configured["lr_scheduler"]["monitor"] == monitor
    for score in (0.1, 0.2, 0.3):
        configured["lr_scheduler"]["scheduler"].step(score)
    assert configured["optimizer"].param_groups[0]["lr"] / UNIT == pytest.approx(rate)


@pytest.mark.parametrize(
    "trainer", [{"enable_validation": False}, {"datamodule": SimpleNamespace(n_val=0)}]
)
def test_plateau_without_validation_is_an_error_before_the_first_step(trainer):
    task = make_task(recipe=Recipe(SGD, ReduceLROnPlateau))
    task.trainer = SimpleNamespace(**trainer)
    with pytest.raises(
        ValueError, match=r"needs the metric val/pearson, but this run has no validation"
    ):
        task.configure_optimizers()


@pytest.mark.parametrize(
    ("make", "length"), [(CosineAnnealingLR, "T_max"), (PolynomialLR, "total_iters")]
)
def test_schedules_of_torch_get_the_length_of_the_stage(make, length):
    _, trainer = fit(Recipe(SGD, make))
    assert getattr(trainer.lr_scheduler_configs[0].scheduler.inner, length) == 6
    _, trainer = fit(Recipe(SGD, partial(make, **{length: 4})))
    assert getattr(trainer.lr_scheduler_configs[0].scheduler.inner, length) == 4


def test_the_learning_rate_monitor_of_lightning_logs_rates_with_ratios(tmp_path):
    groups = ParameterGroups(head_ratio=4.0, layer_decay=0.5)
    task = make_task(recipe=Recipe(SGD, linear_schedule, groups))
    logger = CSVLogger(tmp_path)
    callbacks = [LearningRateMonitor("step")]
    trainer = make_trainer(logger=logger, log_every_n_steps=1, callbacks=callbacks)
    trainer.fit(task, make_loader(), make_loader())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["lr-SGD/depth 3"]]
    assert len(logged) == 3
    for row in logged:
        ratio = float(row["lr-SGD/depth 1"]) / float(row["lr-SGD/depth 3"])
        assert ratio == pytest.approx(0.25)


def test_a_schedule_over_a_run_without_an_end_is_an_error():
    task = make_task(recipe=Recipe(SGD, linear_schedule))
    task.trainer = SimpleNamespace(estimated_stepping_batches=math.inf)
    with pytest.raises(ValueError, match="the run has no end; set max_epochs or max_steps"):
        task.configure_optimizers()


def test_frozen_parameters_are_in_groups_and_do_not_change():
    task = make_task(recipe=Recipe(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)))
    task.backbone.requires_grad_(False)
    before = [p.clone() for p in task.backbone.parameters()]
    make_trainer().fit(task, make_loader(), make_loader())
    assert all(torch.equal(a, b) for a, b in zip(before, task.backbone.parameters(), strict=True))
    optimizer = task.trainer.optimizers[0]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.parameters()))
