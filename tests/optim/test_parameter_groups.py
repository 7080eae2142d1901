"""Parameter groups by depth and weight decay, and their learning-rate ratios."""

import pytest
import torch
from torch import nn

from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import ParameterGroups, depth_of_parameters, layers_of
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, make_backbone


def make_task(name="bert", backbone=None, recipe=None, **arguments):
    backbone = make_backbone(name) if backbone is None else backbone
    return SequenceRegression(
        backbone, MLPHead(HIDDEN, 1), labels=Labels("regression"), recipe=recipe, **arguments
    )


def by_name(task, groups):
    """Return the parameter names of each group."""
    names = {id(p): n for n, p in task.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_parameter_is_in_exactly_one_group(name, layer_decay):
    task = make_task(name)
    task.backbone.layers[1].requires_grad_(False)  # frozen, but grouped, because it may be unfrozen
    groups = ParameterGroups(layer_decay=layer_decay)(task, task.backbone)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in task.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_biases_and_norms_have_no_weight_decay(name):
    task = make_task(name)
    groups = ParameterGroups()(task, task.backbone)
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter_name, parameter in task.named_parameters():
        is_vector = parameter_name.endswith("bias") or "norm" in parameter_name.lower()
        if "relative_attention_bias" in parameter_name:  # an embedding table
            is_vector = False
        assert decay[id(parameter)] == (0.0 if is_vector else 0.3), parameter_name


def test_the_head_has_a_higher_and_lower_layers_have_lower_rates():
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


@pytest.mark.parametrize(
    ("arguments", "ratios"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"layer_decay": 0.5}, [0.125, 0.25, 0.5, 1.0]),
        ({"layer_ratios": [0.1, 0.1, 2, 0.7]}, [0.1, 0.1, 2.0, 0.7]),
    ],
)
def test_every_depth_has_a_pair_of_groups_with_its_ratio(arguments, ratios):
    task = make_task()
    groups = ParameterGroups(head_ratio=3.0, **arguments)(task, task.backbone)
    expected = {f"depth {depth}": ratio for depth, ratio in enumerate(ratios)} | {"head": 3.0}
    expected |= {f"{name}, no decay": ratio for name, ratio in expected.items()}
    assert {group["name"]: group["lr_ratio"] for group in groups} == expected


@pytest.mark.parametrize("count", [3, 5])
def test_a_wrong_number_of_ratios_is_an_error_with_the_number_of_depths(count):
    task = make_task()
    groups = ParameterGroups(layer_ratios=[1.0] * count)
    with pytest.raises(
        ValueError, match=rf"must have 4 values, one per depth from 0 .* to 3, got {count}"
    ):
        groups(task, task.backbone)


@pytest.mark.parametrize("name", CONFIGS)
def test_weight_decay_does_not_depend_on_the_ratios(name):
    task = make_task(name)
    classes = []
    for arguments in ({}, {"layer_decay": 0.5}, {"layer_ratios": [0.1, 0.2, 0.3, 1.0]}):
        groups = ParameterGroups(**arguments)(task, task.backbone)
        classes.append({id(p): "weight_decay" in g for g in groups for p in g["params"]})
    assert classes[0] == classes[1] == classes[2]


def test_a_tied_parameter_is_in_one_group_at_its_lowest_depth():
    backbone = OwnBackbone()
    backbone.second.weight = backbone.first.weight
    depths = depth_of_parameters(backbone)
    assert depths[id(backbone.first.weight)] == 1
    assert depths[id(backbone.second.bias)] == 2
    task = make_task(backbone=backbone)
    groups = ParameterGroups(layer_decay=0.5)(task, backbone)
    assert by_name(task, groups)["depth 1"] == ["backbone.first.weight"]
    assert "depth 2" not in by_name(task, groups)


def test_a_head_weight_tied_to_the_backbone_has_the_rate_of_its_depth():
    backbone = OwnBackbone()
    task = make_task(backbone=backbone)
    task.head.dense.weight = backbone.first.weight
    names = by_name(task, ParameterGroups(layer_decay=0.5)(task, backbone))
    assert names["depth 1"] == ["backbone.first.weight"]
    assert names["head"] == ["head.out.weight"]


def test_parameters_above_the_layers_have_the_depth_of_the_top_layer():
    backbone = make_backbone("modernbert")
    assert depth_of_parameters(backbone)[id(backbone.model.final_norm.weight)] == 3


def test_parameters_of_an_objective_are_in_the_group_of_the_head():
    task = make_task(objectives={"own": Weighted(nn.Linear(2, 2))})
    names = by_name(task, ParameterGroups()(task, task.backbone))
    assert "objectives.own.weight" in names["head"]


def test_a_backbone_without_layers_is_an_error():
    with pytest.raises(
        ValueError, match=r"Linear has no attribute `layers`; .* in order from the input"
    ):
        layers_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_ratio": 0}, "head_ratio must be > 0, got 0"),
        ({"layer_decay": 0}, r"layer_decay must be in \(0, 1\], got 0"),
        ({"layer_decay": 1.1}, r"layer_decay must be in \(0, 1\], got 1.1"),
        ({"layer_ratios": [1.0, 0.0]}, r"must be > 0, got \[1.0, 0.0\]; freeze a layer with"),
        (
            {"layer_ratios": [1.0], "layer_decay": 0.5},
            r"layer_decay=0.5 and layer_ratios=\[1.0\] both set .* give only one",
        ),
    ],
)
def test_ratios_out_of_range_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParameterGroups(**arguments)


def test_a_linear_head_has_its_own_rate():
    task = SequenceRegression(make_backbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"))
    names = by_name(task, ParameterGroups()(task, task.backbone))
    assert names["head"] == ["head.out.weight"]
