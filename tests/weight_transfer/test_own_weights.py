"""Weights of a stage's own backbone: kept pretrained weights, and random ones."""

import copy

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BertModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.heads import DecoderHead, MLPHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer import WeightTransferSpec, transfer_weights
from tests.tiny import CONFIGS, HIDDEN
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ
from tests.weight_transfer.weights import make, rows, weights_of

TEXT = Labels("text")


def saved(whole, folder):
    """Save a model with noise on all weights, so that none of them is zero."""
    with torch.no_grad():
        for value in whole.state_dict().values():
            value.add_(torch.randn_like(value) * 0.1)
    whole.save_pretrained(folder)
    return folder


def save_seq2seq(name, folder):
    torch.manual_seed(3)
    return saved(AutoModelForSeq2SeqLM.from_config(copy.deepcopy(SEQ2SEQ[name])), folder)


def pretrained_head(backbone):
    """Return the state of a decoder head with the pretrained weights of a backbone."""
    head = make_head(DecoderHead, backbone, 0)
    head.load_lm_head(backbone.lm_head_state)
    return head.state_dict()


def transfer_to(backbone, start, parts):
    head = make_head(DecoderHead, backbone, 0)
    return head, transfer_weights(start, backbone, head, TEXT, spec=WeightTransferSpec.of(parts))


@pytest.mark.parametrize("name", ["bart", "bert2bert"])
@pytest.mark.parametrize("parts", [["encoder"], {"decoder": False, "head": False}])
def test_a_kept_pretrained_decoder_keeps_its_head(name, parts, tmp_path):
    own = Backbone.from_pretrained(save_seq2seq(name, tmp_path))
    other = make(name, seed=9)
    other_head = make_head(DecoderHead, other, 0)
    start = weights_of(other, head=other_head, labels=TEXT)
    head, report = transfer_to(own, start, parts)
    expected = pretrained_head(own)
    assert expected
    assert all(torch.equal(value, expected[key]) for key, value in head.state_dict().items())
    assert any(value.any() for value in expected.values())
    assert (report.parts[-1].part, report.parts[-1].status) == ("head", "kept")
    assert str(report) == "head kept: not requested"


def test_an_encoder_transfer_keeps_the_head_of_a_pretrained_decoder(tmp_path):
    torch.manual_seed(0)
    folder = saved(AutoModelForMaskedLM.from_config(CONFIGS["bert"]), tmp_path)
    own = Backbone.warm_start(folder, folder)
    head, report = transfer_to(own, weights_of(make("bert", seed=9)), None)
    assert all(torch.equal(v, pretrained_head(own)[k]) for k, v in head.state_dict().items())
    assert report.parts[-1].status == "kept"


def test_a_head_is_reinitialised_with_a_transferred_decoder(tmp_path):
    own = Backbone.from_pretrained(save_seq2seq("bart", tmp_path))
    other = make("bart", seed=9)
    start = weights_of(other, head=make_head(DecoderHead, other, 0), labels=TEXT)
    head, report = transfer_to(own, start, ["backbone"])
    assert not head.bias.any()
    assert report.parts[-1].status == "reinitialised"


def test_a_pretrained_pooler_is_used_only_with_its_encoder(tmp_path):
    torch.manual_seed(0)
    own = Backbone.from_pretrained(saved(BertModel(CONFIGS["bert"]), tmp_path))
    start, head = weights_of(make("bert", seed=9)), MLPHead(HIDDEN, 1)
    transfer_weights(
        start, own, head, Labels("regression"), spec=WeightTransferSpec.of(["embeddings"])
    )
    assert torch.equal(head.dense.weight, own.pooler_state["weight"])
    other = MLPHead(HIDDEN, 1)
    transfer_weights(
        start, own, other, Labels("regression"), spec=WeightTransferSpec.of(["encoder"])
    )
    assert not torch.equal(other.dense.weight, own.pooler_state["weight"])


@pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
def test_a_backbone_from_a_config_is_random(name):
    config = config_to_dict(make(name).config)
    for part in (config, config.get("encoder", {}), config.get("decoder", {})):
        part["_name_or_path"] = "a/pretrained-one"  # the source of the sizes, not of the weights
    backbone = Backbone.from_config(config)
    head = torch.nn.Linear(backbone.hidden_size, 1)
    report = transfer_weights(None, backbone, head, Labels("regression"))
    assert {status for _, status in rows(report)} == {"reinitialised"}
    sizes = [part.parameters for part in report.parts if part.part != "head"]
    assert sum(sizes) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("name", ["t5", "umt5", "bart", "marian-apart", "bert2bert-wider"])
def test_a_pretrained_backbone_is_kept(name, tmp_path):
    backbone = Backbone.from_pretrained(save_seq2seq(name, tmp_path))
    assert not backbone.newly_initialized
    head = make_head(DecoderHead, backbone, 0)
    report = transfer_weights(None, backbone, head, TEXT)
    assert {part.status for part in report.parts} == {"kept"}


def test_a_warm_start_has_new_cross_attention_and_a_new_head(tmp_path):
    folder = saved(BertModel(CONFIGS["bert"]), tmp_path)
    backbone = Backbone.warm_start(folder, folder)
    report = transfer_weights(None, backbone, make_head(DecoderHead, backbone, 0), TEXT)
    assert [status for part, status in rows(report) if part == "decoder"] == [
        "kept",
        "reinitialised",
    ]
    state = backbone.model.state_dict()
    cross = sum(v.numel() for k, v in state.items() if "crossattention" in k)
    sizes = {p.status: p.parameters for p in report.parts if p.part == "decoder"}
    assert sizes["reinitialised"] == cross
    assert report.parts[-1].status == "reinitialised"
    fresh = Backbone.warm_start(folder, CONFIGS["bert"].to_dict())
    assert dict(
        rows(transfer_weights(None, fresh, torch.nn.Linear(HIDDEN, 1), Labels("regression")))
    ) == {
        "encoder token embeddings": "kept",
        "decoder token embeddings": "reinitialised",
        "encoder positions": "kept",
        "encoder": "kept",
        "decoder positions": "reinitialised",
        "decoder": "reinitialised",
    }


def test_a_passed_model_is_pretrained_if_its_config_names_a_source(tmp_path):
    saved(BertModel(CONFIGS["bert"]), tmp_path)
    for model, status in (
        (BertModel(copy.deepcopy(CONFIGS["bert"])), "reinitialised"),
        (BertModel.from_pretrained(tmp_path), "kept"),
    ):
        report = transfer_weights(
            None, Backbone(model), torch.nn.Linear(HIDDEN, 1), Labels("regression")
        )
        assert {value for _, value in rows(report)} == {status}
