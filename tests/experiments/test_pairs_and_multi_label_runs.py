"""Whole runs with pairs of texts, with several labels per text, and with other labels."""

import csv
import json
import logging
import random

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    pipeline,
)

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.cli import main
from lightning_transfer.data import Columns, Files, LabelSpec, Splits
from lightning_transfer.inference import Predictor
from tests.conftest import BAD, GOOD, WORDS, make_rows, make_tokenizer, tiny_config
from tests.runs import Watch, rows_of, stage, transfer, write_csv

pytestmark = pytest.mark.jobs

NAMES = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own tokenizer has them
TOPICS = ("plot", "actor", "scene", "market", "paper")


def make_pairs(count, seed=0):
    """Return pairs of texts labelled by equal mood; a single text says nothing of the label."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        one, other = rng.random() < 0.5, rng.random() < 0.5
        texts = [
            " ".join([rng.choice(GOOD if good else BAD), *rng.choices(WORDS[10:], k=5)])
            for good in (one, other)
        ]
        rows.append({"id": number, "premise": texts[0], "hypothesis": texts[1]})
        rows[-1]["relation"] = "same" if one == other else "other"
    return rows


def make_topics(count, seed=0):
    """Return texts with the topics named in them: several, one or none."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        topics = [topic for topic in TOPICS[:3] if rng.random() < 0.4]
        words = [*topics, *rng.choices(GOOD + BAD, k=5)]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "topics": topics})
    return rows


@pytest.fixture(autouse=True)
def place(runs, tmp_path, monkeypatch):
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def varied_model(folder):
    """Save a model with large weights, so that its outputs differ, and token_type_ids."""
    torch.manual_seed(0)
    BertModel(tiny_config(initializer_range=0.3)).save_pretrained(folder / "varied")
    make_tokenizer(model_input_names=NAMES).save_pretrained(folder / "varied")
    return folder / "varied"


@pytest.fixture(scope="module")
def paired(runs, tmp_path_factory):
    """Run folder of a run on pairs."""
    folder = tmp_path_factory.mktemp("paired")
    model = varied_model(folder)
    source = write_csv(folder / "pairs.csv", make_pairs(120))
    overrides = stage(
        "target",
        source,
        "data.columns.text=premise",
        label="relation",
        kind="single_label",
        epochs=1,
    )
    overrides.append("stages.target.data.columns.text_pair=hypothesis")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        overrides = [*runs.overrides, f"backbone.name={model}", *overrides]
        assert main(["fit", *overrides, f"hydra.run.dir={folder}/run"]) == 0
    return folder / "run"


def test_a_pair_is_predicted_as_by_transformers(paired, capsys):
    texts = ("a good film", "the plot is dull, very dull")
    pair = [f"text={texts[0]}", f"text_pair={texts[1]}"]
    assert main(["predict", f"ckpt={paired}", *pair]) == 0
    label, score = capsys.readouterr().out.split()
    model = AutoModelForSequenceClassification.from_pretrained(paired / "model").eval()
    tokens = AutoTokenizer.from_pretrained(paired / "model")(*texts, return_tensors="pt")
    assert tokens["token_type_ids"].unique().tolist() == [0, 1]
    with torch.inference_mode():
        expected = model(**tokens).logits.softmax(-1)[0]
        ignored = model(tokens["input_ids"]).logits.softmax(-1)[0]
    assert label == model.config.id2label[int(expected.argmax())]
    assert float(score) == pytest.approx(expected.max().item(), abs=1e-4)
    assert not torch.allclose(expected, ignored, atol=1e-5)  # token_type_ids matter
    assert model.config.id2label == {0: "other", 1: "same"}


def test_batches_of_pairs_have_token_type_ids(paired):
    task = load(paired).task
    seen = []
    task.backbone.model.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["token_type_ids"]), with_kwargs=True
    )
    loaded = load(paired)
    Predictor(task, loaded.tokenizer, loaded.tokens).predict(
        ["good", "bad film"], ["a", "the plot"]
    )
    assert seen[0].unique().tolist() == [0, 1]


def test_a_file_of_pairs_is_predicted_row_by_row(paired, place):
    rows = make_pairs(20, seed=3)
    source = write_csv(place / "new.csv", rows)
    columns = ["data.text=premise", "data.text_pair=hypothesis"]
    data = [f"data.path={source}", *columns, "out=out.jsonl"]
    assert main(["predict", f"ckpt={paired}", *data]) == 0
    found = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    expected = Predictor.from_path(paired).predict(
        [row["premise"] for row in rows], [row["hypothesis"] for row in rows]
    )
    assert [row["label"] for row in found] == [prediction.label for prediction in expected]
    assert [row["hypothesis"] for row in found] == [row["hypothesis"] for row in rows]


@pytest.mark.parametrize("where", ["", "model", "stages/target-seed0/final.ckpt"])
def test_a_model_of_pairs_refuses_single_texts(paired, capsys, where):
    assert main(["predict", f"ckpt={paired / where}", "text=a good film"]) == 1
    error = capsys.readouterr().err
    assert "was trained on pairs of texts, got single texts; pass the second texts" in error
    assert "text_pair=" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text=[a,b]", "text_pair=c"], "must have the same length, got 2 texts and 1 pairs"),
        (["data.path=x.csv", "text_pair=c"], "text_pair requires text=…"),
        (["data.path=x.csv"], "no file|x.csv|pairs of texts"),
    ],
)
def test_half_a_pair_is_an_error(paired, capsys, arguments, message):
    assert main(["predict", f"ckpt={paired}", *arguments]) == 1
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|"))
    assert "Traceback" not in error


def test_a_model_of_single_texts_warns_of_pairs(runs, tmp_path, caplog):
    runs.target(tmp_path / "run", label="mood", kind="single_label", epochs=1)
    with caplog.at_level(logging.WARNING):
        Predictor.from_path(tmp_path / "run").predict(["good"], ["bad"])
    assert "was trained on single texts, got pairs of texts" in caplog.text


def f1_of(name, predicted, true):
    hits = sum(name in one and name in other for one, other in zip(predicted, true, strict=True))
    return 2 * hits / (sum(name in one for one in predicted) + sum(name in one for one in true))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_several_labels_are_trained_predicted_and_exported(runs, place, form, capsys):
    rows = make_topics(220)
    source = place / f"topics.{form}"
    if form == "csv":
        write_csv(source, [{**row, "topics": "|".join(row["topics"])} for row in rows])
    else:
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = stage("target", source, label="topics", kind="multi_label", epochs=8, lr=3e-3)
    overrides += ["stages.target.data.train_size=112", f"backbone.name={varied_model(place)}"]
    metrics = rows_of(runs.fit(place / "run", *overrides))["target"]["metrics"]
    assert list(metrics) == ["accuracy", "macro_f1", "mcc"]
    data = Files(
        str(source),
        columns=Columns(label="topics"),
        label=LabelSpec("multi_label"),
        splits=Splits(val=16, test=40),
    )
    data.setup("test")
    test = data.rows("test")
    labels = [p.label for p in Predictor.from_path(place / "run").predict(test["text"][:])]
    assert len(set(labels)) > 2
    predicted = [{*filter(None, label.split("|"))} for label in labels]
    true = [{data.labels.names[position] for position in row} for row in test["label"]]
    scores = [f1_of(name, predicted, true) for name in data.labels.names]
    assert metrics["macro_f1"]["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    config = json.loads((place / "run/model/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["label2id"]) == ["actor", "plot", "scene"]
    texts = ["good plot and a warm scene", "dull and cold", "actor plot scene fine"]
    capsys.readouterr()
    assert main(["predict", f"ckpt={place}/run", f"text={texts}"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    reference = pipeline("text-classification", model=str(place / "run/model"), top_k=None)
    for (label, score), scores in zip(lines, reference(texts), strict=True):
        likely = {s["label"]: s["score"] for s in scores if s["score"] > 0.5}
        assert set(filter(None, label.split("|"))) == set(likely)
        expected = min(likely.values(), default=max(s["score"] for s in scores))
        assert float(score) == pytest.approx(expected, abs=1e-4)


def test_predicted_labels_of_a_file_are_read_as_training_labels(runs, place):
    rows = [{**row, "topics": "|".join(row["topics"])} for row in make_topics(120)]
    source = write_csv(place / "topics.csv", rows)
    overrides = stage("target", source, label="topics", kind="multi_label", epochs=1)
    runs.fit(place / "run", *overrides)
    new = write_csv(place / "new.csv", [{"text": row["text"]} for row in make_topics(30, seed=2)])
    assert main(["predict", f"ckpt={place}/run", f"data.path={new}", "out=out.csv"]) == 0
    with (place / "out.csv").open(newline="") as file:
        cells = [row["label"] for row in csv.DictReader(file)]
    known = set(label_names(place / "run"))
    assert {name for cell in cells for name in cell.split("|") if name} <= known


def label_names(run):
    return json.loads((run / "model/lightning_transfer.json").read_text())["labels"]["names"]


def test_other_labels_of_the_target_data_get_a_new_head(runs, tmp_path, caplog):
    """Only the data is overridden; the head follows the labels, and this is logged."""
    moods = [row for row in make_rows(200, seed=4) if row["mood"] != "neutral"]
    source = write_csv(tmp_path / "moods.csv", moods)
    rng = random.Random(5)
    topics = [
        {"text": f"{topic} {row['text']}", "topic": topic}
        for row in make_rows(150, seed=6)
        for topic in [rng.choice(TOPICS)]
    ]
    target = write_csv(tmp_path / "topics.csv", topics)
    classes = "task@stages.target.task=sequence_classification"
    overrides = [o for o in transfer(source, source, baselines=False) if "task@" not in o]
    overrides += ["task@stages.source.task=sequence_classification", classes]
    for name in ("source", "target"):
        overrides += [
            f"stages.{name}.data.columns.label=mood",
            f"stages.{name}.data.label.kind=single_label",
        ]
        overrides += [f"stages.{name}.data.train_size=24", f"stages.{name}.epochs=1"]
    caplog.set_level(logging.INFO)
    runs.fit(tmp_path / "same", *overrides)
    assert "head kept: labels negative, positive" in caplog.text
    caplog.clear()
    other = [f"stages.target.data.source={target}", "stages.target.data.columns.label=topic"]
    Watch.reset()
    runs.fit(tmp_path / "other", *overrides, *other)
    line = "new head: the labels negative, positive become actor, market, paper, plot, scene"
    assert line in caplog.text
    (_, before), (title, after) = Watch.started
    assert title == "source-seed0/target-seed0"
    assert after["head.out.weight"].shape == (5, 16)
    assert before["head.out.weight"].shape == (2, 16)
    source_weights = load(tmp_path / "other/stages/source-seed0/final.ckpt").task.state_dict()
    transferred = [name for name in after if name.startswith("backbone.")]
    assert transferred
    assert all(torch.equal(after[name], source_weights[name]) for name in transferred)
    assert label_names(tmp_path / "other") == ["actor", "market", "paper", "plot", "scene"]
