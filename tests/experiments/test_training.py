"""Trainer arguments, interrupts, warnings, early stopping and csv logs."""

import csv
import signal
import warnings
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import DoublePrecision

from lightning_transfer.callbacks import StageProgressBar
from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO
from lightning_transfer.experiments.training import (
    Patience,
    clippable,
    make_trainer,
    merge_logs,
    next_log_folder,
    run_trainer,
    trainer_arguments,
)
from lightning_transfer.heads import LinearHead
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_loader

QUIET = {"accelerator": "cpu", "enable_model_summary": False, "num_sanity_val_steps": 0}


def make_task():
    torch.manual_seed(0)
    return SequenceRegression(OwnBackbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"))


def merge(shared, own, epochs=None):
    return trainer_arguments(shared, own, where="stages.a.trainer", epochs=epochs)


def test_trainer_arguments_of_a_stage_replace_shared_ones():
    shared = {"precision": "32-true", "devices": 1, "max_epochs": None}
    merged = merge(shared, {"precision": "bf16-mixed"}, epochs=3)
    assert merged == {"precision": "bf16-mixed", "devices": 1, "max_epochs": 3}
    assert shared["precision"] == "32-true"


@pytest.mark.parametrize(
    ("shared", "own", "expected"), [(None, None, 3), (5, None, 5), (5, 7, 7), (None, 7, 7)]
)
def test_max_epochs_replaces_the_epochs_of_a_stage(shared, own, expected):
    own = {} if own is None else {"max_epochs": own}
    assert merge({"max_epochs": shared}, own, epochs=3)["max_epochs"] == expected


@pytest.mark.parametrize(
    ("shared", "own", "message"),
    [
        (
            {"presision": 16},
            {},
            "unknown .* Trainer: trainer.presision; did you mean trainer.precision",
        ),
        (
            {},
            {"max_epoch": 1},
            r"stages.a.trainer.max_epoch; did you mean stages.a.trainer.max_epochs",
        ),
        ({}, {"zzz": 1}, r"unknown argument of Lightning's Trainer: stages.a.trainer.zzz\.$"),
        ({"callbacks": []}, {}, r"trainer.callbacks cannot be set here; use stages.\*.callbacks"),
        ({}, {"logger": True}, r"stages.a.trainer.logger cannot be set here; use logger="),
        ({"default_root_dir": "x"}, {}, r"cannot be set here; use hydra.run.dir="),
        ({"self": 1}, {}, "unknown .* Trainer: trainer.self"),
    ],
)
def test_an_unknown_trainer_argument_is_an_error(shared, own, message):
    with pytest.raises(ValueError, match=message):
        merge(shared, own)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true", "bf16-true"])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.filterwarnings("ignore:You passed .* AMP with fp16 is not supported on CPU")
def test_a_fused_optimizer_is_clipped_under_every_precision(tmp_path, precision, clip):
    arguments = {**QUIET, "precision": precision, "gradient_clip_val": clip, "max_epochs": 1}
    task = make_task()
    options = clippable({"lr": 1e-3, "fused": True}, arguments)
    task.recipe = Recipe(partial(torch.optim.AdamW, **options))
    trainer = make_trainer({**arguments, "enable_progress_bar": False}, folder=tmp_path)
    run_trainer(trainer, "fit", task, make_loader(), make_loader())
    assert options["fused"] is (None if clip and "mixed" in precision else True)


def test_a_trainer_writes_checkpoints_atomically_to_its_folder(tmp_path):
    trainer = make_trainer(QUIET, folder=tmp_path)
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.loggers == []


def test_plugins_of_the_user_are_kept(tmp_path):
    for plugins in ([DoublePrecision()], DoublePrecision()):
        trainer = make_trainer({**QUIET, "plugins": plugins}, folder=tmp_path)
        assert isinstance(trainer.precision_plugin, DoublePrecision)
        assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


@pytest.mark.parametrize(("wanted", "shown"), [(None, True), (True, True)])
def test_a_given_progress_bar_is_used(tmp_path, wanted, shown):
    arguments = {**QUIET, "enable_progress_bar": wanted}
    trainer = make_trainer(arguments, folder=tmp_path, callbacks=[StageProgressBar("a")])
    assert isinstance(trainer.progress_bar_callback, StageProgressBar) is shown


def test_lightning_adds_no_progress_bar(tmp_path):
    trainer = make_trainer({**QUIET, "enable_progress_bar": None}, folder=tmp_path)
    assert trainer.progress_bar_callback is None


class Interrupt(pl.Callback):
    def on_train_batch_start(self, *_):
        raise KeyboardInterrupt


@pytest.fixture
def handler():
    """Ctrl-C handler of the program before the run."""
    before = signal.getsignal(signal.SIGINT)

    def own(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, own)
    yield own
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_raises_keyboard_interrupt_and_restores_the_handler(tmp_path, handler):
    trainer = make_trainer({**QUIET, "max_epochs": 1}, folder=tmp_path, callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        run_trainer(trainer, "fit", make_task(), make_loader(), make_loader())
    assert trainer.interrupted
    assert signal.getsignal(signal.SIGINT) is handler


class Exit(pl.Callback):
    def on_train_batch_start(self, *_):
        raise SystemExit(3)


def test_another_system_exit_is_raised_unchanged(tmp_path):
    trainer = make_trainer({**QUIET, "max_epochs": 1}, folder=tmp_path, callbacks=[Exit()])
    with pytest.raises(SystemExit) as error:
        run_trainer(trainer, "fit", make_task(), make_loader(), make_loader())
    assert error.value.code == 3


class WarningCallback(pl.Callback):
    def on_fit_start(self, *_):
        warnings.warn("the 'train_dataloader' does not have many workers", stacklevel=1)
        warnings.warn("Checkpoint directory /a exists and is not empty.", stacklevel=1)

    def on_fit_end(self, *_):
        warnings.warn("the sky is falling", stacklevel=1)


def test_only_warnings_without_a_remedy_are_ignored(tmp_path):
    trainer = make_trainer(
        {**QUIET, "max_epochs": 1}, folder=tmp_path, callbacks=[WarningCallback()]
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run_trainer(trainer, "fit", make_task(), make_loader(), make_loader())
        after = len(seen)
        warnings.warn("does not have many workers", stacklevel=1)  # the filter was restored
    assert [str(w.message) for w in seen[:after]] == ["the sky is falling"]
    assert len(seen) == after + 1


def test_run_trainer_returns_the_result_of_the_method(tmp_path):
    trainer = make_trainer(QUIET, folder=tmp_path)
    [values] = run_trainer(trainer, "test", make_task(), make_loader(), verbose=False)
    assert "test/pearson" in values


def test_patience_that_ran_out_before_a_resume_stops_at_once(tmp_path):
    """Such a run was killed between its last step and its results."""

    def fit(epochs, ckpt_path=None):
        save = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        # No epoch can improve on the first one, so the second is the last.
        callbacks = [Patience("val/loss", min_delta=1e9, patience=1, check_finite=False), save]
        arguments = {**QUIET, "max_epochs": epochs, "enable_progress_bar": False}
        trainer = make_trainer(arguments, folder=tmp_path, callbacks=callbacks)
        loaders = make_loader(), make_loader()
        run_trainer(trainer, "fit", make_task(), *loaders, ckpt_path=ckpt_path)
        return trainer.global_step

    assert fit(9) == 6
    assert fit(9, tmp_path / "last.ckpt") == 6


def log(folder, attempt, rows, *, header="step,train/loss", end="\n"):
    path = folder / "logs" / str(attempt)
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text("\n".join([header, *rows]) + end)


def merged(folder):
    with merge_logs(folder).open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_attempt_has_its_own_log_folder(tmp_path):
    assert next_log_folder(tmp_path) == tmp_path / "logs" / "0"
    for name in ("0", "2", "10", "notes"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    assert next_log_folder(tmp_path) == tmp_path / "logs" / "11"


def test_a_later_attempt_replaces_the_steps_it_repeats(tmp_path):
    log(tmp_path, 0, ["9,0.9", "19,0.8", "29,0.7"])
    log(tmp_path, 2, ["19,0.5", "29,0.4"])
    log(tmp_path, 10, ["29,0.3", "39,0.2"])
    rows = [(row["step"], row["train/loss"]) for row in merged(tmp_path)]
    assert rows == [("9", "0.9"), ("19", "0.5"), ("29", "0.3"), ("39", "0.2")]


def test_columns_of_all_attempts_are_kept(tmp_path):
    log(tmp_path, 0, ["9,0.9"])
    log(tmp_path, 1, ["0.5,19"], header="val/loss,step")
    assert merged(tmp_path) == [
        {"step": "9", "train/loss": "0.9", "val/loss": ""},
        {"step": "19", "train/loss": "", "val/loss": "0.5"},
    ]


@pytest.mark.parametrize("left", ["", "st", "step,train/loss\n", "train/loss,step\n0.7,"])
def test_a_truncated_log_removes_no_rows(tmp_path, left):
    log(tmp_path, 0, ["9,0.9", "19,0.8"])
    path = tmp_path / "logs" / "1" / "metrics.csv"
    path.parent.mkdir()
    path.write_text(left)
    assert [row["step"] for row in merged(tmp_path)] == ["9", "19"]


def test_half_a_line_is_ignored(tmp_path):
    log(tmp_path, 0, ["0.9,9", "0.8,"], header="train/loss,step", end="")
    assert merged(tmp_path) == [{"step": "9", "train/loss": "0.9"}]


def test_surplus_fields_of_a_line_are_ignored(tmp_path):
    log(tmp_path, 0, ["9,0.9,0.1,0.2"])
    assert merged(tmp_path) == [{"step": "9", "train/loss": "0.9"}]


def test_without_logs_nothing_is_merged(tmp_path):
    assert merge_logs(tmp_path) is None
    (tmp_path / "logs" / "0").mkdir(parents=True)
    assert merge_logs(tmp_path) is None
    assert not (tmp_path / "metrics.csv").exists()


def test_logs_of_lightning_are_merged(tmp_path):
    folder = next_log_folder(tmp_path)
    logger = CSVLogger(folder.parent, name="", version=folder.name)
    arguments = {**QUIET, "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False}
    trainer = make_trainer(arguments, folder=tmp_path, loggers=[logger])
    run_trainer(trainer, "fit", make_task(), make_loader(), make_loader())
    rows = merged(tmp_path)
    assert [row["step"] for row in rows if row["train/loss"]] == [str(step) for step in range(6)]
    assert [row["step"] for row in rows if row["val/pearson"]] == ["2", "5"]
