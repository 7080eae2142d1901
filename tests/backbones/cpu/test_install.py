"""Models with the optimised CPU code of dropout and attention."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoModel

from lightning_transfer.adapters import LoRA, PrefixTuning
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.cpu import FastDropout, install, uses_attention_interface
from lightning_transfer.backbones.cpu import attention as attention_module
from tests.tiny import CONFIGS, make_backbone, make_inputs

WITH_INTERFACE = ("bert", "roberta", "distilbert", "electra", "modernbert")
architectures = pytest.mark.parametrize("name", list(CONFIGS))


def plain(name):
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIGS[name])


@pytest.fixture
def calls(monkeypatch):
    """Return a list of the calls of our attention, filled during the test."""
    seen = []
    apply = attention_module._Attention.apply
    monkeypatch.setattr(
        attention_module._Attention, "apply", lambda *a: seen.append(a[0].dtype) or apply(*a)
    )
    return seen


@architectures
def test_names_config_and_output_in_eval_mode_do_not_change(name):
    model = plain(name)
    changed = copy.deepcopy(model)
    install(changed)
    assert list(changed.state_dict()) == list(model.state_dict())
    assert changed.config.to_json_string(use_diff=False) == model.config.to_json_string(
        use_diff=False
    )
    assert changed.config._attn_implementation == model.config._attn_implementation
    ids, mask = make_inputs()
    for given in (mask, None):
        one, other = (m.eval()(ids, attention_mask=given)[0] for m in (model, changed))
        assert torch.equal(one, other)


@architectures
def test_every_dropout_is_replaced(name):
    backbone = make_backbone(name)
    found = [m for m in backbone.modules() if isinstance(m, nn.Dropout)]
    assert found
    assert all(type(m) is FastDropout for m in found)


@pytest.mark.parametrize("name", WITH_INTERFACE)
def test_our_attention_is_called_in_train_mode_only(name, calls):
    changes = {"attention_dropout": 0.1} if name == "modernbert" else {}
    backbone = make_backbone(name, **changes)
    ids, mask = make_inputs()
    backbone(ids, mask).sum().backward()
    assert len(calls) == 3
    backbone.eval()(ids, mask)
    assert len(calls) == 3


@pytest.mark.parametrize("name", WITH_INTERFACE)
def test_outputs_and_gradients_equal_those_of_eager_attention(name, monkeypatch):
    """No weight is dropped, so only the arithmetic can differ."""
    monkeypatch.setattr(
        attention_module, "keep_mask", lambda shape, p: torch.full(shape, 1, dtype=torch.uint8)
    )
    monkeypatch.setattr(attention_module, "rounded", lambda p: 1e-12)  # scale 1, but no 0
    backbone = make_backbone(name)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = copy.deepcopy(backbone.model)
    model.set_attn_implementation("eager")
    for module in model.modules():
        if uses_attention_interface(module):
            module.config = model.config
    ids, mask = make_inputs()
    grads = []
    for one in (backbone.model, model):
        out = one(ids, attention_mask=mask)[0]
        parameters = [p for n, p in one.named_parameters() if "pooler" not in n]
        grads.append([out, *torch.autograd.grad((out * mask[..., None]).pow(2).sum(), parameters)])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_eager_attention_is_not_replaced(calls):
    config = CONFIGS["bert"]
    backbone = Backbone.from_config(config, attn_implementation="eager")
    backbone(*make_inputs()).sum().backward()
    assert calls == []


def test_a_seed_reproduces_a_training_step():
    backbone = make_backbone("bert")
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(backbone(*make_inputs()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_our_attention_is_called_under_autocast(calls):
    backbone = make_backbone("bert")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = backbone(*make_inputs())
    out.float().sum().backward()
    assert calls == [torch.bfloat16] * 3
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("adapter", [LoRA(target_modules="all-linear"), PrefixTuning(length=3)])
def test_our_attention_is_called_with_adapters(adapter, calls):
    backbone = make_backbone("bert")
    adapter.apply(backbone)
    backbone.train()
    backbone(*make_inputs()).sum().backward()
    assert len(calls) == 3
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())


def test_saved_weights_are_loaded_by_plain_transformers(tmp_path):
    backbone = make_backbone("bert")
    backbone.model.save_pretrained(tmp_path)
    assert "lightning_transfer" not in (tmp_path / "config.json").read_text()
    model = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    ids, mask = make_inputs()
    ours = backbone.eval()(ids, mask)
    assert torch.equal(model.eval()(ids, attention_mask=mask)[0], ours)


def test_unpickling_a_backbone_registers_our_attention(monkeypatch, calls):
    content = pickle.dumps(make_backbone("bert"))
    monkeypatch.delitem(AttentionInterface._global_mapping, attention_module.SDPA_DROPOUT)
    pickle.loads(content)(*make_inputs())
    assert len(calls) == 3


def test_other_dropout_classes_are_not_replaced():
    class Mine(nn.Dropout):
        pass

    model = nn.Sequential(Mine(0.1), nn.Dropout2d(0.1))
    install(model)
    assert [type(m) for m in model] == [Mine, nn.Dropout2d]
