"""The sequence-to-sequence experiments with tiny models on a few texts."""

import json
import random

import pytest

from tests.conftest import WORDS
from tests.data.domains.test_aclsum import a_paper
from tests.data.domains.test_aclsum import write as write_papers
from tests.data.domains.test_catalogues import write as write_catalogue
from tests.experiments.test_seq2seq_runs import SIZES, alone
from tests.runs import rows_of

pytestmark = pytest.mark.jobs

__all__ = ["alone"]  # a fixture
SMALL = [
    "backbone=scratch_seq2seq",
    f"backbone.config={SIZES.replace('120', '300')}",
    "tokenizer.vocab_size=300",  # all bytes and a few merges
]


def with_data(stage, source, *options, epochs=1):
    """Return the overrides of a stage with a small data source; ``options`` are below the stage."""
    options = [f"data.source={source}", "data.tokens.max_length=24", "data.batch_size=16", *options]
    return [f"stages.{stage}.epochs={epochs}", *(f"stages.{stage}.{option}" for option in options)]


def fast_generation(*stages):
    """Return the overrides for short texts without beam search."""
    options = ("max_new_tokens=8", "num_beams=1")
    return [f"stages.{s}.task.generation.{option}" for s in stages for option in options]


def sentences(count, *, seed):
    rng = random.Random(seed)
    return [" ".join([*rng.choices(WORDS[:14], k=4), str(number)]) for number in range(count)]


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogues")
    for language, ending in (("fr", "é"), ("de", "ß")):
        entries = [
            f'msgid "{text}"\nmsgstr "{" ".join(word + ending for word in text.split())}"\n'
            for text in sentences(120, seed=0)
        ]
        write_catalogue(folder, language, "\n".join(entries))
    return folder


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("articles")
    (folder / "tech").mkdir()
    for number, text in enumerate(sentences(60, seed=1)):
        body = f"{text.capitalize()}. The rest."
        (folder / "tech" / f"{number:03}.txt").write_text(f"Headline {text}\n\n{body}\n")
    return folder


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    texts = iter(sentences(30, seed=2))
    for name, count in (("train", 16), ("val", 6), ("test", 8)):
        made = []
        for text in (next(texts) for _ in range(count)):
            paper = a_paper(id=text, title=f"On {text}")
            paper["sentences"]["abstract"][0] = f"We look at {text} ."
            made.append(paper)
        write_papers(folder, made, f"{name}.jsonl")
    return folder


def weight_transfer(found, stage):
    """Return the status of each part of the first stage run of a stage with a previous one."""
    run = next(run for run in found["weight_transfer"] if run["stage"] == stage and run["from"])
    return {part["part"]: part["status"] for part in run["parts"]}


def test_a_child_translation_starts_from_all_weights_of_its_parent(alone, catalogues, tmp_path):
    splits = ("data.splits.val=0.1", "data.splits.test=0.1")
    found = alone.fit(
        tmp_path,
        "+experiment=en_fr_to_en_de",
        *SMALL,
        "seeds=[0]",
        *with_data("source", catalogues, *splits),
        *with_data("target", catalogues, *splits, "data.train_size=20"),
        *fast_generation("source", "target"),
    )
    rows = rows_of(found)
    assert {name: row["n_train"] for name, row in rows.items()} == {
        "source": rows["source"]["n_train"],
        "no_source": 20,
        "transfer": 20,
    }
    assert rows["source"]["n_train"] > 80
    assert {"bleu", "chrf"} <= set(rows["transfer"]["metrics"])
    assert found["comparison"]["metric"] == "bleu"
    assert set(weight_transfer(found, "target").values()) == {"transferred"}


def test_generated_titles_are_compared_with_the_first_sentences(
    alone, articles, papers, tiny_folder, tmp_path
):
    below = "finetuning.callbacks.freezing.below=3"
    found = alone.fit(
        tmp_path,
        "+experiment=news_to_papers",
        "backbone=warm_start",
        f"backbone.encoder={tiny_folder}",
        f"backbone.decoder={tiny_folder}",
        "seeds=[0]",
        *with_data("copy", articles, below, "data.train_size=20", "data.splits={val:4,test:4}"),
        *with_data("source", articles, below, "data.splits={val:0.1,test:0.2}"),
        *with_data("target", papers, below),
        f"stages.lead.data.source={papers}",
        *fast_generation("copy", "source", "target"),
    )
    rows = rows_of(found)
    assert {name: row["n_train"] for name, row in rows.items()} == {
        "copy": 20,
        "source": 42,
        "lead": 0,
        "zero_shot": 0,
        "no_source": 16,
        "transfer": 16,
    }
    # "We look at w w w w n" against "On w w w w n": five common words of eight and of six.
    assert rows["lead"]["metrics"]["rougeL"]["mean"] == pytest.approx(100 * 2 * 5 / 14, abs=0.1)
    assert set(rows["lead"]["metrics"]) == {"rouge1", "rouge2", "rougeL"}
    assert found["comparison"]["metric"] == "rougeL"
    assert set(weight_transfer(found, "target").values()) == {"transferred"}


def test_a_translation_model_is_transferred_to_headlines(alone, catalogues, articles, tmp_path):
    splits = ("data.splits.val=0.1", "data.splits.test=0.1")
    found = alone.fit(
        tmp_path,
        "+experiment=translation_to_summarization",
        *SMALL,
        "stages.target.tokenizer.vocab_size=290",
        "seeds=[0]",
        *with_data("source", catalogues, *splits),
        *with_data("target", articles, "data.train_size=20"),
        f"stages.lead.data.source={articles}",
        *fast_generation("source", "target"),
    )
    assert list(rows_of(found)) == ["source", "lead", "no_source", "transfer"]
    status = weight_transfer(found, "target")
    assert status["encoder"] == status["decoder"] == "transferred"
    assert status["token embeddings"] == status["head"] == "resized"
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["vocab_size"] == 290
