"""Two ranks that train an adapter are one process with the doubled batch size."""

import pytest
import torch

from tests.experiments.test_ddp import SGD, STILL, launch
from tests.runs import Runs, still_model, transfer, weights

STRATEGIES = ("lora", "ia3", "prefix", "bottleneck", "bitfit")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = still_model(tmp_path_factory.mktemp("still"))
    return Runs(folder, tmp_path_factory.mktemp("runs"))


def overrides(runs, name, batch_size):
    stages = ("source", "target")
    strategies = [f"finetuning@stages.{stage}.finetuning={name}" for stage in stages]
    sizes = [f"stages.{stage}.data.batch_size={batch_size}" for stage in stages]
    return transfer(runs.news, runs.movies, *strategies, *STILL, *sizes, *SGD, baselines=False)


def assert_close(folder, alone):
    for name in ("source-seed0", "source-seed0/target-seed0"):
        ours, theirs = (weights(f / "stages" / name / "final.ckpt") for f in (folder, alone))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", STRATEGIES)
def test_forked_ranks_equal_one_with_the_doubled_batch(runs, tmp_path, name):
    runs.fit(tmp_path / "alone", *overrides(runs, name, 16))
    forked = "trainer.devices=2", "trainer.strategy=ddp_fork"
    runs.fit(tmp_path / "two", *overrides(runs, name, 8), *forked)
    assert_close(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_launched_ranks_equal_one_with_the_doubled_batch(runs, tmp_path):
    runs.fit(tmp_path / "alone", *overrides(runs, "lora", 16))
    two = "trainer.devices=2", "trainer.strategy=ddp"
    done = launch(runs, tmp_path / "two", *overrides(runs, "lora", 8), *two)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LoRA: ") == 2  # one line a stage, from rank 0 alone
    assert_close(tmp_path / "two", tmp_path / "alone")
