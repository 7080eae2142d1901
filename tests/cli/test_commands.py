"""Commands other than fit, run by the command line."""

import csv
import io
import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from lightning_transfer.cli import commands, main
from lightning_transfer.inference import Predictor
from tests.runs import Watch, results, rows_of, stage, transfer, write_csv

TEXTS = ["a good film", "a bad and dull story", "the plot"]


@pytest.fixture(scope="module")
def rated(runs, tmp_path_factory):
    """Run folder of a transfer with ratings."""
    folder = tmp_path_factory.mktemp("rated") / "run"
    overrides = transfer(runs.news, runs.movies, baselines=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        assert main(["fit", *runs.overrides, *overrides, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def moods(runs, tmp_path_factory):
    """Run folder of a classifier."""
    folder = tmp_path_factory.mktemp("moods") / "run"
    overrides = stage("target", runs.movies, label="mood", kind="single_label", epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        assert main(["fit", *runs.overrides, *overrides, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def place(runs, tmp_path, monkeypatch):
    """Empty working directory; a command must not leave files there."""
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def table(text):
    """Return the values of a printed table, by metric."""
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in text.splitlines()]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2 and "." in line[1]}


@pytest.mark.parametrize("where", ["", "model", "stages/source-seed0/target-seed0/final.ckpt"])
def test_test_prints_the_test_scores_of_the_run(rated, place, capsys, where):
    assert main(["test", f"ckpt={rated / where}", "trainer.accelerator=cpu"]) == 0
    printed = table(capsys.readouterr().out)
    for name, metric in rows_of(results(rated))["transfer"]["metrics"].items():
        assert printed[name] == pytest.approx(metric["mean"], abs=6e-5)
    assert list(place.iterdir()) == []


def test_validate_prints_the_score_that_selected_the_weights(rated, place, capsys):
    fit = json.loads((rated / "stages/source-seed0/target-seed0/fit.json").read_text())
    assert main(["validate", f"ckpt={rated}", "trainer.accelerator=cpu"]) == 0
    assert table(capsys.readouterr().out)["pearson"] == pytest.approx(fit["best"], abs=6e-5)
    assert list(place.iterdir()) == []


def test_checkpoint_of_a_stage_is_tested_on_the_data_of_the_stage(rated, capsys):
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
    printed = capsys.readouterr().out
    assert "30 rows" in printed
    assert "pearson" in table(printed)


def test_model_folder_outside_of_a_run_requires_data(rated, runs, tmp_path, capsys):
    model = tmp_path / "elsewhere"
    shutil.copytree(rated / "model", model)
    assert main(["test", f"ckpt={model}"]) == 1
    printed = capsys.readouterr().err
    assert f"{model} is not in a run folder; add the data to score on, such as data=" in printed
    assert "Traceback" not in printed
    line = ["test", f"ckpt={model}", *OTHER, f"data.source={runs.news}", "trainer.accelerator=cpu"]
    assert main(line) == 0


def test_data_with_other_labels_are_an_error(moods, runs, capsys):
    line = ["test", f"ckpt={moods}", *OTHER, f"data.source={runs.news}", "trainer.accelerator=cpu"]
    assert main(line) == 1
    printed = capsys.readouterr().err
    assert "negative, neutral, positive" in printed
    assert "it cannot be scored on them without training" in printed


def test_predict_prints_label_and_score(moods, place, capsys):
    assert main(["predict", f"ckpt={moods}", f"text={TEXTS[0]}"]) == 0
    label, score = capsys.readouterr().out.split()
    [expected] = Predictor.from_path(moods).predict(TEXTS[:1])
    assert label == expected.label
    assert float(score) == pytest.approx(expected.score, abs=1e-4)
    assert list(place.iterdir()) == []


def test_text_to_predict_may_have_any_punctuation(moods, capsys):
    assert (
        main(["predict", f"ckpt={moods}", "text=I love this movie! (Yes, it's = 10/10: $5)"]) == 0
    )
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_predict_writes_the_rows_of_a_file_with_label_and_score(moods, place, name):
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


def test_prediction_of_a_rating_is_a_number(rated, capsys):
    assert main(["predict", f"ckpt={rated}", f"text={TEXTS[0]}"]) == 0
    label, score = capsys.readouterr().out.split()
    assert label == "value"
    float(score)


def test_list_prints_the_options(place, capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("news_to_movies", "movies", "minilm", "frozen", "sequence_regression", "mlp"):
        assert name in printed
    assert list(place.iterdir()) == []


def test_fetch_suggests_the_closest_asset(capsys):
    assert main(["fetch", "assets=[vadr]"]) != 0
    printed = capsys.readouterr().err
    assert "vader" in printed
    assert "Traceback" not in printed


def test_fetch_without_a_network_is_an_error(place, capsys):
    assert main(["fetch", "assets=[vader]"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "vader" in printed
    assert list(place.iterdir()) == []


def test_config_of_another_program_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: 3\n")
    assert commands._find_run_config(tmp_path / "checkpoints" / "last.ckpt") is None
