"""Backbones: layers by depth, partial forward passes, and loading of pretrained models."""

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import BertModel

from lightning_transfer import assets
from lightning_transfer.backbones import Backbone
from lightning_transfer.utils.checkpoint_format import config_to_dict
from tests.conftest import tiny_config
from tests.tiny import CONFIGS, HIDDEN, make_backbone, make_inputs

ARCHITECTURES = list(CONFIGS)
DEPTHS = range(4)  # embeddings and three layers
GENERATOR = torch.Generator().manual_seed(0)
architectures = pytest.mark.parametrize("name", ARCHITECTURES)


def full_pass(backbone, ids, mask):
    """Return the features and the hidden states of all depths, recorded by hooks on the layers."""
    states = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for layer in backbone.layers[1:]
    ]
    # The output of the last layer equals the features, except in models with a final norm.
    hooks.append(
        backbone.layers[-1].register_forward_hook(
            lambda _, args, output: states.append(output if torch.is_tensor(output) else output[0])
        )
    )
    features = backbone(ids, mask)
    for hook in hooks:
        hook.remove()
    return features, states


@architectures
@pytest.mark.parametrize("masked", [True, False])
def test_partial_forward_from_every_depth_equals_the_full_pass_exactly(name, masked):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    mask = mask if masked else None
    features, states = full_pass(backbone, ids, mask)
    assert len(states) == len(backbone.layers) == len(DEPTHS)
    for depth, hidden in enumerate(states):
        part = backbone(ids, mask, from_depth=depth, hidden=hidden.detach())
        assert torch.equal(part, features), depth


@architectures
def test_gradients_of_a_partial_forward_equal_those_of_the_full_pass(name):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    for depth in DEPTHS:
        above = [p for layer in backbone.layers[depth + 1 :] for p in layer.parameters()]
        features, states = full_pass(backbone, ids, mask)
        whole = torch.autograd.grad(
            features.pow(2).sum(), [states[depth], *above], allow_unused=True
        )
        hidden = states[depth].detach().requires_grad_()
        features = backbone(ids, mask, from_depth=depth, hidden=hidden)
        part = torch.autograd.grad(features.pow(2).sum(), [hidden, *above], allow_unused=True)
        for one, other in zip(whole, part, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                scale = max(1.0, one.abs().max().item())
                assert (one - other).abs().max().item() <= 1e-6 * scale


@architectures
def test_hidden_states_depend_on_no_parameter_above_their_depth(name):
    """Otherwise stored activations of a frozen prefix would be outdated after a training step."""
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    _, states = full_pass(backbone, ids, mask)
    names = {id(p): n for n, p in backbone.named_parameters()}
    for depth, hidden in enumerate(states):
        hidden.pow(2).sum().backward(retain_graph=True)
        with_gradient = {id(p) for p in backbone.parameters() if p.grad is not None}
        below = {id(p) for layer in backbone.layers[: depth + 1] for p in layer.parameters()}
        assert {names[i] for i in with_gradient - below} == set(), depth
        backbone.zero_grad()


def test_partial_forward_restores_the_model():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    features, states = full_pass(backbone, ids, mask)
    with pytest.raises(RuntimeError):
        backbone(ids, mask, from_depth=1, hidden=torch.ones(1, 1, 3))
    backbone(ids, mask, from_depth=2, hidden=states[2])
    assert not any("forward" in vars(module) for module in backbone.modules())
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert torch.equal(backbone(ids, mask), features)


def test_the_first_partial_forward_draws_no_random_number_and_changes_no_mode():
    backbone = make_backbone("bert")
    backbone.layers[1].eval()
    modes = [module.training for module in backbone.modules()]
    random_state = torch.get_rng_state()
    backbone(*make_inputs(), from_depth=3, hidden=torch.randn(3, 7, HIDDEN, generator=GENERATOR))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in backbone.modules()] == modes


def test_partial_forward_runs_only_the_layers_above():
    backbone = make_backbone("bert")
    ids, mask = make_inputs()
    hidden = torch.randn(*ids.shape, HIDDEN)
    backbone(ids, mask, from_depth=2, hidden=hidden).sum().backward()
    with_gradient = [any(p.grad is not None for p in m.parameters()) for m in backbone.layers]
    assert with_gradient == [False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"from_depth": 2}, "from_depth=2 needs hidden"),
        ({"from_depth": 4, "hidden": torch.ones(3, 7, HIDDEN)}, r"in 0..3, got 4"),
        ({"from_depth": -1, "hidden": torch.ones(3, 7, HIDDEN)}, r"in 0..3, got -1"),
    ],
)
def test_an_invalid_depth_of_a_partial_forward_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("bert")(*make_inputs(), **arguments)


@architectures
def test_layers_are_in_forward_order(name):
    backbone = make_backbone(name)
    order = []
    for depth, layer in enumerate(backbone.layers):
        first = next(m for m in layer.modules() if not isinstance(m, nn.ModuleList))
        first.register_forward_hook(lambda *_, depth=depth: order.append(depth))
    backbone(*make_inputs())
    assert order == list(DEPTHS)
    assert backbone.hidden_size == HIDDEN


@architectures
def test_every_weight_matrix_is_in_a_layer(name):
    """Freezing and layer decay address parameters by depth; only a final norm has none."""
    backbone = make_backbone(name)
    inside = {id(p) for layer in backbone.layers for p in layer.parameters()}
    outside = [n for n, p in backbone.named_parameters() if id(p) not in inside]
    assert outside == (["model.final_norm.weight"] if name == "modernbert" else [])


def test_token_types_reach_the_embeddings():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    plain, zeros, ones = (
        backbone(ids, mask, token_type_ids=types)
        for types in (None, torch.zeros_like(ids), torch.ones_like(ids))
    )
    assert torch.equal(plain, zeros)
    assert (plain - ones).abs().max() > 0.1


def test_a_pretrained_model_is_in_train_mode_with_its_dropout(tiny_folder):
    backbone = Backbone.from_pretrained(tiny_folder)
    assert all(module.training for module in backbone.modules())
    torch.manual_seed(0)
    ids, mask = make_inputs()
    assert not torch.equal(backbone(ids, mask), backbone(ids, mask))
    backbone.eval()
    assert torch.equal(backbone(ids, mask), backbone(ids, mask))


@architectures
def test_every_dropout_is_set(name, tmp_path):
    make_backbone(name).model.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(tmp_path, dropout=0.0)
    assert backbone.training
    ids, mask = make_inputs()
    assert torch.equal(backbone(ids, mask), backbone(ids, mask))


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5])
def test_a_dropout_out_of_range_raises(tiny_folder, dropout):
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {dropout}; set backbone.dropout=0.1"):
        Backbone.from_pretrained(tiny_folder, dropout=dropout)


def test_pretrained_weights_are_those_of_the_folder(tiny_folder, tiny_bert):
    backbone = Backbone.from_pretrained(str(tiny_folder)).eval()
    ids, mask = make_inputs()
    expected = tiny_bert.eval()(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(backbone(ids, mask), expected)


@pytest.mark.parametrize(("name", "path"), [("bert", "pooler.dense"), ("mpnet", "pooler.dense")])
def test_the_pooler_is_removed_and_stored_for_a_head(name, path):
    torch.manual_seed(0)
    model = Backbone.from_config(CONFIGS[name]).model
    model = type(model)(CONFIGS[name])  # with its pooler
    weight = model.get_submodule(path).weight.detach().clone()
    backbone = Backbone(model)
    assert not [n for n, _ in backbone.named_parameters() if "pooler" in n]
    assert torch.equal(backbone.pooler_state["weight"], weight)
    assert backbone.pooler_state["bias"].shape == (HIDDEN,)


def test_a_model_without_a_pooler_has_no_pooler_state():
    assert make_backbone("distilbert").pooler_state is None


def test_every_parameter_of_a_loss_gets_a_gradient():
    for name in ARCHITECTURES:
        backbone = make_backbone(name)
        backbone(*make_inputs()).pow(2).sum().backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == [], name


def test_pickled_weights_raise(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(
        OSError, match=r"has no model.safetensors \(config.json, pytorch_model.bin, .*save_pretr"
    ):
        Backbone.from_pretrained(folder)


def test_safetensors_are_preferred_to_pickled_weights(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert Backbone.from_pretrained(folder).hidden_size == HIDDEN


def test_sharded_weights_are_read(tiny_bert, tmp_path):
    tiny_bert.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    backbone = Backbone.from_pretrained(tmp_path)
    assert torch.equal(
        backbone.model.embeddings.word_embeddings.weight,
        tiny_bert.embeddings.word_embeddings.weight,
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/no-such-model", "a/b/c"])
def test_a_missing_folder_raises(name):
    with pytest.raises(FileNotFoundError, match=f"no model folder at {name}; a model is asset:"):
        Backbone.from_pretrained(name)


def test_an_asset_is_fetched(tiny_folder, monkeypatch):
    fetched = []
    monkeypatch.setattr(assets, "fetch", lambda name: fetched.append(name) or tiny_folder)
    assert Backbone.from_pretrained("asset:minilm").hidden_size == HIDDEN
    assert fetched == ["minilm"]


def test_remote_code_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    config = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="trust_remote_code"):
        Backbone.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


@architectures
def test_a_config_in_json_builds_the_same_model(name):
    config = json.loads(json.dumps(config_to_dict(make_backbone(name).config)))
    rebuilt = Backbone.from_config(config).eval()
    original = make_backbone(name, seed=1).eval()
    rebuilt.load_state_dict(original.state_dict())
    ids, mask = make_inputs()
    assert torch.equal(rebuilt(ids, mask), original(ids, mask))


@pytest.mark.parametrize("config", [{}, {"model_type": "no-such-model"}])
def test_a_config_of_an_unknown_model_raises(config):
    with pytest.raises(ValueError, match=config.get("model_type", "None")):
        Backbone.from_config(config)


def test_dtype_and_attention_implementation_are_arguments(tiny_folder):
    plain = Backbone.from_pretrained(tiny_folder)
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    other = Backbone.from_pretrained(tiny_folder, dtype="bfloat16", attn_implementation="eager")
    assert {p.dtype for p in other.parameters()} == {torch.bfloat16}
    assert other.config._attn_implementation == "eager"
    built = Backbone.from_config(tiny_config(), dtype="float64", attn_implementation="eager")
    assert {p.dtype for p in built.parameters()} == {torch.float64}
    assert built.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "tokens"), [("bert", 40), ("roberta", 38), ("deberta-v2", None), ("modernbert", None)]
)
def test_max_tokens_is_the_size_of_the_position_table(name, tokens):
    backbone = make_backbone(name)
    assert backbone.max_tokens == tokens
    if tokens is not None:
        backbone(torch.full((1, tokens), 5))
        with pytest.raises(ValueError, match=f"at most {tokens}"):
            backbone(torch.full((1, tokens + 1), 5))


def test_texts_longer_than_the_position_table_raise(tiny_bert):
    backbone = Backbone(tiny_bert).eval()
    ids = torch.full((1, 33), 7)
    assert backbone(ids[:, :32]).shape == (1, 32, 16)
    with pytest.raises(
        ValueError, match=r"33 tokens per text, .* at most 32; set data.tokens.max_length=32$"
    ):
        backbone(ids)
