"""Value and gradient of the L2-SP penalty, its resume points, and runs with it."""

import pytest
import torch

from lightning_transfer.callbacks import Freezing
from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint
from lightning_transfer.heads import LinearHead
from lightning_transfer.objectives import L2SP, Weighted
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.runs import Watch, stage
from tests.tiny import HIDDEN, OwnBackbone, make_loader, make_trainer

BATCH = {"labels": torch.zeros(1)}


def make_task(**strengths):
    torch.manual_seed(0)
    objectives = {"l2_sp": Weighted(L2SP(**strengths))}
    return SequenceRegression(
        OwnBackbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"), objectives=objectives
    )


def test_the_penalty_is_half_the_squared_distance_from_the_initial_parameters():
    task = make_task(alpha=0.5, beta=0.25)
    penalty = task.objectives["l2_sp"]
    size = sum((w**2).sum() for w in task.head.parameters())
    assert penalty(BATCH, None, task).item() == pytest.approx(0.25 / 2 * size.item())
    with torch.no_grad():
        task.backbone.first.weight += 2.0
        task.backbone.table.weight[3, 4] -= 3.0
    distance = 4.0 * HIDDEN**2 + 9.0
    expected = 0.5 / 2 * distance + 0.25 / 2 * size.item()
    assert penalty(BATCH, None, task).item() == pytest.approx(expected)


def test_the_gradient_is_the_distance_times_the_strength():
    task = make_task(alpha=0.5, beta=0.25)
    penalty = task.objectives["l2_sp"]
    penalty(BATCH, None, task)
    with torch.no_grad():
        task.backbone.first.weight += 2.0
    penalty(BATCH, None, task).backward()
    assert torch.allclose(task.backbone.first.weight.grad, torch.tensor(1.0))
    assert torch.equal(task.backbone.second.weight.grad, torch.zeros(HIDDEN, HIDDEN))
    assert torch.allclose(task.head.out.weight.grad, 0.25 * task.head.out.weight)


def test_frozen_parameters_count_only_from_their_first_trainable_step():
    task = make_task(alpha=1.0, beta=0.0)
    penalty = task.objectives["l2_sp"]
    task.backbone.requires_grad_(False)
    assert penalty(BATCH, None, task).item() == 0.0
    assert penalty.resume_state() == {}
    task.backbone.second.requires_grad_(True)
    penalty(BATCH, None, task)
    assert set(penalty.resume_state()) == {"second.weight", "second.bias"}
    with torch.no_grad():
        task.backbone.second.bias += 1.0
        task.backbone.first.bias += 1.0  # frozen, so it does not count
    assert penalty(BATCH, None, task).item() == pytest.approx(HIDDEN / 2)


def test_a_strong_penalty_keeps_the_backbone_near_its_initial_parameters():
    distances = {}
    for alpha in (0.0, 100.0):
        task = make_task(alpha=alpha, beta=0.0)
        start = task.backbone.first.weight.detach().clone()
        make_trainer(max_epochs=5).fit(task, make_loader(), make_loader())
        distances[alpha] = (task.backbone.first.weight - start).norm().item()
    assert 0 < distances[100.0] < 0.5 * distances[0.0]


def test_each_fit_records_new_initial_parameters():
    task = make_task()
    make_trainer().fit(task, make_loader(), make_loader())
    before = task.backbone.first.weight.detach().clone()
    make_trainer().fit(task, make_loader(), make_loader())
    assert torch.equal(task.objectives["l2_sp"].resume_state()["first.weight"], before)


def test_only_resume_points_contain_the_initial_parameters(tmp_path):
    task = make_task()
    start = {k: v.clone() for k, v in task.backbone.state_dict().items()}
    trainer = make_trainer(callbacks=[Freezing("embeddings")])
    trainer.fit(task, make_loader(), make_loader())
    trainer.save_checkpoint(tmp_path / "final.ckpt", weights_only=True)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    final, last = (read_checkpoint(tmp_path / name) for name in ("final.ckpt", "last.ckpt"))
    assert set(final["state_dict"]) == set(last["state_dict"])
    assert all(name.startswith(("backbone.", "head.")) for name in final["state_dict"])
    assert "lightning_transfer_starts" not in final
    initial = last["lightning_transfer_starts"]["l2_sp"]
    assert set(initial) == {name for name in start if not name.startswith("table")}
    assert all(torch.equal(initial[name], start[name]) for name in initial)


@pytest.mark.parametrize("strengths", [{"alpha": -1.0}, {"beta": -0.5}])
def test_negative_strengths_are_an_error(strengths):
    given = {"alpha": 0.1, "beta": 0.01, **strengths}
    message = f"alpha and beta must be >= 0, got {given['alpha']} and {given['beta']}"
    with pytest.raises(ValueError, match=message):
        L2SP(**strengths)


METHOD = "finetuning@stages.target.finetuning=l2_sp"


def test_a_run_resumed_in_mid_epoch_has_the_same_result(runs, tmp_path):
    """Other initial parameters would change the result, because the penalty is strong."""
    option = "finetuning.objectives.l2_sp.alpha=5.0"
    overrides = [*stage("target", runs.movies, option), METHOD, "resume_every=1"]
    whole, cut = runs.fit_whole_and_resumed(tmp_path, *overrides, stop=("batch", 6))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    assert (
        "train/l2_sp"
        in (tmp_path / "whole/stages/target-seed0/metrics.csv").read_text().splitlines()[0]
    )


def test_an_objective_of_the_stage_replaces_that_of_its_finetuning_method(runs, tmp_path):
    losses = []
    for name, options in (
        ("finetuning", ["finetuning.objectives.l2_sp.beta=100"]),
        (
            "own",
            ["finetuning.objectives.l2_sp.beta=100", "+objectives.l2_sp._target_=tests.runs.Drift"],
        ),
    ):
        Watch.reset()
        runs.target(tmp_path / name, *options, epochs=1, overrides=[METHOD])
        losses.append(Watch.losses[0])
        start = {k: v for k, v in Watch.started[0][1].items() if k.startswith("head.")}
    large = 50 * sum((v**2).sum() for v in start.values())
    drift = sum((v**2).mean() for v in start.values())
    assert losses[0] - losses[1] == pytest.approx(float(large - drift), rel=1e-4)
