"""Whole sequence-to-sequence runs: tokenizers, stages, model folder, generated text."""

import csv
import json
import random

import pytest
from hydra import compose, initialize_config_module
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.cli import commands
from lightning_transfer.inference import TextGenerator
from tests.conftest import WORDS
from tests.weight_transfer.test_embedding_tables import make_other

pytestmark = pytest.mark.jobs

PIECES = "{_target_:lightning_transfer.data.TokenizerTrainer,vocab_size:120,min_frequency:1}"
SIZES = "{model_type:marian,vocab_size:120,d_model:16,encoder_layers:1,"
SIZES += "decoder_layers:1,encoder_ffn_dim:16,decoder_ffn_dim:16,encoder_attention_heads:2,"
SIZES += "decoder_attention_heads:2,max_position_embeddings:40,pad_token_id:0,eos_token_id:3,"
SIZES += "bos_token_id:2,decoder_start_token_id:2,forced_eos_token_id:null}"
FRESH = "{model_type:bert,vocab_size:120,hidden_size:16,num_hidden_layers:1,num_attention_heads:2,"
FRESH += "intermediate_size:16,max_position_embeddings:40}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Csv file of texts, and as target the same words in reverse order with an ending."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "target"])
        for row in range(80):
            words = rng.choices(WORDS, k=4 + row % 5)
            target = " ".join(f"{word}é" for word in reversed(words))
            writer.writerow([" ".join(words), target])
    return path


def stage(name, source):
    """Return the overrides of a sequence-to-sequence stage with a csv file."""
    return [
        *([] if name == "target" else [f"+stage@stages.{name}=default"]),
        f"data@stages.{name}.data=parallel_files",
        f"task@stages.{name}.task=sequence_to_sequence",
        f"head@stages.{name}.head=decoder",
        f"stages.{name}.data.source={source}",
        f"stages.{name}.data.splits.val=8",
        f"stages.{name}.data.splits.test=12",
        f"stages.{name}.task.generation.max_new_tokens=12",
        f"stages.{name}.epochs=2",
    ]


@pytest.fixture
def alone(runs):
    """Runs without a pretrained backbone."""
    overrides, runs.overrides = runs.overrides, ["trainer.accelerator=cpu"]
    yield runs
    runs.overrides = overrides


def _check_command(folder, generator, capsys):
    """Check that `predict` prints the texts of the generator, with the requested beams."""
    overrides = [f"ckpt={folder}", "text=[good film,the story]", "generation={num_beams:3}"]
    with initialize_config_module("lightning_transfer.conf", version_base="1.3"):
        config = compose("predict", overrides=overrides)
    capsys.readouterr()
    commands.predict(config)
    generator.generate_with({"num_beams": 3})
    assert capsys.readouterr().out.splitlines() == generator.predict(["good film", "the story"])


def test_two_stages_from_scratch_share_a_trained_tokenizer(alone, pairs, tmp_path, capsys):
    overrides = ["backbone=scratch_seq2seq", f"backbone.config={SIZES}", f"tokenizer={PIECES}"]
    overrides += ["order=[source,target]", *stage("source", pairs), *stage("target", pairs)]
    overrides += ["stages.target.monitor=val/chrf", "stages.target.task.generation.num_beams=2"]
    found = alone.fit(tmp_path, *overrides)
    metrics = found["rows"][-1]["metrics"]
    assert {"perplexity", "bleu", "chrf", "rouge1", "rouge2", "rougeL"} <= set(metrics)
    loaded = load(tmp_path)
    assert loaded.target_tokenizer is None
    assert loaded.task.generation.num_beams == 2
    generator = TextGenerator.from_path(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    inputs = tokenizer("good film the", return_tensors="pt")
    expected = tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True).strip()
    assert generator.predict(["good film the"]) == [expected]
    _check_command(tmp_path, generator, capsys)
    record = tmp_path / "stages/source-seed0/target-seed0/fit.json"
    parts = json.loads(record.read_text())["weight_transfer"]
    assert {part["status"] for part in parts} == {"transferred"}
    assert {"encoder", "decoder"} <= {part["part"] for part in parts}


def test_each_size_of_a_curve_has_a_tokenizer_trained_on_its_rows(alone, pairs, tmp_path):
    overrides = ["backbone=scratch_seq2seq", f"backbone.config={SIZES}", f"tokenizer={PIECES}"]
    overrides += [*stage("target", pairs), "stages.target.epochs=1", "curve.train_size=[4,30]"]
    alone.fit(tmp_path, *overrides)
    paths = [tmp_path / f"stages/target-{size}-seed0/final.ckpt" for size in (4, 30)]
    few, many = (load(path).tokenizer.get_vocab() for path in paths)
    assert len(few) < len(many)
    assert (tmp_path / "train_sizes.png").is_file()


def test_a_warm_start_may_have_a_target_tokenizer(alone, pairs, tiny_folder, tmp_path):
    target = PIECES.replace("}", ",lowercase:false}")
    overrides = [
        "backbone=warm_start",
        f"backbone.encoder={tiny_folder}",
        f"backbone.decoder={FRESH}",
    ]
    overrides += [f"target_tokenizer={target}", *stage("target", pairs)]
    alone.fit(tmp_path, *overrides)
    loaded = load(tmp_path)
    accents = loaded.target_tokenizer("goodé", add_special_tokens=False)["input_ids"]
    assert loaded.target_tokenizer.unk_token_id not in accents
    assert "é" in loaded.target_tokenizer.decode(accents)
    assert loaded.tokenizer.get_vocab() != loaded.target_tokenizer.get_vocab()
    assert (tmp_path / "model/target_tokenizer").is_dir()
    assert len(TextGenerator.from_path(tmp_path).predict(["good film", "bad"])) == 2


@pytest.fixture
def second(tmp_path):
    """Tokenizer with all words of the pairs and other ids, and its folder."""
    words = [f"{word}é" for word in WORDS]
    other = make_other([*reversed(words), *reversed(WORDS)])
    other.save_pretrained(tmp_path / "second")
    return other, tmp_path / "second"


def test_a_stage_with_one_tokenizer_starts_from_a_model_with_two(alone, pairs, second, tmp_path):
    tokenizer, folder = second
    overrides = ["backbone=scratch_seq2seq", f"backbone.config={SIZES}", f"tokenizer={PIECES}"]
    separate = ["+backbone.config.decoder_vocab_size=120"]
    separate += ["+backbone.config.share_encoder_decoder_embeddings=false"]
    target = PIECES.replace("}", ",lowercase:false}")
    first = alone.fit(
        tmp_path / "a", *overrides, *separate, f"target_tokenizer={target}", *stage("target", pairs)
    )
    assert first["rows"]
    found = alone.fit(
        tmp_path / "b",
        *overrides,
        *separate,
        *stage("target", pairs),
        f"stages.target.init_from={tmp_path / 'a'}",
        f"stages.target.tokenizer={folder}",
    )
    old, new = load(tmp_path / "a"), load(tmp_path / "b")
    assert new.target_tokenizer is None
    config = new.task.backbone.config
    assert config.eos_token_id == tokenizer.sep_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    assert new.task.head.bias.shape == (1, len(tokenizer))
    assert old.task.backbone.target_embeddings.num_embeddings == 120
    [run] = found["weight_transfer"]
    status = {part["part"]: part["status"] for part in run["parts"]}
    assert status["decoder token embeddings"] == status["head"] == "resized"


def test_a_wrong_tokenizer_or_metric_is_an_error_before_training(
    alone, pairs, tiny_folder, tmp_path
):
    overrides = ["backbone=warm_start", f"backbone.encoder={tiny_folder}", *stage("target", pairs)]
    small = FRESH.replace("vocab_size:120", "vocab_size:20")
    with pytest.raises(ValueError, match=r"the target_tokenizer has \d+ tokens, the decoder has"):
        alone.fit(tmp_path, *overrides, f"backbone.decoder={small}", f"target_tokenizer={PIECES}")
    with pytest.raises(
        ValueError, match=r"unknown validation metric 'val/blue'; did you mean val/bleu"
    ):
        alone.fit(
            tmp_path,
            *overrides,
            f"backbone.decoder={tiny_folder}",
            "stages.target.monitor=val/blue",
        )
    small = FRESH.replace("vocab_size:120", "vocab_size:99")
    other = make_other(WORDS)
    other.pad_token = None
    other.save_pretrained(tmp_path / "without")
    with pytest.raises(
        ValueError, match="has no pad_token for target texts; use one of its tokens"
    ):
        alone.fit(
            tmp_path,
            *overrides,
            f"backbone.decoder={small}",
            f"target_tokenizer={tmp_path / 'without'}",
        )
