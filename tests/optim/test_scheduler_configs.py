"""Every shipped schedule in a whole run: it moves the rates, and a resumed run ends the same."""

import pytest
import torch

from lightning_transfer.listing import conf_folder
from tests.runs import Runs, Stop, Watch, stage, weights

NAMES = sorted(path.stem for path in (conf_folder() / "scheduler").glob("*.yaml"))


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    return Runs(tiny_folder, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_off_at_an_epochs_end_ends_the_same(runs, tmp_path, name):
    patience = ["stages.target.scheduler.patience=0", "stages.target.scheduler.threshold=10"]
    words = [
        *stage("target", runs.movies, "strategy.groups.layer_decay=0.5", "keep=last", epochs=3),
        f"scheduler@stages.target.scheduler={name}",
        *(patience if name == "plateau" else []),
    ]
    Watch.reset()
    runs.fit(tmp_path / "whole", *words)
    Watch.stop = ("target-seed0", "epoch", 8)
    with pytest.raises(Stop):
        runs.fit(tmp_path / "cut", *words)
    Watch.reset()
    runs.fit(tmp_path / "cut", *words, resume=True)
    ours, theirs = (
        weights(tmp_path / folder / "stages/target-seed0/final.ckpt") for folder in ("cut", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
