"""A user's mistake gets its sentence, an exit code and nothing half-written.

The files lie in ``bad_inputs/``.
"""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli import main
from tests.runs import Watch, left_behind, stage

pytestmark = pytest.mark.jobs

BAD = Path(__file__).parent / "bad_inputs"


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    runs.target(folder, epochs=1)
    return folder


@pytest.fixture(autouse=True)
def place(runs, tmp_path, monkeypatch):
    """An empty working directory."""
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def mistake(words, capsys):
    """Run a command line that must fail as a mistake does, and return what it said."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert code in (1, 2), said.err
    assert "Traceback" not in said.err
    assert said.err.count("error: ") == 1
    assert Watch.started == []
    return said.err


def fit(runs, *words):
    return ["fit", *runs.words, *words, "hydra.run.dir=run"]


def assert_nothing_written(place):
    """Beside Hydra's own record of the command and the log there is nothing."""
    found = [p.relative_to(place) for p in place.rglob("*") if p.is_file()]
    written = [p for p in found if ".hydra" not in p.parts and p.name not in ("fit.log", ".lock")]
    assert written == []
    assert left_behind(place) == []


MOOD = {"label": "mood", "kind": "single_label"}
FILES = [
    ("nowhere.csv", {}, ["nowhere.csv", "no file"]),
    ("empty.csv", {}, ["empty.csv", "empty|no rows|0 rows"]),
    ("header_only.csv", {}, ["header_only.csv", "empty|no rows|0 rows"]),
    ("no_text_column.csv", {}, ["no_text_column.csv", "'text'", "sentence"]),
    ("all_nan.csv", {}, ["all_nan.csv", "line 2", "'rating'", "nan"]),
    ("one_nan.csv", {}, ["one_nan.csv", "line 19", "'rating'", "nan"]),
    ("word_as_rating.csv", {}, ["word_as_rating.csv", "line 5", "'rating'", "'great'"]),
    ("empty_text.csv", {}, ["empty_text.csv", "line 11", "'text'", "empty"]),
    ("one_class.csv", MOOD, ["one_class.csv", "'good'|good", "class"]),
    ("bad_utf8.csv", {}, ["bad_utf8.csv", "line 13", "utf-8|byte"]),
    ("broken.jsonl", {}, ["broken.jsonl", "line 6"]),
    ("not_a.parquet", {}, ["not_a.parquet", "[Pp]arquet"]),
    ("few_rows.csv", {}, ["stages.target.data", "splits.test=40", "12"]),
]


@pytest.mark.parametrize("name, labels, told", FILES, ids=[f[0] for f in FILES])  # noqa: PT006
def test_bad_file(runs, place, capsys, name, labels, told):
    said = mistake(fit(runs, *stage("target", BAD / name, **labels)), capsys)
    for part in told:
        assert re.search(part, said), said
    assert_nothing_written(place)


def test_unknown_label(runs, place, capsys):
    names = "data.label.names=[bad,good]"
    said = mistake(fit(runs, *stage("target", BAD / "unknown_label.csv", names, **MOOD)), capsys)
    for part in ("unknown_label.csv", "line 9", "'mood'", "'sarcastic'", "bad, good"):
        assert part in said
    assert_nothing_written(place)


def test_bad_rows_that_may_be_skipped_are_counted(runs, place, capsys):
    small = ["data.train_size=16", "data.splits.val=6", "data.splits.test=10"]
    words = stage("target", BAD / "one_nan.csv", *small, "data.on_bad_row=skip", epochs=1)
    assert main(fit(runs, *words)) == 0
    said = capsys.readouterr().err
    assert "1" in said
    assert "line 19" in said


# More of what a config can get wrong, without a command line each, is in test_experiment.
OVERRIDES = [
    ("stages.target.data.train_size=5000", ["stages.target.data: ", "5,?000", "64"]),
    ("stages.target.data.tokens.max_length=1", ["max_length", "1"]),
    ("stages.target.epochs=0", ["stages.target.epochs must be a whole number >= 1, got 0"]),
    ("stages.target.epoch=3", ["stages.target.epoch", "epochs"]),
    ("+stages.target.epoch=3", ["stages.target.epoch is no setting", "did you mean epochs"]),
    ("stage.target.epochs=3", ["stages.target.epochs"]),
    ("+trainer.max_epoch=3", ["trainer.max_epoch", "max_epochs"]),
    ("trainer.precision=17-true", ["17-true"]),
    ("stages.target.head.activation=softplus2", ["softplus2", "tanh"]),
    ("stages.target.data._target_=builtins.open", ["builtins.open"]),
    ("stages.target.optimizer.lr=fast", ["stages.target.optimizer: "]),
    ("backbone.name=nowhere/at/all", ["nowhere/at/all"]),
    ("+experiment=news_to_moovies", ["news_to_movies"]),
]


@pytest.mark.parametrize("override, told", OVERRIDES, ids=[o[0] for o in OVERRIDES])  # noqa: PT006
def test_bad_override(runs, place, capsys, override, told):
    said = mistake(fit(runs, *stage("target", runs.movies), override), capsys)
    for part in told:
        assert re.search(part, said), said
    assert_nothing_written(place)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def checkpoints(folder, trained):
    """Write files that are no checkpoints of ours, and say what is to be said of them."""
    torch.save({"state_dict": {}, "epoch": 1}, folder / "other.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    (folder / "harm.ckpt").write_bytes(pickle.dumps(Harm(), protocol=2))
    whole = (trained / "stages/target-seed0/final.ckpt").read_bytes()
    (folder / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "empty").mkdir()
    return {
        BAD / "notes.ckpt": "notes.ckpt is not a checkpoint that can be read safely",
        folder / "other.ckpt": "other.ckpt is a checkpoint of something else",
        folder / "list.ckpt": "list.ckpt is not a checkpoint",
        folder / "harm.ckpt": "harm.ckpt is not a checkpoint that can be read safely",
        folder / "half.ckpt": "half.ckpt is not a checkpoint that can be read safely",
        folder / "empty": "empty is neither a finished run nor a model folder",
        folder / "nowhere.ckpt": "no checkpoint at ",
    }


def test_bad_checkpoints(runs, place, tmp_path, trained, capsys):
    for number, (path, told) in enumerate(checkpoints(tmp_path, trained).items()):
        words = (
            ["predict", f"ckpt={path}", "text=a film"],
            ["test", f"ckpt={path}"],
            fit(runs, *stage("target", runs.movies), f"stages.target.init_from={path}"),
        )
        assert told in mistake(words[number % 3], capsys), path
    assert not list(tmp_path.rglob("harmed"))
    assert_nothing_written(place)


def test_ranks_without_a_common_folder(runs, place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["fit", *runs.words, *stage("target", runs.movies)]
    assert "add hydra.run.dir=<folder>" in mistake(words, capsys)
    assert_nothing_written(place)


PREDICT = [
    ([], ["text=", "data.path="]),
    (["text=a", "data.path=b.csv"], ["text=", "data.path=", "not both"]),
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


@pytest.mark.parametrize("words, told", PREDICT, ids=[" ".join(p[0]) for p in PREDICT])  # noqa: PT006
def test_bad_predict(trained, place, capsys, words, told):
    words = [word.format(bad=BAD) for word in words]
    out = [] if any(word.startswith(("out", "text")) for word in words) else ["out=out.csv"]
    said = mistake(["predict", f"ckpt={trained}", *words, *out], capsys)
    for part in told:
        assert re.search(part, said), said
    assert_nothing_written(place)
