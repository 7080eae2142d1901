"""Mistakes of the user: one error message, the exit code, and no written files.

The files are in ``bad_inputs/``.
"""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli import main
from tests.runs import Watch, stage, unfinished_files

pytestmark = pytest.mark.jobs

BAD = Path(__file__).parent / "bad_inputs"


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    runs.target(folder, epochs=1)
    return folder


@pytest.fixture(autouse=True)
def place(runs, tmp_path, monkeypatch):
    """Empty working directory."""
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def error_of(arguments, capsys):
    """Run a wrong command, and return its error message."""
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert code in (1, 2), error
    assert "Traceback" not in error
    assert error.count("error: ") == 1
    assert Watch.started == []
    return error


def fit(runs, *overrides):
    return ["fit", *runs.overrides, *overrides, "hydra.run.dir=run"]


def assert_nothing_written(place):
    """Check that there are no files but Hydra's record of the command and the log."""
    found = [p.relative_to(place) for p in place.rglob("*") if p.is_file()]
    written = [p for p in found if ".hydra" not in p.parts and p.name not in ("fit.log", ".lock")]
    assert written == []
    assert unfinished_files(place) == []


CLASSES = {"label": "mood", "kind": "single_label"}
FILES = [
    ("nowhere.csv", {}, ["nowhere.csv", "no file"]),
    ("empty.csv", {}, ["empty.csv", "empty|no rows|0 rows"]),
    ("header_only.csv", {}, ["header_only.csv", "empty|no rows|0 rows"]),
    ("no_text_column.csv", {}, ["no_text_column.csv", "'text'", "sentence"]),
    ("all_nan.csv", {}, ["all_nan.csv", "line 2", "'rating'", "nan"]),
    ("one_nan.csv", {}, ["one_nan.csv", "line 19", "'rating'", "nan"]),
    ("word_as_rating.csv", {}, ["word_as_rating.csv", "line 5", "'rating'", "'great'"]),
    ("empty_text.csv", {}, ["empty_text.csv", "line 11", "'text'", "empty"]),
    ("one_class.csv", CLASSES, ["one_class.csv", "'good'|good", "class"]),
    ("bad_utf8.csv", {}, ["bad_utf8.csv", "line 13", "utf-8|byte"]),
    ("broken.jsonl", {}, ["broken.jsonl", "line 6"]),
    ("not_a.parquet", {}, ["not_a.parquet", "[Pp]arquet"]),
    ("few_rows.csv", {}, ["stages.target.data", "splits.test=40", "12"]),
]


@pytest.mark.parametrize("name, labels, parts", FILES, ids=[f[0] for f in FILES])  # noqa: PT006
def test_a_bad_file_is_an_error_with_its_line(runs, place, capsys, name, labels, parts):
    error = error_of(fit(runs, *stage("target", BAD / name, **labels)), capsys)
    for part in parts:
        assert re.search(part, error), error
    assert_nothing_written(place)


def test_an_unknown_label_is_an_error_with_its_line(runs, place, capsys):
    own = stage("target", BAD / "unknown_label.csv", "data.label.names=[bad,good]", **CLASSES)
    error = error_of(fit(runs, *own), capsys)
    for part in ("unknown_label.csv", "line 9", "'mood'", "'sarcastic'", "bad, good"):
        assert part in error
    assert_nothing_written(place)


def test_skipped_bad_rows_are_counted(runs, place, capsys):
    small = ["data.train_size=16", "data.splits.val=6", "data.splits.test=10"]
    own = stage("target", BAD / "one_nan.csv", *small, "data.on_bad_row=skip", epochs=1)
    assert main(fit(runs, *own)) == 0
    logged = capsys.readouterr().err
    assert "1" in logged
    assert "line 19" in logged


# More wrong overrides, without a command line each, are in test_experiment.py.
OVERRIDES = [
    ("stages.target.data.train_size=5000", ["stages.target.data: ", "5,?000", "64"]),
    ("stages.target.data.tokens.max_length=1", ["max_length", "1"]),
    ("stages.target.epochs=0", ["stages.target.epochs must be an integer >= 1, got 0"]),
    ("stages.target.epoch=3", ["stages.target.epoch", "epochs"]),
    (
        "+stages.target.epoch=3",
        ["unknown key 'stages.target.epoch'", "did you mean stages.target.epochs"],
    ),
    ("stage.target.epochs=3", ["stages.target.epochs"]),
    ("+trainer.max_epoch=3", ["trainer.max_epoch", "max_epochs"]),
    ("trainer.precision=17-true", ["17-true"]),
    ("stages.target.head.activation=softplus2", ["softplus2", "tanh"]),
    ("stages.target.data._target_=builtins.open", ["builtins.open"]),
    ("stages.target.optimizer.lr=fast", ["stages.target.optimizer: "]),
    ("backbone.name=nowhere/at/all", ["nowhere/at/all"]),
    ("+experiment=news_to_moovies", ["news_to_movies"]),
]


@pytest.mark.parametrize("override, parts", OVERRIDES, ids=[o[0] for o in OVERRIDES])  # noqa: PT006
def test_a_wrong_override_is_an_error(runs, place, capsys, override, parts):
    error = error_of(fit(runs, *stage("target", runs.movies), override), capsys)
    for part in parts:
        assert re.search(part, error), error
    assert_nothing_written(place)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def checkpoints(folder, trained):
    """Write files that are not checkpoints of this package; return path to error message."""
    torch.save({"state_dict": {}, "epoch": 1}, folder / "other.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    (folder / "harm.ckpt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    content = (trained / "stages/target-seed0/final.ckpt").read_bytes()
    (folder / "half.ckpt").write_bytes(content[: len(content) // 2])
    (folder / "empty").mkdir()
    return {
        BAD / "notes.ckpt": "notes.ckpt is not a checkpoint that can be read safely",
        folder / "other.ckpt": "other.ckpt is not a checkpoint of this package",
        folder / "list.ckpt": "list.ckpt is not a checkpoint",
        folder / "harm.ckpt": "harm.ckpt is not a checkpoint that can be read safely",
        folder / "half.ckpt": "half.ckpt is not a checkpoint that can be read safely",
        folder / "empty": "empty is neither a finished run nor a model folder",
        folder / "nowhere.ckpt": "no checkpoint at ",
    }


def test_a_bad_checkpoint_is_an_error_and_is_not_executed(runs, place, tmp_path, trained, capsys):
    for number, (path, message) in enumerate(checkpoints(tmp_path, trained).items()):
        commands = (
            ["predict", f"ckpt={path}", "text=a film"],
            ["test", f"ckpt={path}"],
            fit(runs, *stage("target", runs.movies), f"stages.target.init_from={path}"),
        )
        assert message in error_of(commands[number % 3], capsys), path
    assert not list(tmp_path.rglob("harmed"))
    assert_nothing_written(place)


def test_ranks_without_a_run_folder_are_an_error(runs, place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["fit", *runs.overrides, *stage("target", runs.movies)]
    assert "add hydra.run.dir=<folder>" in error_of(arguments, capsys)
    assert_nothing_written(place)


PREDICT = [
    ([], ["text=", "data.path="]),
    (["text=a", "data.path=b.csv"], ["text=", "data.path=", "got both"]),
    (["data.path=nowhere.csv"], ["nowhere.csv"]),
    (["data.path={bad}/no_text_column.csv"], ["'text'", "sentence"]),
    (["data.path={bad}/one_nan.csv", "data.text=txt"], ["'txt'", "text"]),
    (["data.path={bad}/bad_utf8.csv"], ["line 13"]),
    (["data.path={bad}/empty_text.csv"], ["line 11", "empty text"]),
    (["data.path={bad}/empty.csv"], ["empty.csv"]),
    (["data.path={bad}/few_rows.csv", "out=rows.xlsx"], ["rows.xlsx|xlsx"]),
    (["data.path={bad}/few_rows.csv", "batch_size=0"], ["batch_size must be >= 1, got 0"]),
    (["data.path={bad}/few_rows.csv", "data.on_bad_row=fix"], ["on_bad_row", "fix"]),
    (["text="], ["text"]),
]


@pytest.mark.parametrize("options, parts", PREDICT, ids=[" ".join(p[0]) for p in PREDICT])  # noqa: PT006
def test_a_wrong_predict_command_is_an_error(trained, place, capsys, options, parts):
    options = [option.format(bad=BAD) for option in options]
    out = [] if any(option.startswith(("out", "text")) for option in options) else ["out=out.csv"]
    error = error_of(["predict", f"ckpt={trained}", *options, *out], capsys)
    for part in parts:
        assert re.search(part, error), error
    assert_nothing_written(place)
