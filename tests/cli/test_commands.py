"""The commands beside fit, as the command line runs them."""

import csv
import io
import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from lightning_transfer.cli import commands as run_module
from lightning_transfer.cli import main
from lightning_transfer.inference import Predictor
from tests.runs import Watch, results, rows_of, stage, transfer, write_csv

TEXTS = ["a good film", "a bad and dull story", "the plot"]


@pytest.fixture(scope="module")
def rated(runs, tmp_path_factory):
    """A run on ratings, made by the command line."""
    folder = tmp_path_factory.mktemp("rated") / "run"
    words = transfer(runs.news, runs.movies, baselines=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        assert main(["fit", *runs.words, *words, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def moods(runs, tmp_path_factory):
    """A run on classes, with its config beside it."""
    folder = tmp_path_factory.mktemp("moods") / "run"
    words = stage("target", runs.movies, label="mood", kind="single_label", epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        assert main(["fit", *runs.words, *words, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def place(runs, tmp_path, monkeypatch):
    """An empty working directory, which every command has to leave as it was."""
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def table(text):
    """Return the numbers of a printed table by metric."""
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in text.splitlines()]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2 and "." in line[1]}


@pytest.mark.parametrize("where", ["", "model", "stages/source-seed0/target-seed0/final.ckpt"])
def test_test_gives_the_numbers_of_the_run(rated, place, capsys, where):
    assert main(["test", f"ckpt={rated / where}", "trainer.accelerator=cpu"]) == 0
    printed = table(capsys.readouterr().out)
    for name, metric in rows_of(results(rated))["transfer"]["metrics"].items():
        assert printed[name] == pytest.approx(metric["mean"], abs=6e-5)
    assert list(place.iterdir()) == []


def test_validate_gives_the_score_that_picked_the_weights(rated, place, capsys):
    fit = json.loads((rated / "stages/source-seed0/target-seed0/fit.json").read_text())
    assert main(["validate", f"ckpt={rated}", "trainer.accelerator=cpu"]) == 0
    assert table(capsys.readouterr().out)["pearson"] == pytest.approx(fit["best"], abs=6e-5)
    assert list(place.iterdir()) == []


def test_stage_checkpoint_is_tested_on_its_own_stage(rated, capsys):
    ckpt = rated / "stages/source-seed0/final.ckpt"
    assert main(["test", f"ckpt={ckpt}", "trainer.accelerator=cpu"]) == 0
    expected = rows_of(results(rated))["source"]["metrics"]["pearson"]["mean"]
    assert table(capsys.readouterr().out)["pearson"] == pytest.approx(expected, abs=6e-5)


OTHER = (
    "data=files",
    "data.columns.label=rating",
    "data.label.kind=regression",
    "data.splits.test=30",
)


def test_test_on_other_data(rated, runs, capsys):
    line = ["test", f"ckpt={rated}", *OTHER, f"data.source={runs.news}", "trainer.accelerator=cpu"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "30 rows" in said
    assert "pearson" in table(said)


def test_model_folder_alone_needs_to_know_its_data(rated, runs, tmp_path, capsys):
    model = tmp_path / "elsewhere"
    shutil.copytree(rated / "model", model)
    assert main(["test", f"ckpt={model}"]) == 1
    said = capsys.readouterr().err
    assert "add what to score on, data=" in said
    assert "Traceback" not in said
    line = ["test", f"ckpt={model}", *OTHER, f"data.source={runs.news}", "trainer.accelerator=cpu"]
    assert main(line) == 0


def test_other_labels_are_told(moods, runs, capsys):
    line = ["test", f"ckpt={moods}", *OTHER, f"data.source={runs.news}", "trainer.accelerator=cpu"]
    assert main(line) == 1
    said = capsys.readouterr().err
    assert "negative, neutral, positive" in said
    assert "cannot be scored there" in said


def test_predict_prints_label_and_score(moods, place, capsys):
    assert main(["predict", f"ckpt={moods}", f"text={TEXTS[0]}"]) == 0
    label, score = capsys.readouterr().out.split()
    [expected] = Predictor.from_path(moods).predict(TEXTS[:1])
    assert label == expected.label
    assert float(score) == pytest.approx(expected.score, abs=1e-4)
    assert list(place.iterdir()) == []


def test_predict_takes_sentences_as_people_write_them(moods, capsys):
    assert (
        main(["predict", f"ckpt={moods}", "text=I love this movie! (Yes, it's = 10/10: $5)"]) == 0
    )
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_predict_writes_the_rows_with_label_and_score(moods, place, name):
    source = write_csv(place / "in.csv", [{"id": i, "text": t} for i, t in enumerate(TEXTS)])
    assert main(["predict", f"ckpt={moods}", f"data.path={source}", f"out={name}"]) == 0
    if name.endswith("parquet"):
        rows = pq.read_table(place / name).to_pylist()
    elif name.endswith("jsonl"):
        rows = [json.loads(line) for line in (place / name).read_text().splitlines()]
    else:
        delimiter = "\t" if name.endswith("tsv") else ","
        text = (place / name).read_text()
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    expected = Predictor.from_path(moods).predict(TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == [p.label for p in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx(
        [p.score for p in expected], abs=1e-6
    )
    assert sorted(p.name for p in place.iterdir()) == sorted(["in.csv", name])


def test_predict_reads_and_writes_standard_streams(moods, monkeypatch, capsysbinary):
    lines = "text\n" + "\n".join(TEXTS) + "\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["predict", f"ckpt={moods}", "data.path=-", "out=-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    assert [row["text"] for row in rows] == TEXTS
    assert all(row["label"] in ("negative", "neutral", "positive") for row in rows)


def test_ratings_are_predicted_as_numbers(rated, capsys):
    assert main(["predict", f"ckpt={rated}", f"text={TEXTS[0]}"]) == 0
    label, score = capsys.readouterr().out.split()
    assert label == "value"
    float(score)


def test_list_names_what_there_is(place, capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in ("news_to_movies", "movies", "minilm", "frozen", "sequence_regression", "mlp"):
        assert name in said
    assert list(place.iterdir()) == []


def test_fetch_names_the_close_asset(capsys):
    assert main(["fetch", "assets=[vadr]"]) != 0
    said = capsys.readouterr().err
    assert "vader" in said
    assert "Traceback" not in said


def test_fetch_without_a_network_is_told(place, capsys):
    assert main(["fetch", "assets=[vader]"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "vader" in said
    assert list(place.iterdir()) == []


def test_a_config_of_another_program_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: 3\n")
    assert run_module._run_of(tmp_path / "checkpoints" / "last.ckpt") is None
