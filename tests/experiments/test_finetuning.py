"""Every fine-tuning method in a whole run: its trainable parameters, and exact resume."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli import help_text
from tests.experiments.test_ddp import NO_DROPOUT, SGD, assert_close
from tests.runs import (
    Runs,
    Watch,
    deterministic_model,
    results,
    transfer,
    unfinished_files,
    weights,
    without_seconds,
)

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LAYERS = 2  # of the tiny model, without the embeddings
TARGET = "source-seed0/target-seed0"


def method(name, *more):
    return [f"finetuning@stages.target.finetuning={name}", *more]


def changed_depths(folder):
    """Return the depths whose weights differ between the stages; 3 is the head."""
    before = weights(folder / "stages/source-seed0/final.ckpt")
    after = weights(folder / f"stages/{TARGET}/final.ckpt")
    changed = {k for k, v in before.items() if k in after and not torch.equal(v, after[k])}
    return {depth(name) for name in changed}


def depth(name):
    if name.startswith("head."):
        return LAYERS + 1
    layer = re.search(r"encoder\.layer\.(\d+)", name)
    return 0 if layer is None else 1 + int(layer[1])


# Method to the depths that it trains.
TRAINED = {
    "full": {0, 1, 2, 3},
    "frozen": {3},
    "last_two": {1, 2, 3},
    "bitfit": {0, 1, 2, 3},
    "autofreeze": {0, 1, 2, 3},
    "gradual": {0, 1, 2, 3},
    "ulmfit": {0, 1, 2, 3},
    "chain_thaw": {0, 1, 2, 3},
    "l2_sp": {0, 1, 2, 3},
    **{name: {3} for name in ("lora", "ia3", "prefix", "bottleneck")},  # and its own weights
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_changes_exactly_its_trainable_depths(runs, tmp_path, name):
    overrides = transfer(runs.news, runs.movies, *method(name), baselines=False)
    found = runs.fit(tmp_path, *overrides, "stages.target.keep=last", "stages.target.epochs=3")
    assert changed_depths(tmp_path) == TRAINED[name]
    assert -1 < found["rows"][-1]["metrics"]["pearson"]["mean"] < 1


def test_every_shipped_method_is_tested_here():
    shipped = {path.stem for path in (help_text.conf_folder() / "finetuning").glob("*.yaml")}
    assert shipped == set(TRAINED)


def test_wrong_autofreeze_depth_is_an_error_before_the_source_stage(runs, tmp_path):
    keep = "stages.target.finetuning.callbacks.freezing.keep=9"
    overrides = transfer(runs.news, runs.movies, *method("autofreeze", keep), baselines=False)
    message = r"stages.target: keep=9 leaves no layer to freeze: the module has 3 layers; keep must"
    with pytest.raises(ValueError, match=message):
        runs.fit(tmp_path, *overrides)
    assert Watch.started == []


def test_the_schedule_of_a_stage_replaces_that_of_its_method(runs):
    overrides = transfer(runs.news, runs.movies, *method("ulmfit"))
    target = runs.config(*overrides)["stages"]["target"]
    assert target["finetuning"]["scheduler"]["_target_"].endswith("slanted_triangular_schedule")
    assert target.get("scheduler") is None
    overrides.append("scheduler@stages.target.scheduler=constant")
    chosen = runs.config(*overrides)["stages"]["target"]["scheduler"]
    assert chosen["_target_"].endswith("constant_schedule")


def launch(runs, folder, *overrides, start=(), **environment):
    # One thread, as in this process: a sum in another order rounds differently.
    process = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = start or (sys.executable, "-m")
    command = [*begin, "lightning_transfer", "fit", *runs.overrides, *overrides]
    return subprocess.run(
        [*command, f"hydra.run.dir={folder}"],
        env={**os.environ, **runs.environment, **environment, **process},
        cwd=runs.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def short(runs):
    """Return the overrides of a run of 12 steps with dropout; its third phase starts at step 8."""
    overrides = transfer(runs.news, runs.movies, *method("gradual"), baselines=False)
    return [*overrides, "stages.target.epochs=3", "resume_every=1"]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = launch(runs, folder, *short(runs))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    ["step,8", "step,3", "epoch,4"],
    ids=["at a new phase", "within a phase", "between epochs"],
)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(runs, whole, tmp_path, kills):
    folder = tmp_path / "run"
    killed = launch(runs, folder, *short(runs), WATCH_KILLS=f"{TARGET},{kills}")
    assert killed.returncode == -9, killed.stderr
    resumed = launch(runs, folder, *short(runs), "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert without_seconds(results(folder)) == without_seconds(results(whole))
    found, expected = (weights(f / f"stages/{TARGET}/final.ckpt") for f in (folder, whole))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert unfinished_files(folder) == []


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    """Runs of a model without dropout."""
    folder = deterministic_model(tmp_path_factory.mktemp("model"))
    return Runs(folder, tmp_path_factory.mktemp("runs"))


def unfreezing(runs, batch_size):
    sizes = [f"stages.{name}.data.batch_size={batch_size}" for name in ("source", "target")]
    odd = ["stages.target.data.splits.test=37", "stages.target.data.splits.val=13"]
    overrides = [*NO_DROPOUT, *sizes, *odd, *SGD, *method("gradual")]
    return transfer(runs.news, runs.movies, *overrides, baselines=False)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["lightning", "torchrun"])
def test_unfreezing_on_two_ranks_equals_one_device(deterministic, tmp_path, by):
    alone, folder = tmp_path / "alone", tmp_path / "run"
    deterministic.fit(alone, *unfreezing(deterministic, 16))
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    start = torchrun if by == "torchrun" else ()
    done = launch(deterministic, folder, *unfreezing(deterministic, 8), *two, start=start)
    assert done.returncode == 0, done.stderr
    assert_close(folder, alone)
    assert "phase 3 of 3" in (folder / "fit.log").read_text()
    assert done.stderr.count("phase 3 of 3") == 1
