"""Two processes on one machine give the same run as one process with twice the batch size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import Runs, Watch, deterministic_model, results, rows_of, transfer, weights

# With a gradient of 0, Adam amplifies rounding errors, which differ between one and two ranks.
SGD = [
    f"{place}.{change}"
    for place in ("stages.source.optimizer", "stages.target.optimizer")
    for change in ("_target_=torch.optim.SGD", "lr=0.03")
] + [
    f"~{place}.{name}"
    for place in ("stages.source.optimizer", "stages.target.optimizer")
    for name in ("betas", "eps")
]
NO_DROPOUT = ["stages.target.head.dropout=0.0", "stages.source.head.dropout=0.0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = deterministic_model(tmp_path_factory.mktemp("model"))
    return Runs(folder, tmp_path_factory.mktemp("runs"))


def overrides(runs, batch_size):
    sizes = [f"stages.{name}.data.batch_size={batch_size}" for name in ("source", "target")]
    odd = ["stages.target.data.splits.test=37", "stages.target.data.splits.val=13"]
    return [*transfer(runs.news, runs.movies, *NO_DROPOUT, *sizes, *odd, *SGD, baselines=False)]


@pytest.fixture(scope="module")
def alone(runs, tmp_path_factory):
    """Run of one process with batches of 16."""
    folder = tmp_path_factory.mktemp("alone")
    Watch.reset()
    runs.fit(folder, *overrides(runs, 16))
    return folder


def launch(runs, folder, *overrides, **environment):
    process = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightning_transfer", "fit", *runs.overrides]
    return subprocess.run(
        [*command, *overrides, f"hydra.run.dir={folder}"],
        env={**os.environ, **runs.environment, **process, **environment},
        cwd=runs.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_close(folder, alone):
    for name in ("source-seed0", "source-seed0/target-seed0"):
        final, expected = (weights(f / "stages" / name / "final.ckpt") for f in (folder, alone))
        for key, value in expected.items():
            torch.testing.assert_close(final[key], value, atol=1e-5, rtol=1e-5)
        fits = [json.loads((f / "stages" / name / "fit.json").read_text()) for f in (folder, alone)]
        assert fits[0]["steps"] == fits[1]["steps"] == 4
        assert fits[0]["epochs"] == fits[1]["epochs"] == 2
        assert fits[0]["seconds"] > 0
        assert fits[0]["best"] == pytest.approx(fits[1]["best"], abs=1e-5)
    found, expected = rows_of(results(folder)), rows_of(results(alone))
    assert list(found) == list(expected) == ["source", "transfer"]
    for name, row in expected.items():
        assert found[name]["n_train"] == row["n_train"]
        assert found[name]["n_test"] == row["n_test"]
        for metric, value in row["metrics"].items():
            assert found[name]["metrics"][metric]["mean"] == pytest.approx(value["mean"], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_twice_the_batch_size(runs, alone, tmp_path):
    folder = tmp_path / "run"
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    done = launch(runs, folder, *overrides(runs, 8), *two)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("results.json"))) == 1
    assert done.stdout.count("Run folder:") == 1
    assert done.stderr.count("\nsource · seed 0 · epoch 1/2") == 1
    assert_close(folder, alone)


@pytest.mark.slow
def test_killed_ranks_resume_together(runs, alone, tmp_path):
    folder = tmp_path / "run"
    two = [*overrides(runs, 8), "trainer.devices=2", "trainer.strategy=ddp", "resume_every=1"]
    killed = launch(runs, folder, *two, WATCH_KILLS="source-seed0/target-seed0,batch,3")
    assert killed.returncode == -9, killed.stderr
    done = launch(runs, folder, *two, "resume=true")
    assert done.returncode == 0, done.stderr
    assert_close(folder, alone)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_ranks_equal_one_process_with_twice_the_batch_size(runs, alone, tmp_path):
    runs.fit(tmp_path, *overrides(runs, 8), "trainer.devices=2", "trainer.strategy=ddp_fork")
    assert_close(tmp_path, alone)
