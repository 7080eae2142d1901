"""Training of adapters on two ranks, compared with one process and twice the batch size."""

import pytest
import torch

from tests.experiments.test_ddp import NO_DROPOUT, SGD, launch
from tests.runs import Runs, deterministic_model, transfer, weights

METHODS = ("lora", "ia3", "prefix", "bottleneck", "bitfit")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = deterministic_model(tmp_path_factory.mktemp("model"))
    return Runs(folder, tmp_path_factory.mktemp("runs"))


def overrides(runs, name, batch_size):
    stages = ("source", "target")
    methods = [f"finetuning@stages.{stage}.finetuning={name}" for stage in stages]
    sizes = [f"stages.{stage}.data.batch_size={batch_size}" for stage in stages]
    return transfer(runs.news, runs.movies, *methods, *NO_DROPOUT, *sizes, *SGD, baselines=False)


def assert_close(folder, alone):
    for name in ("source-seed0", "source-seed0/target-seed0"):
        ours, theirs = (weights(f / "stages" / name / "final.ckpt") for f in (folder, alone))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", METHODS)
def test_forked_ranks_equal_one_process_with_twice_the_batch_size(runs, tmp_path, name):
    runs.fit(tmp_path / "alone", *overrides(runs, name, 16))
    forked = "trainer.devices=2", "trainer.strategy=ddp_fork"
    runs.fit(tmp_path / "two", *overrides(runs, name, 8), *forked)
    assert_close(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_launched_ranks_equal_one_process_with_twice_the_batch_size(runs, tmp_path):
    runs.fit(tmp_path / "alone", *overrides(runs, "lora", 16))
    two = "trainer.devices=2", "trainer.strategy=ddp"
    done = launch(runs, tmp_path / "two", *overrides(runs, "lora", 8), *two)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LoRA: ") == 2  # one line per stage, from rank 0 only
    assert_close(tmp_path / "two", tmp_path / "alone")
