"""Every shipped schedule in a whole run: it moves the rates, and a resumed run ends the same."""

import pytest
import torch

from lightning_transfer.cli.help_text import conf_folder
from tests.runs import stage

NAMES = sorted(path.stem for path in (conf_folder() / "scheduler").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_off_at_an_epochs_end_ends_the_same(runs, tmp_path, name):
    patience = ["stages.target.scheduler.patience=0", "stages.target.scheduler.threshold=10"]
    words = [
        *stage("target", runs.movies, "finetuning.groups.layer_decay=0.5", "keep=last", epochs=3),
        f"scheduler@stages.target.scheduler={name}",
        *(patience if name == "plateau" else []),
    ]
    whole, cut = runs.whole_and_cut(tmp_path, *words, stop=("epoch", 8))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
