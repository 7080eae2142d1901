"""What a stage's own backbone came with: what stays of it, and what of it is random."""

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
    """A folder of a model none of whose weights are zero."""
    with torch.no_grad():
        for value in whole.state_dict().values():
            value.add_(torch.randn_like(value) * 0.1)
    whole.save_pretrained(folder)
    return folder


def writer(name, folder):
    torch.manual_seed(3)
    return saved(AutoModelForSeq2SeqLM.from_config(copy.deepcopy(SEQ2SEQ[name])), folder)


def begun(backbone):
    """The head of a decoder as the backbone came with it."""
    head = make_head(DecoderHead, backbone, 0)
    head.load_lm_head(backbone.lm_head_state)
    return head.state_dict()


def hand_to(backbone, start, parts):
    head = make_head(DecoderHead, backbone, 0)
    return head, transfer_weights(start, backbone, head, TEXT, spec=WeightTransferSpec.of(parts))


@pytest.mark.parametrize("name", ["bart", "bert2bert"])
@pytest.mark.parametrize("parts", [["encoder"], {"decoder": False, "head": False}])
def test_a_pretrained_decoder_that_stays_keeps_its_own_head(name, parts, tmp_path):
    own = Backbone.from_pretrained(writer(name, tmp_path))
    other = make(name, seed=9)
    other_head = make_head(DecoderHead, other, 0)
    start = weights_of(other, head=other_head, labels=TEXT)
    head, handed = hand_to(own, start, parts)
    expected = begun(own)
    assert expected
    assert all(torch.equal(value, expected[key]) for key, value in head.state_dict().items())
    assert any(value.any() for value in expected.values())
    assert (handed.parts[-1].part, handed.parts[-1].status) == ("head", "kept")
    assert str(handed) == "head kept: not asked for"


def test_an_encoder_below_a_pretrained_decoder_leaves_its_head_alone(tmp_path):
    torch.manual_seed(0)
    folder = saved(AutoModelForMaskedLM.from_config(CONFIGS["bert"]), tmp_path)
    own = Backbone.warm_start(folder, folder)
    head, handed = hand_to(own, weights_of(make("bert", seed=9)), None)
    assert all(torch.equal(v, begun(own)[k]) for k, v in head.state_dict().items())
    assert handed.parts[-1].status == "kept"


def test_a_head_does_not_stay_above_a_decoder_that_goes(tmp_path):
    own = Backbone.from_pretrained(writer("bart", tmp_path))
    other = make("bart", seed=9)
    start = weights_of(other, head=make_head(DecoderHead, other, 0), labels=TEXT)
    head, handed = hand_to(own, start, ["backbone"])
    assert not head.bias.any()
    assert handed.parts[-1].status == "reinitialised"


def test_a_pooler_stays_with_its_encoder(tmp_path):
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
def test_a_backbone_that_is_built_from_a_config_is_random(name):
    config = config_to_dict(make(name).config)
    for part in (config, config.get("encoder", {}), config.get("decoder", {})):
        part["_name_or_path"] = "a/pretrained-one"  # where the sizes are from, not the weights
    backbone = Backbone.from_config(config)
    head = torch.nn.Linear(backbone.hidden_size, 1)
    handed = transfer_weights(None, backbone, head, Labels("regression"))
    assert {became for _, became in rows(handed)} == {"reinitialised"}
    sizes = [part.parameters for part in handed.parts if part.part != "head"]
    assert sum(sizes) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("name", ["t5", "umt5", "bart", "marian-apart", "bert2bert-wider"])
def test_a_pretrained_one_is_kept(name, tmp_path):
    backbone = Backbone.from_pretrained(writer(name, tmp_path))
    assert not backbone.fresh
    head = make_head(DecoderHead, backbone, 0)
    handed = transfer_weights(None, backbone, head, TEXT)
    assert {part.status for part in handed.parts} == {"kept"}


def test_a_decoder_from_an_encoder_has_new_cross_attention_and_a_new_head(tmp_path):
    folder = saved(BertModel(CONFIGS["bert"]), tmp_path)
    backbone = Backbone.warm_start(folder, folder)
    handed = transfer_weights(None, backbone, make_head(DecoderHead, backbone, 0), TEXT)
    assert [became for part, became in rows(handed) if part == "decoder"] == [
        "kept",
        "reinitialised",
    ]
    state = backbone.model.state_dict()
    cross = sum(v.numel() for k, v in state.items() if "crossattention" in k)
    sizes = {p.status: p.parameters for p in handed.parts if p.part == "decoder"}
    assert sizes["reinitialised"] == cross
    assert handed.parts[-1].status == "reinitialised"
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


def test_a_model_that_is_passed_in_is_pretrained_if_its_config_says_from_where(tmp_path):
    saved(BertModel(CONFIGS["bert"]), tmp_path)
    for model, became in (
        (BertModel(copy.deepcopy(CONFIGS["bert"])), "reinitialised"),
        (BertModel.from_pretrained(tmp_path), "kept"),
    ):
        handed = transfer_weights(
            None, Backbone(model), torch.nn.Linear(HIDDEN, 1), Labels("regression")
        )
        assert {value for _, value in rows(handed)} == {became}
