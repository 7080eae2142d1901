"""Loading of pretrained models: sources, dtypes and dropout."""

import pytest
import torch
from transformers import AutoModel, PretrainedConfig

from lightning_transfer.backbones.pretrained import (
    auto_class,
    parse_dtype,
    resolve_source,
    set_dropout,
)
from tests.tiny import CONFIGS
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_model


def test_a_hub_id_is_unchanged_and_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert resolve_source("bert-base-uncased") == "bert-base-uncased"
    assert resolve_source("me/model") == "me/model"
    assert resolve_source("~/mine") == str(tmp_path / "mine")


def test_a_config_without_dropout_raises():
    with pytest.raises(
        ValueError, match=r"PreTrainedConfig has no known dropout; set backbone.dropout=null"
    ):
        set_dropout(PretrainedConfig(), 0.1)


@pytest.mark.parametrize("dtype", ["int8", "float31", "nn"])
def test_a_dtype_without_floating_point_raises(dtype):
    with pytest.raises(
        ValueError, match=f"backbone.dtype must be one of float32, .* got '{dtype}'"
    ):
        parse_dtype(dtype)


@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_dropout_is_set_in_encoder_and_decoder(name):
    backbone, batch = make_model(name)
    set_dropout(backbone.config, 0.0)
    model = auto_class(backbone.config).from_config(backbone.config).train()
    torch.manual_seed(0)
    first, second = (model(**batch)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_encoder_decoders_are_loaded_with_their_head():
    bare = {
        name for name, config in {**CONFIGS, **SEQ2SEQ}.items() if auto_class(config) is AutoModel
    }
    assert {*CONFIGS, *SEQ2SEQ} - bare == set(SEQ2SEQ)
