"""A head that guesses masked tokens lives on when its model becomes a backbone."""

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


def lively(model):
    """Give a model weights that none of its parts begins with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(folder, name="bert", auto=AutoModelForMaskedLM, **options):
    config = type(CONFIGS[name]).from_dict(
        {**CONFIGS[name].to_dict(), **options.pop("changes", {})}
    )
    model = lively(auto.from_config(config))
    model.save_pretrained(folder, **options)
    return model


def begin(folder, labels=TOKENS, **arguments):
    """Build a task over a pretrained backbone; return it and what is said of its parts."""
    backbone = Backbone.from_pretrained(folder)
    arguments.setdefault("norm_eps", backbone.masked_lm.norm_eps or 1e-12)
    head = make_head(partial(LanguageModelHead, **arguments), backbone, labels.num_outputs)
    handed = transfer_weights(None, backbone, head, labels)
    return MaskedLanguageModelling(backbone, head, labels=labels).eval(), str(handed)


def guesses(task):
    ids, mask = make_inputs()
    with torch.no_grad():
        return task({"input_ids": ids, "attention_mask": mask})


def their_guesses(model):
    ids, mask = make_inputs()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask), mask.bool()


def assert_guesses_as(task, model):
    theirs, inside = their_guesses(model)
    assert torch.allclose(guesses(task).tokens, theirs.logits[inside], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_guesses_are_those_of_the_checkpoint_before_any_training(tmp_path, name):
    model = save(tmp_path / "theirs", name)
    task, said = begin(tmp_path / "theirs")
    assert said == "head kept: that of the checkpoint"
    assert_guesses_as(task, model)
    assert export(task, make_tokenizer(), tmp_path / "ours")
    assert torch.equal(guesses(load(tmp_path / "ours").task).tokens, guesses(task).tokens)
    again, _ = begin(tmp_path / "ours")  # a folder of our own is a checkpoint like any other
    assert_guesses_as(again, model)


def test_berts_judgement_of_pairs_lives_on_too(tmp_path):
    model = save(tmp_path / "theirs", auto=AutoModelForPreTraining)
    task, said = begin(tmp_path / "theirs", PAIRS)
    theirs, inside = their_guesses(model)
    assert said == "head kept: that of the checkpoint"
    assert torch.allclose(guesses(task).tokens, theirs.prediction_logits[inside], atol=1e-5)
    assert torch.allclose(guesses(task).pairs, theirs.seq_relationship_logits, atol=1e-5)
    assert export(task, make_tokenizer(), tmp_path / "ours")
    again, _ = begin(tmp_path / "ours", PAIRS)
    assert torch.allclose(guesses(again).pairs, theirs.seq_relationship_logits, atol=1e-5)
    tokens_alone, _ = begin(tmp_path / "theirs")
    assert torch.allclose(guesses(tokens_alone).tokens, theirs.prediction_logits[inside], atol=1e-5)


def test_what_judges_pairs_is_new_where_the_checkpoint_has_none(tmp_path):
    model = save(tmp_path / "theirs")
    task, said = begin(tmp_path / "theirs", PAIRS)
    assert said == "head kept: that of the checkpoint, but new for pairs"
    assert_guesses_as(task, model)


@pytest.mark.parametrize(
    ("name", "auto", "changes", "why"),
    [
        ("bert", AutoModel, {}, "the checkpoint holds none"),
        ("electra", AutoModelForMaskedLM, {}, "it is not known where a electra keeps one"),
        (
            "roberta",
            AutoModelForMaskedLM,
            {"tie_word_embeddings": False},
            "that of the checkpoint is not tied to the embeddings",
        ),
        (
            "bert",
            AutoModelForMaskedLM,
            {"hidden_act": "silu"},
            "that of the checkpoint has the activation silu",
        ),
    ],
)
def test_a_head_that_begins_anew_says_why(tmp_path, name, auto, changes, why):
    save(tmp_path / "theirs", name, auto, changes=changes)
    task, said = begin(tmp_path / "theirs")
    assert said == f"new head: {why}"
    assert task.head.is_new


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_eps": 1e-5}, r"norm_eps=1e-12, and this one .*1e-05; set head.norm_eps=1e-12$"),
        ({"activation": "relu"}, r"has activation=gelu and .*set head.activation=gelu$"),
        (
            {"activation": "tanh", "norm_eps": 1e-6},
            r"set head.activation=gelu and head.norm_eps=1e-12$",
        ),
    ],
)
def test_a_head_that_would_compute_something_else_is_an_error(tmp_path, arguments, message):
    save(tmp_path / "theirs")
    with pytest.raises(ValueError, match=message):
        begin(tmp_path / "theirs", **arguments)


def test_a_checkpoint_in_shards_is_read_whole(tmp_path):
    model = save(tmp_path / "theirs", max_shard_size="6KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    assert_guesses_as(begin(tmp_path / "theirs")[0], model)


def test_the_names_of_older_checkpoints_are_known(tmp_path):
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
    assert_guesses_as(begin(tmp_path / "theirs")[0], model)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "6KB"}])
def test_a_hub_model_is_read_from_where_transformers_keeps_it(tmp_path, monkeypatch, shards):
    model = save(tmp_path / "theirs", **shards)
    asked = []

    def cached_file(source, name, *, revision):
        asked.append((source, revision))
        if not (tmp_path / "theirs" / name).is_file():
            raise OSError(name)
        return str(tmp_path / "theirs" / name)

    def shard_files(source, index, *, revision):
        return sorted(map(str, (tmp_path / "theirs").glob("model-*.safetensors"))), {}

    monkeypatch.setattr(masked_lm, "cached_file", cached_file)
    monkeypatch.setattr(masked_lm, "get_checkpoint_shard_files", shard_files)
    found = read_masked_lm_head("me/model", model.config, revision="v1")
    assert torch.equal(found.state["bias"], model.cls.predictions.bias)
    assert set(asked) == {("me/model", "v1")}
    monkeypatch.setattr(masked_lm, "SAFE_WEIGHTS_NAME", "none")
    monkeypatch.setattr(masked_lm, "SAFE_WEIGHTS_INDEX_NAME", "none")
    assert read_masked_lm_head("me/model", model.config).lacks == "the checkpoint holds none"


def test_a_pretrained_head_does_not_begin_with_the_frequencies_of_the_tokens(tmp_path, tokenizer):
    module = data(tokenizer)
    size = len(tokenizer)
    model = save(tmp_path / "theirs", changes={"vocab_size": size})
    with torch.no_grad():
        model.cls.predictions.bias.zero_()
    model.save_pretrained(tmp_path / "theirs")
    task, _ = begin(tmp_path / "theirs", Labels("masked_tokens"))
    make_trainer().validate(task, datamodule=module, verbose=False)
    assert not task.head.bias.any()
