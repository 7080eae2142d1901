import pytest
import torch

from tests.tiny import CONFIGS, HIDDEN, make_backbone, make_inputs

architectures = pytest.mark.parametrize("name", list(CONFIGS))
DEPTHS = range(4)  # embeddings and three layers


def runs_of_layers(backbone):
    """Depths in the order in which their modules run, filled by the next passes."""
    order = []
    for depth, layer in enumerate(backbone.layers):
        first = next(m for m in layer.modules() if not isinstance(m, torch.nn.ModuleList))
        first.register_forward_hook(lambda *_, depth=depth: order.append(depth))
    return order


@architectures
def test_an_output_that_was_asked_for_replays_exactly(name):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    features = backbone(ids, mask)
    outputs = backbone.outputs_of(DEPTHS, ids, mask)
    assert list(outputs) == list(DEPTHS)
    assert backbone.replayable == max(DEPTHS)
    for depth, hidden in outputs.items():
        assert torch.equal(backbone(ids, mask, from_depth=depth, hidden=hidden), features), depth


@architectures
def test_outputs_on_top_of_a_known_one_are_those_of_a_whole_pass(name):
    backbone = make_backbone(name).eval()
    ids, mask = make_inputs()
    whole = backbone.outputs_of(DEPTHS, ids, mask)
    for start in DEPTHS:
        part = backbone.outputs_of(
            range(start, 4), ids, mask, from_depth=start, hidden=whole[start]
        )
        assert set(part) == set(range(start, 4))
        assert all(torch.equal(part[depth], whole[depth]) for depth in part)


@architectures
@pytest.mark.parametrize("highest", DEPTHS)
def test_nothing_above_the_highest_depth_asked_for_runs(name, highest):
    backbone = make_backbone(name).eval()
    order = runs_of_layers(backbone)
    backbone.outputs_of([highest], *make_inputs())
    assert order == list(range(highest + 1))


def test_nothing_at_or_below_a_known_depth_runs():
    backbone = make_backbone("bert").eval()
    ids, mask = make_inputs()
    hidden = backbone.outputs_of([1], ids, mask)[1]
    backbone(ids, mask, from_depth=1, hidden=hidden)  # looks once what kind of output layers give
    order = []
    for depth, layer in enumerate(backbone.layers):
        part = next(m for m in layer.modules() if isinstance(m, torch.nn.LayerNorm))
        part.register_forward_hook(lambda *_, depth=depth: order.append(depth))
    assert backbone.outputs_of([1], ids, mask, from_depth=1, hidden=hidden)[1] is hidden
    assert order == []
    backbone.outputs_of([2], ids, mask, from_depth=1, hidden=hidden)
    assert order == [2]


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
def test_depths_that_are_not_there_are_refused(depths, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("bert").outputs_of(depths, *make_inputs(), **arguments)


def test_texts_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match=r"41 tokens a text, .* at most 40"):
        make_backbone("bert").outputs_of([0], torch.full((1, 41), 5))
