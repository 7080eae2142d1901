"""Mixout: mixed weights, modes, frozen layers and resume."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_transfer.callbacks import Freezing, Mixout
from lightning_transfer.heads import LinearHead
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.runs import Stop, stage
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_batch, make_loader, make_trainer


def make_task(backbone=None):
    torch.manual_seed(0)
    backbone = backbone or OwnBackbone()
    return SequenceRegression(backbone, LinearHead(HIDDEN, 1), labels=Labels("regression"))


@pytest.mark.parametrize("unit", ["neuron", "weight"])
def test_mixed_weights_follow_the_formula_of_the_paper(unit):
    generator = torch.Generator().manual_seed(0)
    weight, source = (torch.randn(5, 400, generator=generator) for _ in range(2))
    p = 0.7
    torch.manual_seed(0)
    mixed = Mixout(p, unit=unit).mix(weight, source)
    kept = (weight - p * source) / (1 - p)
    replaced = (source - p * source) / (1 - p)
    is_kept, is_replaced = torch.isclose(mixed, kept), torch.isclose(mixed, replaced)
    assert torch.all(is_kept | is_replaced)
    assert is_replaced.float().mean().item() == pytest.approx(p, abs=0.06)
    columns_are_equal = torch.all(is_replaced.all(dim=0) | is_kept.all(dim=0)).item()
    assert columns_are_equal == (unit == "neuron")


@pytest.mark.parametrize("unit", ["neuron", "weight"])
def test_the_mean_of_mixed_weights_is_the_weight(unit):
    torch.manual_seed(0)
    weight, source = torch.randn(2, 3), torch.randn(2, 3)
    mixout = Mixout(0.5, unit=unit)
    mean = torch.stack([mixout.mix(weight, source) for _ in range(20_000)]).mean(dim=0)
    assert torch.allclose(mean, weight, atol=0.05)


def test_only_weights_not_replaced_have_a_gradient():
    weight, source = nn.Parameter(torch.randn(3, 50)), torch.randn(3, 50)
    mixed = Mixout(0.75).mix(weight, source)
    mixed.sum().backward()
    kept = torch.isclose(mixed, (weight - 0.75 * source) / 0.25)
    assert torch.equal(weight.grad, kept * 4.0)


class Look(Mixout):
    """Mixout that records if the output of a layer differs from that with plain weights."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.differs, self.plain = [], []
        self.layer = pl_module.backbone.second

    def _differ(self):
        hidden = torch.ones(1, HIDDEN)
        plain = functional.linear(hidden, self.layer.weight, self.layer.bias)
        torch.manual_seed(0)
        return not torch.equal(self.layer(hidden), plain)

    def on_train_batch_end(self, *_):
        self.differs.append(self._differ())

    def on_validation_batch_start(self, *_):
        self.plain.append(self._differ())


def test_weights_are_mixed_only_during_training():
    task, mixout = make_task(), Look(0.7)
    names = list(task.state_dict())
    make_trainer(callbacks=[mixout]).fit(task, make_loader(), make_loader())
    assert mixout.differs == [True] * 3
    assert mixout.plain == [False] * 3
    assert list(task.state_dict()) == names
    assert all("forward" not in vars(module) for module in task.modules())
    with torch.no_grad():
        assert torch.equal(task.eval()(make_batch()), copy.deepcopy(task)(make_batch()))


def test_with_p_zero_training_is_plain_fine_tuning():
    ends = []
    for callbacks in ([], [Mixout(0.0)], [Mixout(0.7)]):
        task = make_task()
        make_trainer(callbacks=callbacks).fit(task, make_loader(), make_loader())
        ends.append(task.backbone.first.weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_frozen_layers_are_neither_mixed_nor_copied():
    task, mixout = make_task(make_backbone()), Mixout(0.7)
    before = {name: value.clone() for name, value in task.backbone.state_dict().items()}
    make_trainer(callbacks=[Freezing(3), mixout]).fit(task, make_loader(), make_loader())
    kept = mixout.state_dict()["source"]
    assert kept
    assert all(name.startswith("model.encoder.layer.2.") for name in kept)
    assert all(torch.equal(kept[name], before[f"{name}.weight"]) for name in kept)


def test_layers_are_restored_after_a_failure():
    class Fail(Mixout):
        def on_train_batch_end(self, *_):
            raise Stop

    task = make_task()
    with pytest.raises(Stop):
        make_trainer(callbacks=[Fail(0.7)]).fit(task, make_loader(), make_loader())
    assert all("forward" not in vars(module) for module in task.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.0}, r"p must be in \[0, 1\), got 1.0"),
        ({"p": -0.1}, r"p must be in \[0, 1\), got -0.1"),
        ({"unit": "layer"}, "one of neuron, weight, got 'layer'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixout(**arguments)


def test_a_module_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match=r"backbone.table has none; remove the callback"):
        Mixout(backbone="backbone.table").setup(make_trainer(), make_task(), "fit")


def test_a_run_interrupted_within_an_epoch_equals_an_uninterrupted_one(runs, tmp_path):
    overrides = [
        *stage("target", runs.movies),
        "+callbacks@stages.target.callbacks=mixout",
        "resume_every=1",
    ]
    whole, cut = runs.fit_whole_and_resumed(tmp_path, *overrides, stop=("batch", 6))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    models = [(tmp_path / n / "model/model.safetensors").read_bytes() for n in ("resumed", "whole")]
    assert models[0] == models[1]
