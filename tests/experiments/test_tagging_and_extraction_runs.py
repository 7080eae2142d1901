"""Whole runs of token classification and of extractive summarization."""

import pytest
from transformers import AutoModelForTokenClassification

from lightning_transfer.cli import main
from lightning_transfer.inference import Tagger
from tests.data.domains.test_highlighted_sentences import folder
from tests.data.test_tagged_text import Tags

__all__ = ["folder"]  # a fixture


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("tags") / "moods.conll"
    table = Tags().load_rows()
    rows = zip(table["text"], table["label"], strict=True)
    path.write_text(
        "\n\n".join("\n".join(map(" ".join, zip(*row, strict=True))) for row in rows) + "\n"
    )
    return path


def test_a_model_trained_on_a_conll_file_tags_words(runs, sentences, tmp_path, capsys, monkeypatch):
    results = runs.fit(
        tmp_path / "run",
        "data@stages.target.data=conll",
        "task@stages.target.task=token_classification",
        "head@stages.target.head=token",
        f"stages.target.data.source={sentences}",
        "stages.target.data.splits.val=10",
        "stages.target.data.splits.test=10",
        "stages.target.data.tokens.max_length=24",
        "stages.target.optimizer.lr=0.02",
        "stages.target.epochs=6",
    )
    [row] = results["rows"]
    assert row["metrics"]["entity_f1"]["mean"] > 0.5
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run/model")
    assert model.config.id2label[0] == "O"
    [prediction] = Tagger.from_path(tmp_path / "run").predict(["the good film was dull"])
    assert prediction.words == ("the", "good", "film", "was", "dull")
    assert set(prediction.tags) <= set(model.config.label2id)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["predict", f"ckpt={tmp_path / 'run'}", "text=the good film was dull"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines if line != [""]] == list(
        map(list, zip(prediction.words, prediction.tags, strict=True))
    )


def test_extracted_sentences_are_compared_with_the_first_sentences(runs, folder, tmp_path):
    stages = [
        option
        for name in ("lead", "target")
        for option in (
            f"data@stages.{name}.data=highlighted_sentences",
            f"stages.{name}.data.source={folder}",
            f"stages.{name}.data.tokens.max_length=24",
        )
    ]
    results = runs.fit(
        tmp_path / "run",
        "+stage@stages.lead=default",
        *stages,
        "task@stages.lead.task=lead_sentences",
        "task@stages.target.task=sentence_extraction",
        "+stages.lead.trainer.max_steps=0",
        "+baselines={lead: {order: [lead], test: target}}",
        "comparison.metric=rougeL",
        "comparison.baseline=lead",
        "stages.target.optimizer.lr=0.01",
        "stages.target.epochs=4",
    )
    rows = {row["name"]: row["metrics"] for row in results["rows"]}
    assert list(rows) == ["lead", "target"]
    assert results["comparison"]["value"] == pytest.approx(
        rows["target"]["rougeL"]["mean"] - rows["lead"]["rougeL"]["mean"]
    )
    assert results["comparison"]["value"] > 0
