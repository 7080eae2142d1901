"""Partial forward passes of all architectures: exact, and without work below or above."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_transfer.utils.modes import evaluating
from tests.tiny import CONFIGS, HIDDEN, make_backbone, make_inputs
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_model, make_seq2seq, texts_of

architectures = pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
encoder_decoders = pytest.mark.parametrize("name", list(SEQ2SEQ))
WITHOUT_DROPOUT = ("modernbert", "rembert")  # by their configs' defaults
DEPTHS = range(4)  # embeddings and three layers


def matrix_multiplies(backbone):
    """Return a set that later passes fill with the depths of their matrix multiplications."""
    ran = set()
    for depth, layer in enumerate(backbone.layers):
        for module in layer.modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.register_forward_hook(lambda *_, depth=depth: ran.add(depth))
    return ran


def freeze_below(backbone, depth):
    """Freeze a prefix as the callbacks do; layers above are trained with dropout."""
    backbone.train()
    for layer in backbone.layers[: depth + 1]:
        layer.eval()
        layer.requires_grad_(False)


@architectures
def test_a_partial_forward_from_computed_hidden_states_is_exact(name):
    backbone, padded = make_model(name)
    backbone.eval()
    assert backbone.max_partial_depth == max(DEPTHS)
    for batch in (padded, {key: value for key, value in padded.items() if "mask" not in key}):
        features = backbone(**batch)
        texts = {key: value for key, value in batch.items() if "decoder" not in key}
        states = backbone.hidden_states_at(DEPTHS, **texts)
        assert sorted(states) == list(DEPTHS)
        for depth, hidden in states.items():
            part = backbone(**batch, from_depth=depth, hidden=hidden)
            assert torch.equal(part, features), depth


@architectures
def test_hidden_states_computed_from_a_known_depth_equal_those_of_a_full_pass(name):
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    whole = backbone.eval().hidden_states_at(DEPTHS, **texts)
    for start in DEPTHS:
        known = {"from_depth": start, "hidden": whole[start]}
        part = backbone.hidden_states_at(range(start, 4), **texts, **known)
        assert set(part) == set(range(start, 4))
        assert all(torch.equal(part[depth], whole[depth]) for depth in part)


@architectures
def test_a_frozen_prefix_draws_no_random_number_while_the_rest_trains(name):
    """Otherwise its stored output would differ from its output in training."""
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    for depth in DEPTHS:
        freeze_below(backbone, depth)
        with evaluating(backbone):
            stored = backbone.hidden_states_at([depth], **texts)[depth]
        assert torch.equal(backbone.hidden_states_at([depth], **texts)[depth], stored), depth
        torch.manual_seed(0)
        whole = backbone(**batch)
        torch.manual_seed(0)
        assert torch.equal(backbone(**batch, from_depth=depth, hidden=stored), whole), depth
        has_dropout = depth < len(backbone.layers) - 1 and name not in WITHOUT_DROPOUT
        assert torch.equal(backbone(**batch), whole) != has_dropout


@architectures
def test_gradients_above_a_frozen_prefix_equal_those_of_the_full_pass(name):
    """Also, each trainable parameter has a gradient; a parameter without one fails under DDP."""
    backbone, batch = make_model(name)
    for depth in DEPTHS:
        freeze_below(backbone, depth)
        stored = backbone.eval().hidden_states_at([depth], **texts_of(batch))[depth]
        above = [p for p in backbone.parameters() if p.requires_grad]
        if not above:
            assert depth == len(backbone.layers) - 1
            break
        whole = torch.autograd.grad(backbone(**batch).pow(2).sum(), above)
        features = backbone(**batch, from_depth=depth, hidden=stored)
        part = torch.autograd.grad(features.pow(2).sum(), above)
        for one, other in zip(whole, part, strict=True):
            assert (one - other).abs().max() <= 1e-6 * max(1.0, one.abs().max().item())


@encoder_decoders
def test_hidden_states_depend_on_no_parameter_above_their_depth(name):
    backbone, batch = make_model(name)
    states = backbone.eval().hidden_states_at(DEPTHS, **texts_of(batch))
    names = {id(p): n for n, p in backbone.named_parameters()}
    for depth, hidden in states.items():
        hidden.pow(2).sum().backward(retain_graph=True)
        with_gradient = {id(p) for p in backbone.parameters() if p.grad is not None}
        below = {id(p) for layer in backbone.layers[: depth + 1] for p in layer.parameters()}
        assert {names[i] for i in with_gradient - below} == set(), depth
        backbone.zero_grad()


@architectures
def test_only_layers_between_two_depths_run(name):
    """Recorded by matrix multiplications, which are most of the cost."""
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    states = backbone.eval().hidden_states_at(DEPTHS, **texts)
    backbone(**batch, from_depth=1, hidden=states[1])  # the first pass runs all layers once
    ran = matrix_multiplies(backbone)
    for start in DEPTHS:
        known = {"from_depth": start, "hidden": states[start]}
        for stop in range(start, 4):
            ran.clear()
            backbone.hidden_states_at([stop], **texts, **known)
            assert ran - {0} == set(range(start + 1, stop + 1)), (start, stop)
        ran.clear()
        backbone(**batch, **known)
        assert ran - {0} == set(range(start + 1, len(backbone.layers))), start


def test_known_hidden_states_are_returned_without_a_forward_pass():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    hidden = backbone.hidden_states_at([1], ids, mask)[1]
    backbone.register_forward_pre_hook(pytest.fail)
    backbone.model.register_forward_pre_hook(pytest.fail)
    assert backbone.hidden_states_at([1], ids, mask, from_depth=1, hidden=hidden)[1] is hidden


def test_a_partial_forward_of_t5_uses_the_bias_of_the_lowest_layer():
    """The other layers have no bias, and would use zeros instead."""
    backbone, batch = make_model("t5")
    hidden = backbone.eval().hidden_states_at([1], **texts_of(batch))[1]
    before = backbone(**batch, from_depth=1, hidden=hidden)
    bias = backbone.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    nn.init.zeros_(bias.weight)
    assert not torch.equal(backbone(**batch, from_depth=1, hidden=hidden), before)


def test_a_stopped_pass_leaves_no_hook_and_no_change():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    features = backbone(ids, mask)
    assert backbone.hidden_states_at([], ids, mask) == {}
    backbone.hidden_states_at([0, 2], ids, mask)
    with pytest.raises(RuntimeError):
        backbone.hidden_states_at([2], ids, mask, from_depth=1, hidden=torch.ones(1, 1, 3))
    for module in backbone.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
    assert torch.equal(backbone(ids, mask), features)


def test_an_error_inside_the_model_is_raised():
    backbone = make_backbone("bert").eval()

    def fail(*_):
        raise ArithmeticError("inside")

    backbone.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError, match="inside"):
        backbone.hidden_states_at([3], *make_inputs())


def test_segments_change_the_hidden_states():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    plain = backbone.hidden_states_at([1], ids, mask)[1]
    other = backbone.hidden_states_at([1], ids, mask, token_type_ids=torch.ones_like(ids))[1]
    assert (plain - other).abs().max() > 0.1


@pytest.mark.parametrize(
    ("depths", "arguments", "message"),
    [
        ([4], {}, r"depths must be between from_depth=0 and 3, got \[4\]"),
        ([-1, 0], {}, r"between from_depth=0 and 3, got \[-1\]"),
        (
            [1, 2],
            {"from_depth": 2, "hidden": torch.ones(3, 7, HIDDEN)},
            r"between from_depth=2 and 3, got \[1\]",
        ),
        ([2], {"from_depth": 2}, "from_depth=2 needs hidden"),
        ([3], {"from_depth": 4, "hidden": torch.ones(3, 7, HIDDEN)}, r"in 0..3, got 4"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_invalid_depths_raise(name, depths, arguments, message):
    backbone, batch = make_model(name)
    with pytest.raises(ValueError, match=message):
        backbone.hidden_states_at(depths, **texts_of(batch), **arguments)


def test_texts_longer_than_the_position_table_raise():
    with pytest.raises(ValueError, match=r"41 tokens per text, .* at most 40"):
        make_backbone("bert").hidden_states_at([0], torch.full((1, 41), 5))


def test_a_partial_forward_with_layerdrop_raises():
    backbone = make_seq2seq("bart", encoder_layerdrop=0.5)
    _, batch = make_model("bart")
    hidden = torch.ones(3, 7, HIDDEN)
    with pytest.raises(ValueError, match=r"layerdrop of 0.5 .* set encoder_layerdrop=0"):
        backbone(**batch, from_depth=1, hidden=hidden)
    backbone.layers[0].eval()  # a frozen prefix skips no layer
    states = backbone.hidden_states_at([1, 3], **texts_of(batch), from_depth=1, hidden=hidden)
    assert not torch.equal(states[3], hidden)
