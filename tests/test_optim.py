import math
from functools import partial
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.labels import Labels
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import (
    ParameterGroups,
    Recipe,
    depth_of_parameters,
    layers_of,
    linear_schedule,
)
from lightning_transfer.tasks import SequenceRegression
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, make_backbone, make_loader, make_trainer

UNIT = 1e-3  # a rate at which nothing runs away; rates are noted in units of it
SGD = partial(torch.optim.SGD, lr=UNIT)


def make_task(name="bert", backbone=None, recipe=None, **arguments):
    backbone = make_backbone(name) if backbone is None else backbone
    return SequenceRegression(
        backbone, MLPHead(HIDDEN, 1), labels=Labels("rating"), recipe=recipe, **arguments
    )


def by_name(task, groups):
    names = {id(p): n for n, p in task.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_parameter_is_in_exactly_one_group(name, layer_decay):
    task = make_task(name)
    task.backbone.layers[1].requires_grad_(False)  # a frozen one too: it may unfreeze
    groups = ParameterGroups(layer_decay=layer_decay)(task, task.backbone)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in task.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("name", CONFIGS)
def test_biases_and_norms_alone_take_no_weight_decay(name):
    task = make_task(name)
    groups = ParameterGroups()(task, task.backbone)
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter_name, parameter in task.named_parameters():
        plain = parameter_name.endswith("bias") or "norm" in parameter_name.lower()
        if "relative_attention_bias" in parameter_name:  # a table
            plain = False
        assert decay[id(parameter)] == (0.0 if plain else 0.3), parameter_name


def test_the_head_learns_faster_and_layers_slower_the_deeper_they_lie():
    task = make_task()
    groups = ParameterGroups(head_ratio=4.0, layer_decay=0.5)(task, task.backbone)
    ratios = {group["name"]: group["lr_ratio"] for group in groups}
    expected = {"head": 4.0, "depth 3": 1.0, "depth 2": 0.5, "depth 1": 0.25, "depth 0": 0.125}
    assert ratios == {**expected, **{f"{name}, no decay": r for name, r in expected.items()}}
    names = by_name(task, groups)
    for depth, prefix in enumerate(["embeddings", *(f"encoder.layer.{i}." for i in range(3))]):
        both = names[f"depth {depth}"] + names[f"depth {depth}, no decay"]
        assert all(name.startswith(f"backbone.model.{prefix}") for name in both)
    assert names["head"] == ["head.dense.weight", "head.out.weight"]
    assert names["head, no decay"] == ["head.dense.bias", "head.out.bias"]


def test_without_layer_decay_the_backbone_is_one_pair_of_groups():
    task = make_task()
    groups = ParameterGroups()(task, task.backbone)
    assert {group["name"]: group["lr_ratio"] for group in groups} == {
        "backbone": 1.0,
        "backbone, no decay": 1.0,
        "head": 10.0,
        "head, no decay": 10.0,
    }


def test_a_tied_parameter_counts_once_and_at_its_lowest_depth():
    backbone = OwnBackbone()
    backbone.second.weight = backbone.first.weight
    depths = depth_of_parameters(backbone)
    assert depths[id(backbone.first.weight)] == 1
    assert depths[id(backbone.second.bias)] == 2
    task = make_task(backbone=backbone)
    groups = ParameterGroups(layer_decay=0.5)(task, backbone)
    assert by_name(task, groups)["depth 1"] == ["backbone.first.weight"]
    assert "depth 2" not in by_name(task, groups)


def test_a_head_tied_to_the_backbone_learns_at_the_backbones_rate():
    backbone = OwnBackbone()
    task = make_task(backbone=backbone)
    task.head.dense.weight = backbone.first.weight
    names = by_name(task, ParameterGroups(layer_decay=0.5)(task, backbone))
    assert names["depth 1"] == ["backbone.first.weight"]
    assert names["head"] == ["head.out.weight"]


def test_what_stands_above_the_layers_goes_with_the_top_one():
    backbone = make_backbone("modernbert")
    assert depth_of_parameters(backbone)[id(backbone.model.final_norm.weight)] == 3


def test_parameters_of_an_objective_learn_like_the_head():
    task = make_task(objectives={"own": Weighted(nn.Linear(2, 2))})
    names = by_name(task, ParameterGroups()(task, task.backbone))
    assert "objectives.own.weight" in names["head"]


def test_a_backbone_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"Linear shows no `layers`; .* from the input up"):
        layers_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_ratio": 0}, "head_ratio must be > 0, got 0"),
        ({"layer_decay": 0}, r"layer_decay must be in \(0, 1\], got 0"),
        ({"layer_decay": 1.1}, r"layer_decay must be in \(0, 1\], got 1.1"),
    ],
)
def test_ratios_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParameterGroups(**arguments)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.25])
def test_linear_schedule_rises_and_then_falls_to_zero(warmup):
    total = 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = linear_schedule(optimizer, total_steps=total, warmup=warmup)
    rates = []
    for _ in range(total + 2):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rise = int(warmup * total)
    expected = [2.0 * (step + 1) / (rise + 1) for step in range(rise)]
    expected += [2.0 * (total - step) / (total - rise) for step in range(rise, total)]
    assert rates == pytest.approx([*expected, 0.0, 0.0])
    assert max(rates) == rates[rise] == 2.0


def test_linear_schedule_carries_its_numbers_in_its_state():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    state = linear_schedule(optimizer, total_steps=20, warmup=0.5).state_dict()
    assert state["lr_lambdas"] == [{"total_steps": 20, "warmup_steps": 10}]


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5])
def test_a_warm_up_that_is_no_fraction_is_refused(warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {warmup}; set scheduler.warmup"):
        linear_schedule(optimizer, total_steps=10, warmup=warmup)


class Rates(pl.Callback):
    """Notes the learning rate of every group, in units, at every optimizer step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        groups = optimizer.param_groups
        self.seen.append({group["name"]: group["lr"] / UNIT for group in groups})


def fit(recipe, *, epochs=2, monitor=None, **arguments):
    """Rates of each of the three steps an epoch."""
    task = make_task(recipe=recipe)
    rates = Rates()
    trainer = make_trainer(max_epochs=epochs, callbacks=[rates], **arguments)
    trainer.fit(task, make_loader(), make_loader())
    return rates.seen, trainer


def test_the_default_is_adamw_at_a_constant_rate():
    rates, trainer = fit(None)
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
    assert trainer.lr_scheduler_configs == []
    assert {rate["backbone"] for rate in rates} == {1e-4 / UNIT}
    assert {rate["head"] for rate in rates} == {1e-3 / UNIT}
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01


def test_linear_schedule_spans_the_whole_fit():
    recipe = Recipe(SGD, partial(linear_schedule, warmup=0.34), ParameterGroups(head_ratio=2.0))
    rates, _ = fit(recipe)
    expected = [1 / 3, 2 / 3, 1.0, 3 / 4, 2 / 4, 1 / 4]
    assert [rate["backbone"] for rate in rates] == pytest.approx(expected)
    assert [rate["head"] for rate in rates] == pytest.approx([2 * rate for rate in expected])


def test_accumulated_batches_make_one_step_of_the_schedule():
    rates, _ = fit(Recipe(SGD, partial(linear_schedule, warmup=0)), accumulate_grad_batches=3)
    assert [rate["backbone"] for rate in rates] == pytest.approx([1.0, 0.5])


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
def test_ratios_hold_at_every_step_under_any_schedule(name):
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


def test_one_cycle_spans_the_whole_fit_and_peaks_at_its_maximum():
    rates, trainer = fit(Recipe(SGD, partial(OneCycleLR, max_lr=3 * UNIT, pct_start=0.5)))
    top = [rate["backbone"] for rate in rates]
    assert top[0] == pytest.approx(3.0 / 25)
    assert max(top) == top[2] == pytest.approx(3.0)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 6
    assert top[-1] == pytest.approx(3.0 / 25 / 1e4)


def test_peaks_that_were_given_a_group_at_a_time_are_left_alone():
    peaks = [1.0, 2.0, 3.0, 4.0]
    rates, _ = fit(
        Recipe(SGD, partial(OneCycleLR, max_lr=[peak * UNIT for peak in peaks], pct_start=0.5))
    )
    assert list(rates[2].values()) == pytest.approx(peaks)


def test_a_length_that_was_given_is_kept():
    _, trainer = fit(Recipe(SGD, partial(OneCycleLR, max_lr=UNIT, total_steps=50)))
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 50


@pytest.mark.parametrize(("mode", "rate"), [("max", 1.0), ("min", 0.25)])
def test_plateau_follows_the_monitored_metric_in_its_own_direction(mode, rate):
    task = make_task(recipe=Recipe(SGD, partial(ReduceLROnPlateau, patience=0, factor=0.5)))
    task.mode = mode
    task.trainer = SimpleNamespace(estimated_stepping_batches=9)
    configured = task.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["monitor"] == "val/pearson"
    assert configured["lr_scheduler"]["interval"] == "epoch"
    for score in (0.1, 0.2, 0.3):  # better and better, where more is better
        scheduler.step(score)
    assert configured["optimizer"].param_groups[0]["lr"] / UNIT == pytest.approx(rate)


def test_a_mode_that_was_given_is_kept():
    task = make_task(recipe=Recipe(SGD, partial(ReduceLROnPlateau, mode="min")))
    assert task.configure_optimizers()["lr_scheduler"]["scheduler"].mode == "min"


def test_plateau_lowers_the_rate_once_an_epoch():
    recipe = Recipe(SGD, partial(ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5))
    rates, _ = fit(recipe, epochs=3)
    assert [rate["backbone"] for rate in rates] == pytest.approx([1.0] * 6 + [0.5] * 3)


def test_a_schedule_over_a_run_without_an_end_is_refused():
    task = make_task(recipe=Recipe(SGD, linear_schedule))
    task.trainer = SimpleNamespace(estimated_stepping_batches=math.inf)
    with pytest.raises(ValueError, match="the run has no end: set max_epochs or max_steps"):
        task.configure_optimizers()


def test_frozen_parameters_wait_in_their_groups():
    task = make_task(recipe=Recipe(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)))
    task.backbone.requires_grad_(False)
    before = [p.clone() for p in task.backbone.parameters()]
    make_trainer().fit(task, make_loader(), make_loader())
    assert all(torch.equal(a, b) for a, b in zip(before, task.backbone.parameters(), strict=True))
    optimizer = task.trainer.optimizers[0]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.parameters()))


def test_a_linear_head_has_its_own_rate_too():
    task = SequenceRegression(make_backbone(), LinearHead(HIDDEN, 1), labels=Labels("rating"))
    names = by_name(task, ParameterGroups()(task, task.backbone))
    assert names["head"] == ["head.out.weight"]
