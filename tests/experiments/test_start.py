"""Imports, config composition and garbage collection before the first step of a run."""

import gc
import json
import subprocess
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from lightning_transfer.cli import main
from lightning_transfer.cli.process import imports_without_gc

# Each takes 0.2 to 2 s to import, and is not needed before the first step.
LATE = {
    *("datasets", "pandas", "sklearn", "nltk", "sacrebleu", "rouge_score"),
    *("wandb", "tensorboard", "optuna", "peft", "captum", "onnx", "onnxruntime"),
}

OWN = {"adapters", "checkpoints.loading", "experiments.stage_runner"}  # they may import peft

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


def fit_arguments(tiny_folder, reviews):
    """Return the command line of a run on a csv file."""
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
def test_fit_imports_no_slow_library_before_its_first_step(
    tiny_folder, reviews, tmp_path, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path / "cache"))
    for run in ("tokenizes", "uses the token cache"):
        folder = tmp_path / run.split()[0]
        arguments = [*fit_arguments(tiny_folder, reviews), f"hydra.run.dir={folder}"]
        ran = subprocess.run(
            [sys.executable, "-c", TO_THE_FIRST_STEP, *arguments],
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


def test_a_command_composes_its_config_once_before_hydra(monkeypatch, tmp_path, capsys):
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def count(self, *args, **kwargs):
        composed.append(args)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", count)
    monkeypatch.chdir(tmp_path)
    assert main(["list", "groups=head"]) == 0
    assert len(composed) <= 3  # ours, then two by Hydra: one to detect a sweep


def test_first_imports_are_excluded_from_garbage_collection():
    script = """
import gc
from lightning_transfer.cli.process import imports_without_gc
with imports_without_gc():
    import json.tool
print(gc.get_freeze_count())
import sys
sys.modules["torch"] = json
gc.unfreeze()
with imports_without_gc():
    import csv
print(gc.get_freeze_count())
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    first, later = map(int, output.split())
    assert first > 1000
    assert later == 0


def test_garbage_collection_is_paused_and_restored():
    def fail():
        with imports_without_gc():
            assert not gc.isenabled()
            raise ImportError("no such")

    assert gc.isenabled()
    with pytest.raises(ImportError, match="no such"):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with imports_without_gc():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
