"""A run with each shipped schedule, interrupted and resumed, equals an uninterrupted one."""

import pytest
import torch

from lightning_transfer.cli.help_text import conf_folder
from tests.runs import stage

NAMES = sorted(path.stem for path in (conf_folder() / "scheduler").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_resumed_after_an_epoch_has_the_same_result(runs, tmp_path, name):
    patience = ["stages.target.scheduler.patience=0", "stages.target.scheduler.threshold=10"]
    overrides = [
        *stage("target", runs.movies, "finetuning.groups.layer_decay=0.5", "keep=last", epochs=3),
        f"scheduler@stages.target.scheduler={name}",
        *(patience if name == "plateau" else []),
    ]
    whole, cut = runs.fit_whole_and_resumed(tmp_path, *overrides, stop=("epoch", 8))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
