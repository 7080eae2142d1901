"""The learning rate of a group is the scheduler's rate times the group's ratio."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import default_collate

from lightning_transfer.callbacks import Freezing, ResumePoint
from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.batching.loaders import ResumableLoader
from lightning_transfer.heads import LinearHead
from lightning_transfer.optim import (
    ParameterGroups,
    RatioScheduler,
    Recipe,
    constant_schedule,
    cosine_schedule,
    linear_schedule,
    one_cycle_schedule,
    slanted_triangular_schedule,
)
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_loader, make_trainer

UNIT = 1e-3
# Any absolute limit of a scheduler is large for the low rates at depths 0 and 1.
RATIOS = {"depth 0": 1e-6, "depth 1": 1e-3, "depth 2": 1.0, "head": 4.0}
RATIOS |= {f"{name}, no decay": ratio for name, ratio in RATIOS.items() if name != "depth 0"}
EPOCHS, BATCHES = 3, 4


def halved(step):
    return 0.5 ** (step // 2)


def sequence(optimizer):
    """Return two schedules in sequence: a linear increase, then a cosine decay."""
    first = LinearLR(optimizer, start_factor=0.1, total_iters=3)
    second = CosineAnnealingLR(optimizer, T_max=4, eta_min=0.2 * UNIT)
    return SequentialLR(optimizer, [first, second], milestones=[3])


# Scheduler of the recipe, and the argument that the recipe sets to the number of steps.
SCHEDULES = {
    "OneCycleLR": (partial(OneCycleLR, max_lr=3 * UNIT), "total_steps"),
    "LambdaLR": (partial(LambdaLR, lr_lambda=halved), None),
    "CosineAnnealingLR": (partial(CosineAnnealingLR, eta_min=0.1 * UNIT), "T_max"),
    "CosineAnnealingWarmRestarts": (
        partial(CosineAnnealingWarmRestarts, T_0=5, eta_min=0.1 * UNIT),
        None,
    ),
    "ReduceLROnPlateau": (
        partial(ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5, min_lr=0.4 * UNIT),
        None,
    ),
    "CyclicLR": (
        partial(CyclicLR, base_lr=0.1 * UNIT, max_lr=UNIT, step_size_up=2, cycle_momentum=False),
        None,
    ),
    "StepLR": (partial(StepLR, step_size=2, gamma=0.1), None),
    "SequentialLR": (sequence, None),
    "ExponentialLR": (partial(ExponentialLR, gamma=0.7), None),
    "PolynomialLR": (partial(PolynomialLR, power=2.0), "total_iters"),
    "ConstantLR": (partial(ConstantLR, factor=1.0, total_iters=0), None),
    "constant": (partial(constant_schedule, warmup=0.5), "total_steps"),
    "linear": (partial(linear_schedule, warmup=0.2), "total_steps"),
    "cosine": (partial(cosine_schedule, warmup=0.2, final=0.1), "total_steps"),
    "slanted triangular": (partial(slanted_triangular_schedule, cut_frac=0.3), "total_steps"),
    "one cycle": (one_cycle_schedule, "total_steps"),
}
schedules = pytest.mark.parametrize("name", SCHEDULES)


class Stop(Exception):
    pass


class Watch(pl.Callback):
    """Record the rate of every group at every optimizer step, and the metric of every epoch."""

    def __init__(self, stop=None):
        self.rates, self.values, self.stop = [], [], stop

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    def on_validation_end(self, trainer, pl_module):
        self.values.append(trainer.callback_metrics["val/pearson"].item())

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.stop:
            raise Stop


class Data(pl.LightningDataModule):
    """Batches in another order in each epoch, with a state for resumes."""

    def __init__(self):
        super().__init__()
        samples = make_loader(rows=4 * BATCHES).dataset
        sampler = LengthBatchSampler([1] * len(samples), 4, seed=0, shuffle=True)
        self.loader = ResumableLoader(samples, sampler, collate_fn=default_collate)

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return make_loader()

    def state_dict(self):
        return self.loader.state_dict()

    def load_state_dict(self, state):
        self.loader.load_state_dict(state)


def fit(name, *callbacks, watch=None, path=None, **arguments):
    torch.manual_seed(0)
    groups = ParameterGroups(head_ratio=4.0, layer_ratios=[1e-6, 1e-3, 1.0])
    recipe = Recipe(partial(torch.optim.AdamW, lr=UNIT), SCHEDULES[name][0], groups)
    task = SequenceRegression(
        OwnBackbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"), recipe=recipe
    )
    watch = watch or Watch()
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=[*callbacks, watch], **arguments)
    trainer.fit(task, datamodule=Data(), ckpt_path=path)
    return watch, trainer


def expected(name, values, steps_an_epoch=BATCHES):
    """Return the expected rates: those of a scheduler without groups, times the ratios."""
    factory, length = SCHEDULES[name]
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=UNIT)
    given = {length: steps_an_epoch * EPOCHS} if length else {}
    if name == "ReduceLROnPlateau":
        given["mode"] = "max"
    scheduler = factory(optimizer, **given)
    rates = []
    for value in values:
        for _ in range(steps_an_epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if name != "ReduceLROnPlateau":
                scheduler.step()
        if name == "ReduceLROnPlateau":
            scheduler.step(value)
    return [{group: rate * ratio for group, ratio in RATIOS.items()} for rate in rates]


@schedules
@pytest.mark.parametrize("accumulate", [1, 2])
def test_rates_are_those_of_the_scheduler_times_the_ratio(name, accumulate):
    watch, _ = fit(name, accumulate_grad_batches=accumulate)
    assert watch.rates == expected(name, watch.values, BATCHES // accumulate)
    assert len(watch.rates) == EPOCHS * BATCHES // accumulate
    if name != "ConstantLR":
        assert len({rates["depth 0"] for rates in watch.rates}) > 1


@schedules
@pytest.mark.parametrize("stop", [3, 5])
def test_rates_continue_after_a_resume(name, tmp_path, stop):
    """The resume point is from step 2 (mid-epoch) or from step 4 (end of an epoch)."""
    point, first = ResumePoint(tmp_path, every_n_steps=2), Watch(stop)
    with pytest.raises(Stop):
        fit(name, point, watch=first, enable_checkpointing=True)
    last = ResumePoint(tmp_path)
    second, trainer = fit(name, last, path=point.path, enable_checkpointing=True)
    whole, uninterrupted = fit(name)
    assert second.rates == whole.rates[stop - 1 :]
    ends = [trainer, uninterrupted]
    ours, theirs = ({k: p for k, p in t.lightning_module.named_parameters()} for t in ends)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Unfreeze(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.requires_grad_(True)


@schedules
def test_a_scheduler_continues_when_layers_are_unfrozen(name):
    watch, trainer = fit(name, Freezing("all"), Unfreeze())
    assert watch.rates == expected(name, watch.values)
    task = trainer.lightning_module
    torch.manual_seed(0)
    start = OwnBackbone()
    for ours, fresh in zip(
        task.backbone.second.parameters(), start.second.parameters(), strict=True
    ):
        assert not torch.equal(ours, fresh)


def test_a_plateau_is_stepped_in_the_epochs_that_validate():
    watch, trainer = fit("ReduceLROnPlateau", check_val_every_n_epoch=2)
    assert len(watch.values) == 1
    assert len(watch.rates) == EPOCHS * BATCHES
    assert trainer.lr_scheduler_configs[0].scheduler.inner.best == watch.values[0]


def test_a_plateau_is_stepped_after_every_validation_of_an_epoch():
    watch, trainer = fit("ReduceLROnPlateau", val_check_interval=2)
    assert len(watch.values) == 2 * EPOCHS
    assert [rates["depth 2"] / UNIT for rates in watch.rates[::2]] == [1, 1, 0.5, 0.4, 0.4, 0.4]
    assert trainer.lr_scheduler_configs[0].scheduler.inner.last_epoch == 2 * EPOCHS


def test_rates_that_are_tensors_keep_their_ratios():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_ratio": r} for r in (1.0, 0.25)]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(8.0))
    scheduler = RatioScheduler(StepLR(optimizer, step_size=1, gamma=0.5))
    optimizer.step()
    scheduler.step()
    assert [float(rate) for rate in scheduler.get_last_lr()] == [4.0, 1.0]
    assert [float(group["lr"]) for group in optimizer.param_groups] == [4.0, 1.0]


def test_a_group_without_a_ratio_has_the_schedulers_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    scheduler = RatioScheduler(StepLR(optimizer, step_size=1, gamma=0.5))
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 4.0


def test_ratios_are_applied_if_the_scheduler_fails():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_ratio": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=8.0)
    scheduler = RatioScheduler(ReduceLROnPlateau(optimizer))
    with pytest.raises(TypeError):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 2.0
