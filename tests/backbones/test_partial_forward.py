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
    """Depths at which there are any, filled by the next passes."""
    ran = set()
    for depth, layer in enumerate(backbone.layers):
        for module in layer.modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.register_forward_hook(lambda *_, depth=depth: ran.add(depth))
    return ran


def freeze_below(backbone, depth):
    """Freeze a prefix as the callbacks do; what lies above trains, its dropout on."""
    backbone.train()
    for layer in backbone.layers[: depth + 1]:
        layer.eval()
        layer.requires_grad_(False)


@architectures
def test_an_output_that_was_asked_for_replays_exactly(name):
    backbone, padded = make_model(name)
    backbone.eval()
    assert backbone.replayable == max(DEPTHS)
    for batch in (padded, {key: value for key, value in padded.items() if "mask" not in key}):
        features = backbone(**batch)
        texts = {key: value for key, value in batch.items() if "decoder" not in key}
        outputs = backbone.outputs_of(DEPTHS, **texts)
        assert sorted(outputs) == list(DEPTHS)
        for depth, hidden in outputs.items():
            replayed = backbone(**batch, from_depth=depth, hidden=hidden)
            assert torch.equal(replayed, features), depth


@architectures
def test_outputs_on_top_of_a_known_one_are_those_of_a_whole_pass(name):
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    whole = backbone.eval().outputs_of(DEPTHS, **texts)
    for start in DEPTHS:
        known = {"from_depth": start, "hidden": whole[start]}
        part = backbone.outputs_of(range(start, 4), **texts, **known)
        assert set(part) == set(range(start, 4))
        assert all(torch.equal(part[depth], whole[depth]) for depth in part)


@architectures
def test_a_frozen_prefix_draws_no_random_number_while_the_rest_trains(name):
    """Or its kept output would not be what it hands on in training."""
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    for depth in DEPTHS:
        freeze_below(backbone, depth)
        with evaluating(backbone):
            kept = backbone.outputs_of([depth], **texts)[depth]
        assert torch.equal(backbone.outputs_of([depth], **texts)[depth], kept), depth
        torch.manual_seed(0)
        whole = backbone(**batch)
        torch.manual_seed(0)
        assert torch.equal(backbone(**batch, from_depth=depth, hidden=kept), whole), depth
        drops_out = depth < len(backbone.layers) - 1 and name not in WITHOUT_DROPOUT
        assert torch.equal(backbone(**batch), whole) != drops_out


@architectures
def test_gradients_above_a_frozen_prefix_are_those_of_the_whole_pass(name):
    """Each parameter that trains has one, too: DDP refuses those that have none."""
    backbone, batch = make_model(name)
    for depth in DEPTHS:
        freeze_below(backbone, depth)
        kept = backbone.eval().outputs_of([depth], **texts_of(batch))[depth]
        above = [p for p in backbone.parameters() if p.requires_grad]
        if not above:
            assert depth == len(backbone.layers) - 1
            break
        whole = torch.autograd.grad(backbone(**batch).pow(2).sum(), above)
        features = backbone(**batch, from_depth=depth, hidden=kept)
        part = torch.autograd.grad(features.pow(2).sum(), above)
        for one, other in zip(whole, part, strict=True):
            assert (one - other).abs().max() <= 1e-6 * max(1.0, one.abs().max().item())


@encoder_decoders
def test_nothing_above_a_depth_has_a_part_in_its_output(name):
    backbone, batch = make_model(name)
    outputs = backbone.eval().outputs_of(DEPTHS, **texts_of(batch))
    names = {id(p): n for n, p in backbone.named_parameters()}
    for depth, hidden in outputs.items():
        hidden.pow(2).sum().backward(retain_graph=True)
        moved = {id(p) for p in backbone.parameters() if p.grad is not None}
        below = {id(p) for layer in backbone.layers[: depth + 1] for p in layer.parameters()}
        assert {names[i] for i in moved - below} == set(), depth
        backbone.zero_grad()


@architectures
def test_only_what_lies_between_two_depths_runs(name):
    """Seen where it costs: in the matrix multiplies."""
    backbone, batch = make_model(name)
    texts = texts_of(batch)
    outputs = backbone.eval().outputs_of(DEPTHS, **texts)
    backbone(**batch, from_depth=1, hidden=outputs[1])  # looks once what the layers give
    ran = matrix_multiplies(backbone)
    for start in DEPTHS:
        known = {"from_depth": start, "hidden": outputs[start]}
        for stop in range(start, 4):
            ran.clear()
            backbone.outputs_of([stop], **texts, **known)
            assert ran - {0} == set(range(start + 1, stop + 1)), (start, stop)
        ran.clear()
        backbone(**batch, **known)
        assert ran - {0} == set(range(start + 1, len(backbone.layers))), start


def test_the_known_output_comes_back_as_it_is_and_nothing_runs_for_it():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    hidden = backbone.outputs_of([1], ids, mask)[1]
    backbone.register_forward_pre_hook(pytest.fail)
    backbone.model.register_forward_pre_hook(pytest.fail)
    assert backbone.outputs_of([1], ids, mask, from_depth=1, hidden=hidden)[1] is hidden


def test_the_bias_of_t5s_lowest_layer_reaches_those_above_in_a_replay():
    """The other layers have no bias of their own, and would take zeros for it."""
    backbone, batch = make_model("t5")
    hidden = backbone.eval().outputs_of([1], **texts_of(batch))[1]
    before = backbone(**batch, from_depth=1, hidden=hidden)
    bias = backbone.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    nn.init.zeros_(bias.weight)
    assert not torch.equal(backbone(**batch, from_depth=1, hidden=hidden), before)


def test_a_pass_that_stops_leaves_no_hook_and_no_change():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    features = backbone(ids, mask)
    assert backbone.outputs_of([], ids, mask) == {}
    backbone.outputs_of([0, 2], ids, mask)
    with pytest.raises(RuntimeError):
        backbone.outputs_of([2], ids, mask, from_depth=1, hidden=torch.ones(1, 1, 3))
    for module in backbone.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
    assert torch.equal(backbone(ids, mask), features)


def test_an_error_inside_of_the_model_is_not_taken_for_the_end_of_a_pass():
    backbone = make_backbone("bert").eval()

    def fail(*_):
        raise ArithmeticError("inside")

    backbone.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError, match="inside"):
        backbone.outputs_of([3], *make_inputs())


def test_segments_reach_the_outputs():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    plain = backbone.outputs_of([1], ids, mask)[1]
    other = backbone.outputs_of([1], ids, mask, token_type_ids=torch.ones_like(ids))[1]
    assert (plain - other).abs().max() > 0.1


@pytest.mark.parametrize(
    ("depths", "arguments", "message"),
    [
        ([4], {}, r"depths must be in 0..3, from from_depth up, got \[4\]"),
        ([-1, 0], {}, r"in 0..3, from from_depth up, got \[-1\]"),
        (
            [1, 2],
            {"from_depth": 2, "hidden": torch.ones(3, 7, HIDDEN)},
            r"in 2..3, from from_depth up, got \[1\]",
        ),
        ([2], {"from_depth": 2}, "from_depth=2 needs hidden"),
        ([3], {"from_depth": 4, "hidden": torch.ones(3, 7, HIDDEN)}, r"in 0..3, got 4"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_depths_that_are_not_there_are_refused(name, depths, arguments, message):
    backbone, batch = make_model(name)
    with pytest.raises(ValueError, match=message):
        backbone.outputs_of(depths, **texts_of(batch), **arguments)


def test_texts_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match=r"41 tokens a text, .* at most 40"):
        make_backbone("bert").outputs_of([0], torch.full((1, 41), 5))


def test_a_layer_that_is_left_out_at_random_cannot_begin_a_replay():
    backbone = make_seq2seq("bart", encoder_layerdrop=0.5)
    _, batch = make_model("bart")
    hidden = torch.ones(3, 7, HIDDEN)
    with pytest.raises(ValueError, match=r"layerdrop of 0.5 .* set encoder_layerdrop=0"):
        backbone(**batch, from_depth=1, hidden=hidden)
    backbone.layers[0].eval()  # a frozen prefix leaves out none
    outputs = backbone.outputs_of([1, 3], **texts_of(batch), from_depth=1, hidden=hidden)
    assert not torch.equal(outputs[3], hidden)
