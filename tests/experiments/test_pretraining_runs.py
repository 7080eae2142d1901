"""Pretraining as a stage of a run: what it reports, hands on and refuses."""

import json
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from lightning_transfer.checkpoints.loading import load, read_weights
from lightning_transfer.inference import Predictor
from tests.conftest import WORDS
from tests.data.readers.test_documents import stories
from tests.runs import Runs, Watch, rows_of, stage, weights

TOKENIZER = "{_target_: lightning_transfer.data.TokenizerTrainer, vocab_size: 90}"
SMALL = (
    "{model_type: bert, vocab_size: 90, hidden_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, intermediate_size: 32, max_position_embeddings: 32}"
)


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    runs = Runs(tiny_folder, tmp_path_factory.mktemp("runs"))
    runs.text = runs.folder / "text.txt"
    # Of one word each, which are easy to learn: a masked word is any of its neighbours.
    alike = [f"{' '.join([word] * 8)}. " * count for word in WORDS for count in (3, 4)]
    runs.text.write_text("\n\n".join([*stories(20), *alike]))
    return runs


@pytest.fixture(autouse=True)
def _reset():
    Watch.reset()


def pretraining(runs, name="adapt", packing="packed", *options):
    """The overrides that make a stage of raw text."""
    where = f"stages.{name}"
    return [
        *([] if name == "target" else [f"+stage@{where}=default"]),
        f"data@{where}.data=text_files",
        f"task@{where}.task=masked_language_modelling",
        f"head@{where}.head=language_model",
        f"{where}.data.documents.source={runs.text}",
        f"{where}.data.blocks.length=24",
        f"{where}.data.blocks.packing={packing}",
        f"{where}.data.splits.val=5",
        f"{where}.data.splits.test=5",
        f"{where}.optimizer.lr=1e-2",
        f"{where}.epochs=1",
        f"+{where}.callbacks.watch._target_=tests.runs.Watch",
        *options,
    ]


LEARNS = (  # rows of one word, and enough steps at a rate at which a new head learns too
    "stages.adapt.seed=0",
    "stages.adapt.epochs=16",
    "stages.adapt.data.batch_size=8",
    "stages.adapt.finetuning.groups.head_ratio=1.0",
)


def adapted(runs):
    return [
        "order=[adapt,target]",
        *pretraining(runs, "adapt", "cut", *LEARNS),
        *stage("target", runs.movies, epochs=1),
        "+baselines={no_adapt: {order: [target]}}",
        "comparison.baseline=no_adapt",
        "seeds=[0,1]",
    ]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    Watch.reset()
    runs.fit(folder, *adapted(runs))
    return folder, list(Watch.started)


@pytest.mark.slow
def test_pretraining_is_one_more_stage_with_its_own_row(whole):
    folder, started = whole
    rows = rows_of(json.loads((folder / "results.json").read_text()))
    assert list(rows) == ["adapt", "no_adapt", "transfer"]
    assert sorted(title for title, _ in started) == [
        "adapt-seed0",
        "adapt-seed0/target-seed0",
        "adapt-seed0/target-seed1",
        "target-seed0",
        "target-seed1",
    ]
    own = {name: metric["mean"] for name, metric in rows["adapt"]["metrics"].items()}
    assert set(own) == {
        *("mlm_loss", "perplexity", "mlm_accuracy", "unigram_loss"),
        *("mlm_loss_before", "perplexity_before"),
    }
    assert own["mlm_loss"] < own["mlm_loss_before"] - 0.3
    assert rows["adapt"]["n_train"] > 0
    assert "pearson" in rows["transfer"]["metrics"]


@pytest.mark.slow
def test_the_loss_before_is_that_of_the_weights_that_the_stage_starts_from(whole):
    folder, _ = whole
    found = json.loads((folder / "stages/adapt-seed0/before.json").read_text())
    rows = rows_of(json.loads((folder / "results.json").read_text()))
    own = rows["adapt"]["metrics"]
    assert found["mlm_loss_before"] == own["mlm_loss_before"]["mean"]
    # A new head knows how frequent the tokens are, and little more.
    assert found["mlm_loss_before"] == pytest.approx(own["unigram_loss"]["mean"], abs=0.6)


@pytest.mark.slow
def test_the_next_stage_starts_from_the_adapted_backbone(whole):
    folder, started = whole
    final = weights(folder / "stages/adapt-seed0/final.ckpt")
    begun = dict(started)["adapt-seed0/target-seed0"]
    for name, value in final.items():
        if name.startswith("backbone."):
            assert torch.equal(begun[name], value), name
    assert "head.bias" in final
    assert "head.bias" not in begun


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["packed", "pairs"])
def test_a_run_that_is_cut_off_in_mid_epoch_ends_with_the_same_weights(runs, tmp_path, packing):
    words = [*pretraining(runs, "target", packing), "resume_every=1"]
    one, other = runs.whole_and_cut(tmp_path, *words, stop=("batch", 2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def scratch(runs, *options):
    return [
        "backbone=scratch",
        *pretraining(runs, "target", "pairs"),
        f"backbone.config={SMALL}",
        f"tokenizer={TOKENIZER}",
        *options,
    ]


def test_a_model_is_pretrained_from_nothing_with_a_tokenizer_of_its_own(runs, tmp_path):
    runs_words, runs.words = runs.words, ["trainer.accelerator=cpu"]
    try:
        found = runs.fit(tmp_path, *scratch(runs))
    finally:
        runs.words = runs_words
    metrics = found["rows"][0]["metrics"]
    assert 0 < metrics["nsp_accuracy"]["mean"] <= 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    encoded = tokenizer("good film", return_tensors="pt")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    loaded = load(tmp_path / "model").task
    with torch.no_grad():
        theirs = model(**encoded).logits[0]
        assert torch.allclose(loaded(encoded).tokens, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="has learned text without labels"):
        Predictor.from_path(tmp_path / "model")
    start = read_weights(tmp_path)
    assert start.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.config.vocab_size=60"], "the tokenizer has 90 tokens and the backbone embedd"),
        (["+tokenizer.stage=no"], "tokenizer.stage='no' is no stage; stages: target"),
        (["+tokenizer.kind=words"], "tokenizer: tokenizer.kind must be one of wordpiece"),
        (["stages.target.data.documents.source=/none.txt"], "no file or folder /none.txt"),
        (["head@stages.target.head=mlp"], "needs a head over the vocabulary, got MLPHead"),
        (["stages.target.data.splits.val=90"], "splits.val=90 asks for 90 documents, there are"),
        (["stages.target.monitor=val/mlm_los"], "'val/mlm_los' is no validation metric of this"),
    ],
)
def test_mistakes_are_found_before_the_first_step(runs, tmp_path, overrides, message):
    runs_words, runs.words = runs.words, ["trainer.accelerator=cpu"]
    try:
        with pytest.raises((ValueError, OSError), match=message):
            runs.fit(tmp_path, *scratch(runs), *overrides)
    finally:
        runs.words = runs_words
    assert Watch.titles() == []


def test_a_tokenizer_is_trained_on_raw_text_only(runs, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.stage='target' has data of Files, and a"):
        runs.fit(tmp_path, *stage("target", runs.movies), f"tokenizer={TOKENIZER}")


def test_the_best_weights_are_those_of_the_lowest_perplexity(runs, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        runs.fit(tmp_path, *pretraining(runs, "target"), "stages.target.epochs=2")
    [record] = (tmp_path / "stages/target-seed0").glob("fit.json")
    best = json.loads(record.read_text())["best"]
    rows = (tmp_path / "stages/target-seed0/metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    place = names.index("val/perplexity")
    values = [float(row.split(",")[place]) for row in rows[1:] if row.split(",")[place]]
    assert best == pytest.approx(min(values), 1e-4)


def test_an_accuracy_can_be_monitored_and_is_better_when_higher(runs):
    from lightning_transfer.experiments.stage_runner import StageRunner

    config = runs.config(*pretraining(runs, "target"), "stages.target.monitor=val/mlm_accuracy")
    runner = StageRunner(config, runs.folder)
    assert runner.mode("target") == "max"
    config["stages"]["target"]["monitor"] = None
    assert (runner.mode("target"), runner.metric("target")) == ("min", "perplexity")


def test_a_causal_model_is_pretrained_by_the_same_stage(runs, tmp_path):
    causal = {
        "task@stages.target.task=masked_language_modelling": "causal_language_modelling",
        "head@stages.target.head=language_model": "next_token",
    }
    words = [
        f"{word.partition('=')[0]}={causal[word]}" if word in causal else word
        for word in scratch(runs, "stages.target.data.pretraining=causal")
    ]
    words = [word.replace("packing=pairs", "packing=packed") for word in words]
    words = [word.replace("model_type: bert", "model_type: gpt2") for word in words]
    words = [word.replace("vocab_size: 90}", "vocab_size: 90, segments: false}") for word in words]
    runs_words, runs.words = runs.words, ["trainer.accelerator=cpu"]
    try:
        found = runs.fit(tmp_path, *words)
    finally:
        runs.words = runs_words
    metrics = found["rows"][0]["metrics"]
    assert metrics["lm_loss"]["mean"] < metrics["lm_loss_before"]["mean"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    encoded = tokenizer("good film", return_tensors="pt")
    with torch.no_grad():
        ours = load(tmp_path / "model").task(encoded)
        theirs = model(**encoded).logits[0]
    assert torch.allclose(ours, theirs, atol=1e-5)
