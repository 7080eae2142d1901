"""What a run imports, and how often it composes, before its first step."""

import gc
import json
import subprocess
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from lightning_transfer.cli import main
from lightning_transfer.cli.process import importing

# Each takes 0.2 to 2 s to import, and none is needed before the first step.
LATE = {
    *("datasets", "pandas", "sklearn", "nltk", "sacrebleu", "rouge_score"),
    *("wandb", "tensorboard", "optuna", "peft", "captum", "onnx", "onnxruntime"),
}

OWN = {"adapters", "checkpoints.loading", "experiments.stage_runner"}  # could bring peft along

TO_THE_FIRST_STEP = """
import json, os, sys
from lightning_transfer.cli import main
import torch

def stop(*args, **kwargs):
    print("\\n" + json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

torch.optim.AdamW.step = stop
sys.exit(main(sys.argv[1:]) or 1)
"""


def words_of(tiny_folder, reviews):
    return [
        "fit",
        "backbone=hub",
        f"backbone.name={tiny_folder}",
        "trainer.accelerator=cpu",
        "data@stages.target.data=files",
        f"stages.target.data.source={reviews}",
        "stages.target.data.label.kind=regression",
        "stages.target.data.columns.label=rating",
    ]


@pytest.mark.slow
def test_fit_imports_nothing_before_its_first_step_that_it_needs_later(
    tiny_folder, reviews, tmp_path, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path / "cache"))
    for run in ("tokenizes", "finds its tokens"):
        words = [*words_of(tiny_folder, reviews), f"hydra.run.dir={tmp_path / run.split()[0]}"]
        ran = subprocess.run(
            [sys.executable, "-c", TO_THE_FIRST_STEP, *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        modules = json.loads(ran.stdout.splitlines()[-1])
        assert {"torch", "lightning", "transformers"} <= set(modules)
        assert {f"lightning_transfer.{name}" for name in OWN} <= set(modules)
        assert {name.partition(".")[0] for name in modules} & LATE == set()
        assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 1


def test_a_run_is_composed_once_before_hydra_composes_it(monkeypatch, tmp_path, capsys):
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def count(self, *args, **kwargs):
        composed.append(args)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", count)
    monkeypatch.chdir(tmp_path)
    assert main(["list", "groups=head"]) == 0
    assert len(composed) <= 3  # ours; Hydra's, to learn whether it is a sweep; Hydra's


def test_what_is_imported_first_is_kept_from_the_collector():
    script = """
import gc
from lightning_transfer.cli.process import importing
with importing():
    import json.tool
print(gc.get_freeze_count())
import sys
sys.modules["torch"] = json
gc.unfreeze()
with importing():
    import csv
print(gc.get_freeze_count())
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    first, later = map(int, output.split())
    assert first > 1000
    assert later == 0


def test_the_collector_is_paused_and_put_back():
    def fail():
        with importing():
            assert not gc.isenabled()
            raise ImportError("no such")

    assert gc.isenabled()
    with pytest.raises(ImportError, match="no such"):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
