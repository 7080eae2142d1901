"""Every strategy in a whole run: what moves, and what becomes of it when the run is cut off."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli import help_text
from tests.experiments.test_ddp import SGD, STILL, assert_close
from tests.runs import (
    Runs,
    Watch,
    left_behind,
    results,
    still_model,
    transfer,
    weights,
    without_seconds,
)

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
LAYERS = 2  # of the tiny model, embeddings aside
TARGET = "source-seed0/target-seed0"


def strategy(name, *more):
    return [f"finetuning@stages.target.finetuning={name}", *more]


def depths_that_moved(folder):
    """Depths whose weights differ between the stages; 3 is the head."""
    before = weights(folder / "stages/source-seed0/final.ckpt")
    after = weights(folder / f"stages/{TARGET}/final.ckpt")
    moved = {k for k, v in before.items() if k in after and not torch.equal(v, after[k])}
    return {depth(name) for name in moved}


def depth(name):
    if name.startswith("head."):
        return LAYERS + 1
    layer = re.search(r"encoder\.layer\.(\d+)", name)
    return 0 if layer is None else 1 + int(layer[1])


MOVES = {
    "full": {0, 1, 2, 3},
    "frozen": {3},
    "last_two": {1, 2, 3},
    "bitfit": {0, 1, 2, 3},
    "autofreeze": {0, 1, 2, 3},
    "gradual": {0, 1, 2, 3},
    "ulmfit": {0, 1, 2, 3},
    "chain_thaw": {0, 1, 2, 3},
    "l2_sp": {0, 1, 2, 3},
    **{name: {3} for name in ("lora", "ia3", "prefix", "bottleneck")},  # beside new weights
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_under_a_strategy(runs, tmp_path, name):
    words = transfer(runs.news, runs.movies, *strategy(name), baselines=False)
    found = runs.fit(tmp_path, *words, "stages.target.keep=last", "stages.target.epochs=3")
    assert depths_that_moved(tmp_path) == MOVES[name]
    assert -1 < found["rows"][-1]["metrics"]["pearson"]["mean"] < 1


def test_every_strategy_is_tried_here():
    there = {path.stem for path in (help_text.conf_folder() / "finetuning").glob("*.yaml")}
    assert there == set(MOVES)


def test_what_autofreeze_cannot_do_is_told_before_the_source_stage(runs, tmp_path):
    keep = "stages.target.finetuning.callbacks.freezing.keep=9"
    words = transfer(runs.news, runs.movies, *strategy("autofreeze", keep), baselines=False)
    with pytest.raises(ValueError, match=r"stages.target: keep=9 leaves nothing to freeze of 3"):
        runs.fit(tmp_path, *words)
    assert Watch.started == []


def test_a_stage_may_choose_another_schedule_than_its_strategy(runs):
    words = transfer(runs.news, runs.movies, *strategy("ulmfit"))
    target = runs.config(*words)["stages"]["target"]
    assert target["finetuning"]["scheduler"]["_target_"].endswith("slanted_triangular_schedule")
    assert target.get("scheduler") is None
    words.append("scheduler@stages.target.scheduler=constant")
    chosen = runs.config(*words)["stages"]["target"]["scheduler"]
    assert chosen["_target_"].endswith("constant_schedule")


def launch(runs, folder, *words, start=(), **environment):
    # One thread, as in this process: sums in another order have other last digits.
    process = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = start or (sys.executable, "-m")
    command = [*begin, "lightning_transfer", "fit", *runs.words, *words]
    return subprocess.run(
        [*command, f"hydra.run.dir={folder}"],
        env={**os.environ, **runs.environment, **environment, **process},
        cwd=runs.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def short(runs):
    """A run of 12 steps whose third phase begins at step 8, with dropout."""
    words = transfer(runs.news, runs.movies, *strategy("gradual"), baselines=False)
    return [*words, "stages.target.epochs=3", "resume_every=1"]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = launch(runs, folder, *short(runs))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills", ["step,8", "step,3", "epoch,4"], ids=["at a phase", "within one", "between epochs"]
)
def test_killed_between_checkpoint_and_next_step(runs, whole, tmp_path, kills):
    folder = tmp_path / "run"
    killed = launch(runs, folder, *short(runs), WATCH_KILLS=f"{TARGET},{kills}")
    assert killed.returncode == -9, killed.stderr
    resumed = launch(runs, folder, *short(runs), "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert without_seconds(results(folder)) == without_seconds(results(whole))
    ours, theirs = (weights(f / f"stages/{TARGET}/final.ckpt") for f in (folder, whole))
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    assert left_behind(folder) == []


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    folder = still_model(tmp_path_factory.mktemp("still"))
    return Runs(folder, tmp_path_factory.mktemp("still-runs"))


def unfreezing(runs, batch_size):
    sizes = [f"stages.{name}.data.batch_size={batch_size}" for name in ("source", "target")]
    odd = ["stages.target.data.splits.test=37", "stages.target.data.splits.val=13"]
    words = [*STILL, *sizes, *odd, *SGD, *strategy("gradual")]
    return transfer(runs.news, runs.movies, *words, baselines=False)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["lightning", "torchrun"])
def test_unfreezing_on_two_ranks_equals_one_device(still, tmp_path, by):
    alone, folder = tmp_path / "alone", tmp_path / "run"
    still.fit(alone, *unfreezing(still, 16))
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    start = torchrun if by == "torchrun" else ()
    done = launch(still, folder, *unfreezing(still, 8), *two, start=start)
    assert done.returncode == 0, done.stderr
    assert_close(folder, alone)
    assert "phase 3 of 3" in (folder / "fit.log").read_text()
    assert done.stderr.count("phase 3 of 3") == 1
