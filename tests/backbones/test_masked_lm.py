"""Masked language modelling heads of pretrained checkpoints, loaded into our heads."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from lightning_transfer.backbones import Backbone, masked_lm
from lightning_transfer.backbones.masked_lm import read_masked_lm_head
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.heads import LanguageModelHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import MaskedLanguageModelling
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import make_tokenizer
from tests.tasks.test_masked_language_modelling import PAIRS, TOKENS, data
from tests.tiny import CONFIGS, make_inputs, make_trainer

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert")


def randomise(model):
    """Change all weights of a model, so that none has its initial value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(folder, name="bert", auto=AutoModelForMaskedLM, **options):
    config = type(CONFIGS[name]).from_dict(
        {**CONFIGS[name].to_dict(), **options.pop("changes", {})}
    )
    model = randomise(auto.from_config(config))
    model.save_pretrained(folder, **options)
    return model


def start(folder, labels=TOKENS, **arguments):
    """Return a task with a pretrained backbone, and its weight transfer report as text."""
    backbone = Backbone.from_pretrained(folder)
    arguments.setdefault("norm_eps", backbone.masked_lm.norm_eps or 1e-12)
    head = make_head(partial(LanguageModelHead, **arguments), backbone, labels.num_outputs)
    report = transfer_weights(None, backbone, head, labels)
    return MaskedLanguageModelling(backbone, head, labels=labels).eval(), str(report)


def predictions(task):
    ids, mask = make_inputs()
    with torch.no_grad():
        return task({"input_ids": ids, "attention_mask": mask})


def their_predictions(model):
    ids, mask = make_inputs()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask), mask.bool()


def assert_same_predictions(task, model):
    theirs, inside = their_predictions(model)
    assert torch.allclose(predictions(task).tokens, theirs.logits[inside], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_before_training_equal_those_of_the_checkpoint(tmp_path, name):
    model = save(tmp_path / "theirs", name)
    task, report = start(tmp_path / "theirs")
    assert report == "head kept: loaded from the checkpoint"
    assert_same_predictions(task, model)
    assert export(task, make_tokenizer(), tmp_path / "ours")
    assert torch.equal(predictions(load(tmp_path / "ours").task).tokens, predictions(task).tokens)
    again, _ = start(tmp_path / "ours")  # an exported folder is a checkpoint like any other
    assert_same_predictions(again, model)


def test_the_output_for_pairs_of_bert_is_loaded(tmp_path):
    model = save(tmp_path / "theirs", auto=AutoModelForPreTraining)
    task, report = start(tmp_path / "theirs", PAIRS)
    theirs, inside = their_predictions(model)
    assert report == "head kept: loaded from the checkpoint"
    assert torch.allclose(predictions(task).tokens, theirs.prediction_logits[inside], atol=1e-5)
    assert torch.allclose(predictions(task).pairs, theirs.seq_relationship_logits, atol=1e-5)
    assert export(task, make_tokenizer(), tmp_path / "ours")
    again, _ = start(tmp_path / "ours", PAIRS)
    assert torch.allclose(predictions(again).pairs, theirs.seq_relationship_logits, atol=1e-5)
    tokens_alone, _ = start(tmp_path / "theirs")
    assert torch.allclose(
        predictions(tokens_alone).tokens, theirs.prediction_logits[inside], atol=1e-5
    )


def test_the_output_for_pairs_is_new_if_the_checkpoint_has_none(tmp_path):
    model = save(tmp_path / "theirs")
    task, report = start(tmp_path / "theirs", PAIRS)
    assert report == "head kept: loaded from the checkpoint except for the output layer of pairs"
    assert_same_predictions(task, model)


@pytest.mark.parametrize(
    ("name", "auto", "changes", "why"),
    [
        ("bert", AutoModel, {}, "the checkpoint has no head"),
        ("electra", AutoModelForMaskedLM, {}, "parameter names of electra heads are unknown"),
        (
            "roberta",
            AutoModelForMaskedLM,
            {"tie_word_embeddings": False},
            "the head in the checkpoint is not tied to the embeddings",
        ),
        (
            "bert",
            AutoModelForMaskedLM,
            {"hidden_act": "silu"},
            "the head in the checkpoint has the unknown activation silu",
        ),
    ],
)
def test_the_report_has_the_reason_for_a_new_head(tmp_path, name, auto, changes, why):
    save(tmp_path / "theirs", name, auto, changes=changes)
    task, report = start(tmp_path / "theirs")
    assert report == f"new head: {why}"
    assert task.head.is_new


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_eps": 1e-5}, r"norm_eps=1e-05, but .*norm_eps=1e-12; set head.norm_eps=1e-12$"),
        ({"activation": "relu"}, r"checkpoint has activation=gelu and .*set head.activation=gelu$"),
        (
            {"activation": "tanh", "norm_eps": 1e-6},
            r"set head.activation=gelu head.norm_eps=1e-12$",
        ),
    ],
)
def test_other_arguments_than_those_of_the_pretrained_head_raise(tmp_path, arguments, message):
    save(tmp_path / "theirs")
    with pytest.raises(ValueError, match=message):
        start(tmp_path / "theirs", **arguments)


def test_a_head_in_several_shards_is_loaded(tmp_path):
    model = save(tmp_path / "theirs", max_shard_size="6KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    assert_same_predictions(start(tmp_path / "theirs")[0], model)


def test_a_checkpoint_with_older_parameter_names_is_loaded(tmp_path):
    model = save(tmp_path / "theirs")
    path = tmp_path / "theirs/model.safetensors"
    old = {
        "cls.predictions.transform.LayerNorm.weight": "cls.predictions.transform.LayerNorm.gamma",
        "cls.predictions.transform.LayerNorm.bias": "cls.predictions.transform.LayerNorm.beta",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    }
    stored = {old.get(name, name): value for name, value in load_file(path).items()}
    assert set(old.values()) <= set(stored)
    save_file(stored, path, metadata={"format": "pt"})
    assert_same_predictions(start(tmp_path / "theirs")[0], model)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "6KB"}])
def test_the_head_of_a_hub_model_is_read_from_the_cache(tmp_path, monkeypatch, shards):
    model = save(tmp_path / "theirs", **shards)
    requested = []

    def cached_file(source, name, *, revision):
        requested.append((source, revision))
        if not (tmp_path / "theirs" / name).is_file():
            raise OSError(name)
        return str(tmp_path / "theirs" / name)

    def shard_files(source, index, *, revision):
        return sorted(map(str, (tmp_path / "theirs").glob("model-*.safetensors"))), {}

    monkeypatch.setattr(masked_lm, "cached_file", cached_file)
    monkeypatch.setattr(masked_lm, "get_checkpoint_shard_files", shard_files)
    found = read_masked_lm_head("me/model", model.config, revision="v1")
    assert torch.equal(found.state["bias"], model.cls.predictions.bias)
    assert set(requested) == {("me/model", "v1")}
    monkeypatch.setattr(masked_lm, "SAFE_WEIGHTS_NAME", "none")
    monkeypatch.setattr(masked_lm, "SAFE_WEIGHTS_INDEX_NAME", "none")
    assert read_masked_lm_head("me/model", model.config).missing_reason == (
        "the checkpoint has no head"
    )


def test_the_bias_of_a_pretrained_head_is_not_set_to_token_frequencies(tmp_path, tokenizer):
    module = data(tokenizer)
    size = len(tokenizer)
    model = save(tmp_path / "theirs", changes={"vocab_size": size})
    with torch.no_grad():
        model.cls.predictions.bias.zero_()
    model.save_pretrained(tmp_path / "theirs")
    task, _ = start(tmp_path / "theirs", Labels("masked_tokens"))
    make_trainer().validate(task, datamodule=module, verbose=False)
    assert not task.head.bias.any()
