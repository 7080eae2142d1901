"""Pretraining stages in whole runs: their rows, weight transfer, tokenizers and errors."""

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
    # Documents of one repeated word are easy to learn: a masked word equals its neighbours.
    uniform = [f"{' '.join([word] * 8)}. " * count for word in WORDS for count in (3, 4)]
    runs.text.write_text("\n\n".join([*stories(20), *uniform]))
    return runs


@pytest.fixture(autouse=True)
def _reset():
    Watch.reset()


def pretraining(runs, name="adapt", packing="packed", *options):
    """Return the overrides of a pretraining stage."""
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


# Many steps, at a learning rate high enough for a new head.
LEARNS = (
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
def test_a_pretraining_stage_has_its_own_row(whole):
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
def test_the_loss_before_is_that_of_the_initial_weights(whole):
    folder, _ = whole
    found = json.loads((folder / "stages/adapt-seed0/before.json").read_text())
    rows = rows_of(json.loads((folder / "results.json").read_text()))
    own = rows["adapt"]["metrics"]
    assert found["mlm_loss_before"] == own["mlm_loss_before"]["mean"]
    # A new head starts with the frequencies of the tokens as its bias.
    assert found["mlm_loss_before"] == pytest.approx(own["unigram_loss"]["mean"], abs=0.6)


@pytest.mark.slow
def test_the_next_stage_starts_from_the_adapted_backbone(whole):
    folder, started = whole
    final = weights(folder / "stages/adapt-seed0/final.ckpt")
    start = dict(started)["adapt-seed0/target-seed0"]
    for name, value in final.items():
        if name.startswith("backbone."):
            assert torch.equal(start[name], value), name
    assert "head.bias" in final
    assert "head.bias" not in start


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["packed", "pairs"])
def test_a_run_resumed_in_mid_epoch_ends_with_the_same_weights(runs, tmp_path, packing):
    overrides = [*pretraining(runs, "target", packing), "resume_every=1"]
    whole, resumed = runs.fit_whole_and_resumed(tmp_path, *overrides, stop=("batch", 2))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def scratch(runs, *options):
    """Return the overrides of a run with random initial weights and a trained tokenizer."""
    return [
        "backbone=scratch",
        *pretraining(runs, "target", "pairs"),
        f"backbone.config={SMALL}",
        f"tokenizer={TOKENIZER}",
        *options,
    ]


def test_a_model_is_pretrained_from_scratch_with_a_trained_tokenizer(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "overrides", ["trainer.accelerator=cpu"])
    found = runs.fit(tmp_path, *scratch(runs))
    metrics = found["rows"][0]["metrics"]
    assert 0 < metrics["nsp_accuracy"]["mean"] <= 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    encoded = tokenizer("good film", return_tensors="pt")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    loaded = load(tmp_path / "model").task
    with torch.no_grad():
        expected = model(**encoded).logits[0]
        assert torch.allclose(loaded(encoded).tokens, expected, atol=1e-5)
    with pytest.raises(ValueError, match="predicts tokens of raw text and has no labels"):
        Predictor.from_path(tmp_path / "model")
    start = read_weights(tmp_path)
    assert start.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.config.vocab_size=60"], "the tokenizer has 90 tokens, the backbone has embedd"),
        (["+tokenizer.stage=no"], "tokenizer.stage: unknown stage 'no'. Stages: target"),
        (["+tokenizer.kind=words"], "tokenizer: tokenizer.kind must be one of wordpiece"),
        (["stages.target.data.documents.source=/none.txt"], "no file or folder /none.txt"),
        (
            ["head@stages.target.head=mlp"],
            "MaskedLanguageModelling needs a LanguageModelHead, got MLPHead",
        ),
        (["stages.target.data.splits.val=90"], "splits.val=90 asks for 90 documents, there are"),
        (
            ["stages.target.monitor=val/mlm_los"],
            "stages.target.monitor: unknown validation metric 'val/mlm_los'; did",
        ),
    ],
)
def test_a_wrong_override_is_an_error_before_training(
    runs, tmp_path, monkeypatch, overrides, message
):
    monkeypatch.setattr(runs, "overrides", ["trainer.accelerator=cpu"])
    with pytest.raises((ValueError, OSError), match=message):
        runs.fit(tmp_path, *scratch(runs), *overrides)
    assert Watch.titles() == []


def test_a_tokenizer_cannot_be_trained_on_labelled_rows(runs, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.stage='target' has data of Files, but a"):
        runs.fit(tmp_path, *stage("target", runs.movies), f"tokenizer={TOKENIZER}")


def test_the_best_weights_have_the_lowest_perplexity(runs, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        runs.fit(tmp_path, *pretraining(runs, "target"), "stages.target.epochs=2")
    [record] = (tmp_path / "stages/target-seed0").glob("fit.json")
    best = json.loads(record.read_text())["best"]
    rows = (tmp_path / "stages/target-seed0/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/perplexity")
    values = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert best == pytest.approx(min(values), 1e-4)


def test_a_monitored_accuracy_is_better_if_higher(runs):
    from lightning_transfer.experiments.stage_runner import StageRunner

    config = runs.config(*pretraining(runs, "target"), "stages.target.monitor=val/mlm_accuracy")
    runner = StageRunner(config, runs.folder)
    assert runner.mode("target") == "max"
    config["stages"]["target"]["monitor"] = None
    assert (runner.mode("target"), runner.metric("target")) == ("min", "perplexity")


def test_a_causal_model_is_pretrained(runs, tmp_path, monkeypatch):
    causal = {
        "task@stages.target.task=masked_language_modelling": "causal_language_modelling",
        "head@stages.target.head=language_model": "next_token",
    }
    changes = {
        "packing=pairs": "packing=packed",
        "model_type: bert": "model_type: gpt2",
        "vocab_size: 90}": "vocab_size: 90, segments: false}",
    }
    overrides = [
        f"{override.partition('=')[0]}={causal[override]}" if override in causal else override
        for override in scratch(runs, "stages.target.data.pretraining=causal")
    ]
    for old, new in changes.items():
        overrides = [override.replace(old, new) for override in overrides]
    monkeypatch.setattr(runs, "overrides", ["trainer.accelerator=cpu"])
    found = runs.fit(tmp_path, *overrides)
    metrics = found["rows"][0]["metrics"]
    assert metrics["lm_loss"]["mean"] < metrics["lm_loss_before"]["mean"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    encoded = tokenizer("good film", return_tensors="pt")
    with torch.no_grad():
        logits = load(tmp_path / "model").task(encoded)
        expected = model(**encoded).logits[0]
    assert torch.allclose(logits, expected, atol=1e-5)
