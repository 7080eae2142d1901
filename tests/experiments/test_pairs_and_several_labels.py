"""Pairs of texts, several labels a text, and another head on the same backbone, end to end."""

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
    """Two texts each, and whether they are of one mood: neither tells by itself."""
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
    """Texts with all of the topics that they name, which may be none."""
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


def lively(folder):
    """Save a model whose outputs differ from text to text, with a tokenizer that tells segments."""
    torch.manual_seed(0)
    BertModel(tiny_config(initializer_range=0.3)).save_pretrained(folder / "lively")
    make_tokenizer(model_input_names=NAMES).save_pretrained(folder / "lively")
    return folder / "lively"


@pytest.fixture(scope="module")
def paired(runs, tmp_path_factory):
    """A run on pairs, with its config beside it."""
    folder = tmp_path_factory.mktemp("paired")
    model = lively(folder)
    source = write_csv(folder / "pairs.csv", make_pairs(120))
    words = stage(
        "target",
        source,
        "data.columns.text=premise",
        label="relation",
        kind="single_label",
        epochs=1,
    )
    words.append("stages.target.data.columns.text_pair=hypothesis")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runs.environment.items():
            patch.setenv(name, value)
        named = f"backbone.name={model}"
        assert main(["fit", *runs.words, named, *words, f"hydra.run.dir={folder}/run"]) == 0
    return folder / "run"


def test_a_pair_is_predicted_as_plain_transformers_does(paired, capsys):
    texts = ("a good film", "the plot is dull, very dull")
    words = [f"text={texts[0]}", f"text_pair={texts[1]}"]
    assert main(["predict", f"ckpt={paired}", *words]) == 0
    label, score = capsys.readouterr().out.split()
    model = AutoModelForSequenceClassification.from_pretrained(paired / "model").eval()
    tokens = AutoTokenizer.from_pretrained(paired / "model")(*texts, return_tensors="pt")
    assert tokens["token_type_ids"].unique().tolist() == [0, 1]
    with torch.inference_mode():
        expected = model(**tokens).logits.softmax(-1)[0]
        ignored = model(tokens["input_ids"]).logits.softmax(-1)[0]
    assert label == model.config.id2label[int(expected.argmax())]
    assert float(score) == pytest.approx(expected.max().item(), abs=1e-4)
    assert not torch.allclose(expected, ignored, atol=1e-5)  # it matters which text is which
    assert model.config.id2label == {0: "other", 1: "same"}


def test_pairs_are_batched_with_their_segments(paired):
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
    words = ["data.text=premise", "data.text_pair=hypothesis", "out=out.jsonl"]
    assert main(["predict", f"ckpt={paired}", f"data.path={source}", *words]) == 0
    found = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    expected = Predictor.from_path(paired).predict(
        [row["premise"] for row in rows], [row["hypothesis"] for row in rows]
    )
    assert [row["label"] for row in found] == [said.label for said in expected]
    assert [row["hypothesis"] for row in found] == [row["hypothesis"] for row in rows]


@pytest.mark.parametrize("where", ["", "model", "stages/target-seed0/final.ckpt"])
def test_a_model_of_pairs_refuses_single_texts(paired, capsys, where):
    assert main(["predict", f"ckpt={paired / where}", "text=a good film"]) == 1
    said = capsys.readouterr().err
    assert "was trained on pairs of texts; give the second texts too" in said
    assert "text_pair=" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text=[a,b]", "text_pair=c"], "each text needs its pair: 2 texts, 1 pairs"),
        (["data.path=x.csv", "text_pair=c"], "text_pair is the second text beside text="),
        (["data.path=x.csv"], "no file|x.csv|pairs of texts"),
    ],
)
def test_half_a_pair_is_an_error(paired, capsys, words, message):
    assert main(["predict", f"ckpt={paired}", *words]) == 1
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|"))
    assert "Traceback" not in said


def test_a_model_of_single_texts_warns_of_pairs(runs, tmp_path, caplog):
    runs.target(tmp_path / "run", label="mood", kind="single_label", epochs=1)
    with caplog.at_level(logging.WARNING):
        Predictor.from_path(tmp_path / "run").predict(["good"], ["bad"])
    assert "was trained on single texts, and is given pairs" in caplog.text


def f1_of(name, told, true):
    hits = sum(name in one and name in other for one, other in zip(told, true, strict=True))
    return 2 * hits / (sum(name in one for one in told) + sum(name in other for other in true))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_several_labels_are_learned_predicted_and_exported(runs, place, form, capsys):
    rows = make_topics(220)
    source = place / f"topics.{form}"
    if form == "csv":
        write_csv(source, [{**row, "topics": "|".join(row["topics"])} for row in rows])
    else:
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = stage("target", source, label="topics", kind="multi_label", epochs=8, lr=3e-3)
    words += ["stages.target.data.train_size=112", f"backbone.name={lively(place)}"]
    metrics = rows_of(runs.fit(place / "run", *words))["target"]["metrics"]
    assert list(metrics) == ["accuracy", "macro_f1", "mcc"]
    data = Files(
        str(source),
        columns=Columns(label="topics"),
        label=LabelSpec("multi_label"),
        splits=Splits(val=16, test=40),
    )
    data.setup("test")
    test = data.rows("test")
    said = [p.label for p in Predictor.from_path(place / "run").predict(test["text"][:])]
    assert len(set(said)) > 2
    told = [{*filter(None, label.split("|"))} for label in said]
    true = [{data.labels.names[position] for position in row} for row in test["label"]]
    by_hand = [f1_of(name, told, true) for name in data.labels.names]
    assert metrics["macro_f1"]["mean"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)
    config = json.loads((place / "run/model/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["label2id"]) == ["actor", "plot", "scene"]
    texts = ["good plot and a warm scene", "dull and cold", "actor plot scene fine"]
    capsys.readouterr()
    assert main(["predict", f"ckpt={place}/run", f"text={texts}"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    theirs = pipeline("text-classification", model=str(place / "run/model"), top_k=None)
    for (label, score), scores in zip(lines, theirs(texts), strict=True):
        kept = {s["label"]: s["score"] for s in scores if s["score"] > 0.5}
        assert set(filter(None, label.split("|"))) == set(kept)
        expected = min(kept.values(), default=max(s["score"] for s in scores))
        assert float(score) == pytest.approx(expected, abs=1e-4)


def test_predicted_labels_of_a_file_are_read_back(runs, place):
    """What predict writes is what a multi data set reads."""
    rows = [{**row, "topics": "|".join(row["topics"])} for row in make_topics(120)]
    source = write_csv(place / "topics.csv", rows)
    words = stage("target", source, label="topics", kind="multi_label", epochs=1)
    runs.fit(place / "run", *words)
    new = write_csv(place / "new.csv", [{"text": row["text"]} for row in make_topics(30, seed=2)])
    assert main(["predict", f"ckpt={place}/run", f"data.path={new}", "out=said.csv"]) == 0
    with (place / "said.csv").open(newline="") as file:
        said = [row["label"] for row in csv.DictReader(file)]
    known = set(rows_of_labels(place / "run"))
    assert {name for cell in said for name in cell.split("|") if name} <= known


def rows_of_labels(run):
    return json.loads((run / "model/lightning_transfer.json").read_text())["labels"]["names"]


def test_a_head_of_two_classes_gives_way_to_one_of_five_by_one_override(runs, tmp_path, caplog):
    """The data are the one thing that changes; the head follows the labels, and the log says so."""
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
    words = [w for w in transfer(source, source, baselines=False) if "task@" not in w]
    words += ["task@stages.source.task=sequence_classification", classes]
    for name in ("source", "target"):
        words += [
            f"stages.{name}.data.columns.label=mood",
            f"stages.{name}.data.label.kind=single_label",
        ]
        words += [f"stages.{name}.data.train_size=24", f"stages.{name}.epochs=1"]
    caplog.set_level(logging.INFO)
    runs.fit(tmp_path / "same", *words)
    assert "head kept: labels negative, positive" in caplog.text
    caplog.clear()
    other = [f"stages.target.data.source={target}", "stages.target.data.columns.label=topic"]
    Watch.reset()
    runs.fit(tmp_path / "other", *words, *other)
    line = "new head: the labels negative, positive become actor, market, paper, plot, scene"
    assert line in caplog.text
    (_, before), (title, after) = Watch.started
    assert title == "source-seed0/target-seed0"
    assert after["head.out.weight"].shape == (5, 16)
    assert before["head.out.weight"].shape == (2, 16)
    end = load(tmp_path / "other/stages/source-seed0/final.ckpt").task.state_dict()
    kept = [name for name in after if name.startswith("backbone.")]
    assert kept
    assert all(torch.equal(after[name], end[name]) for name in kept)
    assert rows_of_labels(tmp_path / "other") == ["actor", "market", "paper", "plot", "scene"]
