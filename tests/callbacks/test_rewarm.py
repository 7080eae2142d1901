"""Learning-rate warm-up of newly unfrozen parameters."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_transfer.callbacks import Freezing
from lightning_transfer.callbacks.rewarm import Rewarm
from lightning_transfer.heads import LinearHead
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_loader, make_trainer

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "fused adamw": partial(torch.optim.AdamW, fused=True, weight_decay=0.1),
    "tensor rate": lambda groups, lr: torch.optim.Adam(groups, lr=torch.tensor(lr)),
}
FACTORS = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def halving(step):
    return 0.5**step


def train(make, scheduler, *, rewarm=None, scales=None, closure=True, steps=6):
    """Return the weights of an old and a new parameter after each step, and the rates before it.

    With ``scales``, the rate of the new group is scaled explicitly instead.
    """
    old, new = (nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0))
    groups = [{"params": [old], "name": "old"}, {"params": [new], "name": "new"}]
    optimizer = make(groups, lr=0.1)
    schedule = scheduler(optimizer)
    done, weights, seen = 0, [], []
    if rewarm:
        rewarm.attach([optimizer], now=lambda: done)
        rewarm.start([new], 0)
    for step in range(steps):
        rates = [group["lr"] for group in optimizer.param_groups]

        def loss_of(rates=rates):
            optimizer.zero_grad()
            if rewarm:  # as in a training step that logs the rate
                assert all(g["lr"] is r for g, r in zip(optimizer.param_groups, rates, strict=True))
            loss = (old**2).sum() + (new**3).sum()
            loss.backward()
            return loss

        if scales:
            loss_of()
            optimizer.param_groups[1]["lr"] = rates[1] * scales[step]
            optimizer.step()
            optimizer.param_groups[1]["lr"] = rates[1]
        elif closure:
            optimizer.step(loss_of)
        else:
            loss_of()
            optimizer.step()
        assert all(g["lr"] is r for g, r in zip(optimizer.param_groups, rates, strict=True))
        done += 1
        seen.append([float(rate) for rate in rates])
        schedule.step(1.0) if isinstance(schedule, ReduceLROnPlateau) else schedule.step()
        weights.append(torch.cat([old, new]).detach().clone())
    return torch.stack(weights), seen


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    "scheduler",
    [partial(LambdaLR, lr_lambda=halving), partial(ReduceLROnPlateau, patience=1, threshold=10)],
    ids=["lambda", "plateau"],
)
def test_only_the_update_has_the_scaled_rate(make, scheduler, closure):
    expected, plain = train(make, scheduler, scales=FACTORS)
    weights, seen = train(make, scheduler, rewarm=Rewarm(3), closure=closure)
    assert torch.equal(weights, expected)
    assert seen == plain
    assert not torch.equal(weights, train(make, scheduler)[0])


@pytest.mark.parametrize(
    ("steps", "factors"), [(0, [1.0, 1.0]), (1, [0.5, 1.0, 1.0]), (4, [0.2, 0.4, 0.6, 0.8, 1.0])]
)
def test_the_factor_rises_linearly_to_one(steps, factors):
    assert [Rewarm(steps).factor(7 + i, 7) for i in range(len(factors))] == factors


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        Rewarm(-1)


def two_in_a_group():
    pair = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)]
    return pair, torch.optim.SGD([{"params": pair, "name": "backbone"}], lr=1.0)


MIXED = r"group 'backbone' has .* different times \(factors \[0.25, 1.0\]\).*ParameterGroups"


def test_a_group_of_old_and_new_parameters_is_refused():
    (_, new), optimizer = two_in_a_group()
    rewarm = Rewarm(3)
    rewarm.attach([optimizer], now=lambda: 5)
    new.requires_grad_(True)
    with pytest.raises(ValueError, match=MIXED):
        rewarm.start([new], 5)


def test_such_a_group_is_refused_in_attach_too():
    (_, new), optimizer = two_in_a_group()
    new.requires_grad_(True)
    rewarm = Rewarm(3)
    rewarm.start([new], 5)
    with pytest.raises(ValueError, match=MIXED):
        rewarm.attach([optimizer], now=lambda: 5)


def test_frozen_parameters_in_the_group_do_not_matter():
    (first, frozen), optimizer = two_in_a_group()
    rewarm = Rewarm(3)
    rewarm.attach([optimizer], now=lambda: 0)
    rewarm.start([first], 0)
    first.grad = torch.ones(1)
    optimizer.step()
    assert first.item() == 0.75
    assert frozen.item() == 1.0


def test_parameters_after_their_warm_up_can_share_a_group():
    pair, optimizer = two_in_a_group()
    pair[1].requires_grad_(True)
    rewarm = Rewarm(3)
    rewarm.start(pair[:1], 0)
    rewarm.start(pair[1:], 2)
    rewarm.attach([optimizer], now=lambda: 5)
    for parameter in pair:
        parameter.grad = torch.ones(1)
    optimizer.step()
    assert [parameter.item() for parameter in pair] == [0.0, 0.0]  # a whole step at rate 1


def test_a_failing_closure_does_not_change_the_rate():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rewarm = Rewarm(3)
    rewarm.attach([optimizer], now=lambda: 0)
    rewarm.start([parameter], 0)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fail)
    assert optimizer.param_groups[0]["lr"] == 1.0


class Twice(torch.optim.SGD):
    """An optimizer that runs the closure twice before its update."""

    @torch.no_grad()
    def step(self, closure):
        for _ in range(2):
            closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad


def test_the_rate_is_scaled_once_if_the_closure_runs_twice():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = Twice([parameter], lr=1.0)
    rewarm = Rewarm(3)
    rewarm.attach([optimizer], now=lambda: 0)
    rewarm.start([parameter], 0)
    seen = []

    def closure():
        seen.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.ones(1)

    optimizer.step(closure)
    assert seen == [1.0, 1.0]
    assert parameter.item() == 0.75


def test_detached_optimizers_step_as_before():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rewarm = Rewarm(3)
    rewarm.attach([optimizer], now=lambda: 0)
    rewarm.start([parameter], 0)
    rewarm.detach()
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == 0.0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class Owner(pl.Callback):
    """Unfreeze a depth at an optimizer step, as GradualUnfreezing does."""

    def __init__(self, at, steps):
        self.at, self.rewarm, self.rates, self.moves = at, Rewarm(steps), [], []

    def on_train_start(self, trainer, pl_module):
        self.rewarm.attach(trainer.optimizers, now=lambda: trainer.global_step)

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.before = pl_module.backbone.second.weight.detach().clone()
        if trainer.global_step == self.at:
            pl_module.backbone.second.requires_grad_(True)
            self.rewarm.start(pl_module.backbone.second.parameters(), self.at)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        self.grad = pl_module.backbone.second.weight.grad

    def on_train_batch_end(self, trainer, pl_module, *_):
        moved = self.before - pl_module.backbone.second.weight.detach()
        self.moves.append(None if self.grad is None else moved / self.grad)


def test_newly_unfrozen_layers_warm_up_in_a_fit_with_closures():
    recipe = Recipe(partial(torch.optim.SGD, lr=1e-2), groups=ParameterGroups(layer_decay=0.5))
    torch.manual_seed(0)
    task = SequenceRegression(
        OwnBackbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"), recipe=recipe
    )
    owner = Owner(at=2, steps=2)
    make_trainer(max_epochs=2, callbacks=[Freezing("all"), owner]).fit(
        task, make_loader(), make_loader()
    )
    assert owner.moves[:2] == [None, None]
    for move, factor in zip(owner.moves[2:], [1 / 3, 2 / 3, 1.0, 1.0], strict=True):
        assert float(move.nanmedian()) == pytest.approx(1e-2 * factor, rel=1e-3)
    assert {rates["depth 2"] for rates in owner.rates} == {1e-2}
