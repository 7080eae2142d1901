"""Top layer that computes only the first token."""

import copy

import pytest
import torch
from torch import nn

from lightning_transfer.adapters import IA3, Bottleneck, LoRA, PrefixTuning
from lightning_transfer.backbones.cpu import first_token as first_token_module
from lightning_transfer.backbones.cpu import first_token_only
from tests.tiny import CONFIGS, HIDDEN, make_backbone, make_inputs

ARCHITECTURES = list(CONFIGS)
SHORT = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "layoutlm")
architectures = pytest.mark.parametrize("name", ARCHITECTURES)
short = pytest.mark.parametrize("name", SHORT)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def widths(backbone, run):
    """Return the number of tokens per text in the feed-forward part of the top layer."""
    seen = []
    top = backbone.layers[-1]
    parts = dict(top.named_modules())
    part = next(parts[n] for n in ("intermediate", "ffn.lin1", "mlp") if n in parts)
    hook = part.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    run()
    hook.remove()
    return seen


@architectures
@pytest.mark.parametrize("masked", [True, False])
def test_the_output_equals_the_first_token_of_the_full_pass(name, masked):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    mask = mask if masked else None
    full = backbone(ids, mask)[:, :1]
    for _ in range(2):  # the first pass computes the full layer as well
        first = backbone(ids, mask, first_token=True)
        assert first.shape == (3, 1, HIDDEN)
        close(first, full)


@architectures
def test_gradients_equal_those_of_the_full_pass(name):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    parameters = list(backbone.parameters())
    whole = torch.autograd.grad(
        backbone(ids, mask)[:, 0].pow(2).sum(), parameters, allow_unused=True
    )
    part = torch.autograd.grad(
        backbone(ids, mask, first_token=True).pow(2).sum(), parameters, allow_unused=True
    )
    for one, other in zip(part, whole, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            scale = max(1.0, other.abs().max().item())
            assert (one - other).abs().max().item() <= 1e-5 * scale


@architectures
def test_a_known_top_layer_computes_one_token(name):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    backbone(ids, mask, first_token=True)
    seen = widths(backbone, lambda: backbone(ids, mask, first_token=True))
    assert seen == [1 if name in SHORT else ids.shape[1]]
    assert widths(backbone, lambda: backbone(ids, mask)) == [ids.shape[1]]


@short
def test_dropout_is_on_in_train_mode_and_every_parameter_gets_a_gradient(name):
    backbone = make_backbone(name)
    torch.manual_seed(0)
    ids, mask = make_inputs()
    one, other = (backbone(ids, mask, first_token=True) for _ in range(2))
    assert not torch.equal(one, other)
    one.pow(2).sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@short
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_partial_forward_from_every_depth_to_the_first_token(name, attention):
    backbone = make_backbone(name)
    backbone = type(backbone).from_config(backbone.config, attn_implementation=attention).eval()
    ids, mask = make_inputs()
    states = backbone.hidden_states_at(range(4), ids, mask)
    full = backbone(ids, mask)[:, :1]
    for depth, hidden in states.items():
        close(backbone(ids, mask, from_depth=depth, hidden=hidden, first_token=True), full)
    alone = backbone(ids, mask, from_depth=3, hidden=states[3][:, :1], first_token=True)
    assert torch.equal(alone, states[3][:, :1])


@pytest.mark.parametrize(
    "adapter",
    [LoRA(target_modules="all-linear"), IA3(), Bottleneck(size=4), PrefixTuning(length=3)],
    ids=lambda adapter: type(adapter).__name__,
)
@pytest.mark.parametrize("name", ["bert", "distilbert"])
@pytest.mark.parametrize("before", [True, False])
def test_adapters_are_computed_for_one_token(adapter, name, before):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    if before:
        backbone(ids, mask, first_token=True)
    adapter.apply(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    backbone.eval()
    close(backbone(ids, mask, first_token=True), backbone(ids, mask)[:, :1])
    seen = widths(backbone, lambda: backbone(ids, mask, first_token=True))
    assert seen == [1]


@pytest.mark.parametrize("path", ["", "attention", "attention.self"])
def test_a_hook_on_an_inner_module_gets_all_tokens(path):
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    seen = []
    module = backbone.layers[-1].get_submodule(path)
    module.register_forward_hook(
        lambda _, args, out: seen.append((out if torch.is_tensor(out) else out[0]).shape[1])
    )
    out = backbone(ids, mask, first_token=True)
    assert seen == [ids.shape[1]]
    assert out.shape == (3, 1, HIDDEN)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_a_layer_with_gradient_checkpointing_computes_all_tokens():
    backbone = make_backbone("bert")
    backbone.model.gradient_checkpointing_enable()
    ids, mask = make_inputs()
    out = []
    seen = widths(backbone, lambda: out.append(backbone(ids, mask, first_token=True)))
    assert seen == [ids.shape[1]]
    out[0].sum().backward()
    assert all(p.grad is not None for p in backbone.layers[-1].parameters())


def test_a_layer_with_berts_modules_and_another_forward_computes_all_tokens():
    """Such a layer may come from remote code of a model."""
    backbone = make_backbone("bert").eval()
    layer = backbone.layers[-1]

    class Other(type(layer)):
        def forward(self, hidden_states, *args, **kwargs):
            return super().forward(hidden_states, *args, **kwargs) * 1.5

    layer.__class__ = Other
    ids, mask = make_inputs()
    full = backbone(ids, mask)[:, :1]
    for _ in range(2):
        assert torch.equal(backbone(ids, mask, first_token=True), full)


def test_the_comparison_on_the_first_batch_draws_no_random_number_and_changes_no_mode():
    backbone, other = make_backbone("bert"), make_backbone("bert")
    ids, mask = make_inputs()
    backbone.layers[-1].eval()
    other.layers[-1].eval()
    modes = [m.training for m in backbone.modules()]
    backbone(ids, mask, first_token=True)  # compares
    for one in (backbone, other):
        torch.manual_seed(0)
        one(ids, mask, first_token=True)
        state = torch.get_rng_state()
        if one is backbone:
            expected = state
    assert torch.equal(state, expected)
    assert [m.training for m in backbone.modules()] == modes


def test_the_model_is_restored_after_a_pass_and_after_an_error():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    backbone(ids, mask, first_token=True)
    with pytest.raises(IndexError), first_token_only(backbone.layers[-1]):
        backbone(ids + 1000, mask)
    assert not any("forward" in vars(module) for module in backbone.modules())
    copied = copy.deepcopy(backbone)
    assert torch.equal(copied(ids, mask), backbone(ids, mask))


def test_no_layer_and_an_unknown_layer_are_allowed():
    with first_token_only(None):
        pass
    with first_token_only(nn.Linear(2, 2)):
        pass


def test_bfloat16_agrees_up_to_rounding():
    backbone = make_backbone("bert", dtype="bfloat16").eval()
    ids, mask = make_inputs()
    first = backbone(ids, mask, first_token=True)
    full = backbone(ids, mask)[:, :1]
    assert first_token_module._AGREES[backbone.layers[-1]]
    assert (first - full).abs().max() <= 0.05
