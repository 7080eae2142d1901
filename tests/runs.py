"""Tiny whole runs, callbacks that observe or stop them, and helpers that compare runs."""

import copy
import csv
import functools
import json
import os
import signal
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from transformers import BertModel

from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint
from lightning_transfer.experiments import experiment as whole
from lightning_transfer.experiments.experiment import Experiment
from lightning_transfer.experiments.report.curves import plot_training_curves
from tests.conftest import make_rows, make_tokenizer, tiny_config

_GROUPS = ("+experiment=", "backbone=", "logger=")
SIZES = ("train_size=32", "batch_size=8", "splits.val=16", "splits.test=40")


class Stop(Exception):
    """Simulates a machine that is switched off."""


class Watch(pl.Callback):
    """Records the trained stage runs with their initial weights; stops a run at a given step.

    It is part of the config. It is set up by class attributes, because a resumed run must have the
    same config.
    """

    started: ClassVar[list] = []  # (stage run, initial weights)
    stop: ClassVar = None  # (stage run, hook, optimizer step)
    error: ClassVar = Stop  # error raised or signal sent there
    losses: ClassVar[list] = []

    @classmethod
    def reset(cls):
        cls.started, cls.losses, cls.stop, cls.error = [], [], None, Stop

    @classmethod
    def titles(cls):
        return [title for title, _ in cls.started]

    def on_train_start(self, trainer, pl_module):
        weights = {k: v.clone() for k, v in pl_module.state_dict().items()}
        Watch.started.append((pl_module.position["run"].removeprefix("stages/"), weights))

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        Watch.losses.append(float(outputs["loss"]))
        self._maybe_stop("batch", trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, *_):
        self._maybe_stop("step", trainer, pl_module)

    def on_validation_start(self, trainer, pl_module):
        self._maybe_stop("validation", trainer, pl_module)

    def on_train_epoch_start(self, trainer, pl_module):
        self._maybe_stop("epoch", trainer, pl_module)

    def on_train_end(self, trainer, pl_module):
        self._maybe_stop("end", trainer, pl_module)

    def _maybe_stop(self, hook, trainer, pl_module):
        kills = os.environ.get("WATCH_KILLS")  # like `stop`, for another process
        run = pl_module.position["run"].removeprefix("stages/")
        here = [run, hook, str(trainer.global_step)]
        if kills and kills.split(",") == here:
            os.kill(os.getpid(), signal.SIGKILL)
        if Watch.stop and [str(part) for part in Watch.stop] == here:
            if isinstance(Watch.error, signal.Signals):
                os.kill(os.getpid(), Watch.error)
            else:
                raise Watch.error


class Tally(pl.Callback):
    """Writes a line for each training process: seed, rank and first step.

    The environment variable ``TALLY_FAILS=seed,step`` makes it fail at that step.
    """

    def on_train_start(self, trainer, pl_module):
        seed = pl_module.position["seed"]
        with open(os.environ["TALLY"], "a") as file:
            file.write(f"{seed} {trainer.global_rank} {trainer.global_step}\n")

    def on_train_batch_end(self, trainer, pl_module, *_):
        here = f"{pl_module.position['seed']},{trainer.global_step}"
        if os.environ.get("TALLY_FAILS") == here:
            raise ValueError(f"seed and step {here}")


class Drift(torch.nn.Module):
    """A toy objective: the mean square of the head's output layer."""

    def forward(self, source, target, task):
        return sum((p**2).mean() for p in task.head.parameters())


@functools.cache
def _compose(groups):
    with initialize_config_module("lightning_transfer.conf", version_base="1.3"):
        return compose("fit", overrides=list(groups))


def write_csv(path: Path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def stage(name, source, *options, label="rating", kind="regression", epochs=2, lr=1e-2):
    """Return the overrides of a stage with a csv file; keys of ``options`` are below the stage."""
    task = "sequence_regression" if kind == "regression" else "sequence_classification"
    return [
        *([] if name == "target" else [f"+stage@stages.{name}=default"]),
        f"data@stages.{name}.data=files",
        f"task@stages.{name}.task={task}",
        f"stages.{name}.data.source={source}",
        f"stages.{name}.data.columns.label={label}",
        f"stages.{name}.data.label.kind={kind}",
        f"stages.{name}.optimizer.lr={lr}",
        f"stages.{name}.epochs={epochs}",
        f"+stages.{name}.callbacks.watch._target_=tests.runs.Watch",
        *(f"stages.{name}.data.{size}" for size in SIZES),
        *(_with_parent(f"stages.{name}", option) for option in options),
    ]


def _with_parent(parent, option):
    key = option.lstrip("+~")
    return f"{option[: len(option) - len(key)]}{parent}.{key}"


def transfer(source, target, *overrides, baselines=True):
    """Return the overrides of a transfer, with the baselines zero_shot and no_source."""
    both = "{zero_shot: {order: [source], test: target}, no_source: {order: [target]}}"
    return [
        "order=[source,target]",
        *stage("source", source),
        *stage("target", target),
        *([f"+baselines={both}", "comparison.baseline=no_source"] if baselines else []),
        *overrides,
    ]


class Runs:
    """Composes and runs tiny experiments.

    Args:
        tiny_folder: Folder of a tiny pretrained model.
        folder: Folder for cache and data.
    """

    def __init__(self, tiny_folder, folder):
        self.folder = folder
        self.news = write_csv(folder / "news.csv", make_rows(120, seed=1))
        self.movies = write_csv(folder / "movies.csv", make_rows(120, seed=2))
        self.overrides = ["backbone=hub", f"backbone.name={tiny_folder}", "trainer.accelerator=cpu"]
        self.environment = {
            "LIGHTNING_TRANSFER_CACHE": str(folder / "cache"),
            "LIGHTNING_TRANSFER_OFFLINE": "1",
        }

    def config(self, *overrides):
        """Return a composed config as plain values.

        Each combination of config groups is composed once, since that takes most of the time of a
        tiny run. Hydra's own function sets the other values.
        """
        groups = [o for o in overrides if "@" in o or o.startswith(_GROUPS)]
        values = [o for o in [*self.overrides, *overrides] if o not in (*groups, "backbone=hub")]
        composed = copy.deepcopy(_compose(("backbone=hub", *groups)))
        parsed = OverridesParser.create().parse_overrides(values)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, composed)
        return OmegaConf.to_container(composed, resolve=True)

    def fit(self, folder, *overrides, resume=False, curves=False):
        """Run an experiment in this process, and return the content of ``results.json``."""
        experiment = Experiment(self.config(*overrides), Path(folder), resume=resume)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            if not curves and whole.plot_training_curves is plot_training_curves:
                # Half the time of a tiny run.
                patch.setattr(whole, "plot_training_curves", lambda *_, **__: None)
            experiment.check()
            experiment.run()
        return results(folder)

    def fit_whole_and_resumed(self, folder, *overrides, stop):
        """Run twice, uninterrupted and interrupted; return the final weights of both in this order.

        Args:
            folder: Parent of the run folders ``whole`` and ``resumed``.
            overrides: Overrides of a run with the single stage ``target``.
            stop: Hook and optimizer step of the interrupt.
        """
        Watch.reset()
        self.fit(folder / "whole", *overrides)
        Watch.stop = ("target-seed0", *stop)
        with pytest.raises(Stop):
            self.fit(folder / "resumed", *overrides)
        Watch.reset()
        self.fit(folder / "resumed", *overrides, resume=True)
        final = "stages/target-seed0/final.ckpt"
        return weights(folder / "whole" / final), weights(folder / "resumed" / final)

    def target(self, folder, *options, source=None, overrides=(), curves=False, **labels):
        """Run the target stage alone."""
        own = stage("target", source or self.movies, *options, **labels)
        return self.fit(folder, *own, *overrides, curves=curves)


def deterministic_model(folder):
    """Save a model without dropout, since each rank drops different units.

    Large initial weights make its outputs differ between texts.
    """
    torch.manual_seed(0)
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    config = tiny_config(**dict.fromkeys(dropouts, 0.0), initializer_range=0.3)
    BertModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def without_seconds(found):
    """Return results without the times, which differ between equal runs."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]
    return {**found, "rows": rows}


def rows_of(found):
    return {row["name"]: row for row in found["rows"]}


def weights(path):
    return read_checkpoint(path)["state_dict"]


def unfinished_files(folder):
    """Return the temporary files of interrupted writes."""
    return [p for p in Path(folder).rglob("*") if p.name.startswith(".tmp-") or "tmp" in p.suffix]
