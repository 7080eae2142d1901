"""Attention with dropout on the CPU: values, gradients and memory."""

import pytest
import torch
from transformers import AttentionInterface

from lightning_transfer.backbones.cpu import attention as attention_module
from lightning_transfer.backbones.cpu.attention import attend

BATCH, HEADS, SEQ, WIDTH = 3, 2, 5, 4
SHAPE = (BATCH, HEADS, SEQ, WIDTH)


class Caller(torch.nn.Module):
    is_causal = False


def tensors(dtype=torch.float64, keys=SEQ, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (SHAPE, (BATCH, HEADS, keys, WIDTH), (BATCH, HEADS, keys, WIDTH))
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def padding(keys=SEQ):
    lengths = torch.tensor([keys, keys - 2, 1])
    return (torch.arange(keys) < lengths[:, None])[:, None, None, :]  # (batch, 1, 1, keys)


def by_hand(query, key, value, mask, kept, p, scale):
    """Compute attention by its formula, with a given dropout mask."""
    scores = query @ key.transpose(-1, -2) * scale
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    weights = scores.softmax(-1) * kept.view_as(scores) / (1 - p)
    return (weights @ value).transpose(1, 2)


MASKS = {
    "none": None,
    "padding": padding(),
    "added": torch.zeros(BATCH, 1, 1, SEQ, dtype=torch.float64).masked_fill(
        ~padding(), torch.finfo(torch.float64).min
    ),
    "each head": torch.randn(1, HEADS, SEQ, SEQ, dtype=torch.float64),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_output_and_gradients_equal_those_of_the_formula(name, monkeypatch):
    mask, p = MASKS[name], 0.25
    kept = (torch.rand(BATCH * HEADS, SEQ, SEQ) > p).to(torch.uint8)
    monkeypatch.setattr(attention_module, "keep_mask", lambda shape, p: kept)
    inputs = tensors()
    ours, none = attend(Caller(), *inputs, mask, dropout=p, scaling=0.3)
    theirs = by_hand(*inputs, mask, kept, p, 0.3)
    assert none is None
    assert ours.shape == (BATCH, SEQ, HEADS, WIDTH)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    seed = torch.randn(ours.shape, dtype=torch.float64)
    one = torch.autograd.grad(ours, inputs, seed)
    other = torch.autograd.grad(theirs, inputs, seed)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("keys", [2, 3])
def test_first_and_second_derivatives_equal_numerical_ones(keys):
    mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    mask[1, :, :, -1] = False

    def run(query, key, value):
        torch.manual_seed(7)
        return attend(Caller(), query, key, value, mask, dropout=0.3)[0]

    inputs = [
        torch.randn(2, 1, n, 2, dtype=torch.float64).requires_grad_() for n in (2, keys, keys)
    ]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_second_derivatives_exist_with_a_frozen_input():
    query, key, value = tensors()
    key = key.detach()
    torch.manual_seed(0)
    out, _ = attend(Caller(), query, key, value, None, dropout=0.3)
    once = torch.autograd.grad(out.pow(2).sum(), [query, value], create_graph=True)
    torch.manual_seed(0)
    out, _ = attend(Caller(), query, key, value, None, dropout=0.3)
    plain = torch.autograd.grad(out.pow(2).sum(), [query, value])
    for a, b in zip(once, plain, strict=True):
        torch.testing.assert_close(a, b)
    once[0].pow(2).sum().backward()
    assert query.grad.abs().sum() > 0


def test_the_fraction_of_dropped_weights_is_the_probability():
    torch.manual_seed(0)
    value = torch.eye(40).expand(8, 4, 40, 40)
    query = torch.zeros(8, 4, 40, 8)
    weights, _ = attend(Caller(), query, query, value, None, dropout=0.1)
    dropped = (weights == 0).double().mean().item()
    assert abs(dropped - 0.1) < 4 * (0.09 / weights.numel()) ** 0.5
    assert weights.max().item() == pytest.approx(1 / 40 / 0.9, rel=1e-4)


def test_the_mean_over_masks_equals_the_output_without_dropout():
    inputs = [x.detach() for x in tensors(torch.float32)]
    torch.manual_seed(0)
    runs = [attend(Caller(), *inputs, padding(), dropout=0.2)[0] for _ in range(1000)]
    expected, _ = attend(Caller(), *inputs, padding(), dropout=0.0)
    assert (torch.stack(runs).mean(0) - expected).abs().max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "module"),
    [({"dropout": 0.0}, {}), ({"dropout": 1e-9}, {}), ({}, {"num_key_value_groups": 2})],
)
def test_sdpa_is_called_without_dropout_or_with_other_arguments(arguments, module, monkeypatch):
    caller = Caller()
    for name, value in module.items():
        setattr(caller, name, value)
    seen = []
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        "sdpa",
        lambda *a, **k: seen.append((a, k)) or ("s", None),
    )
    inputs = tensors()
    given = {"dropout": 0.1, **arguments}
    assert attend(caller, *inputs, None, **given, scaling=0.5, use_cache=False) == ("s", None)
    [(positional, keywords)] = seen
    assert positional == (caller, *inputs, None)
    assert keywords == {**given, "scaling": 0.5, "is_causal": None, "use_cache": False}


@pytest.mark.parametrize("keys", [SEQ, SEQ + 2, SEQ - 1])
@pytest.mark.parametrize("is_causal", [True, None])
def test_causal_attention_equals_that_of_sdpa(keys, is_causal, monkeypatch):
    monkeypatch.setattr(
        attention_module, "keep_mask", lambda shape, p: torch.ones(shape, dtype=torch.uint8)
    )
    causal = Caller()
    causal.is_causal = is_causal is None
    inputs = tensors(keys=keys)
    ours, _ = attend(causal, *inputs, None, dropout=0.5, is_causal=is_causal)
    theirs, _ = attend(causal, *inputs, None, dropout=0.0, is_causal=is_causal)
    torch.testing.assert_close(ours, 2 * theirs)


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_that_of_the_inputs():
    inputs = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        out, _ = attend(Caller(), *inputs, padding(), dropout=0.3)
    out.float().pow(2).sum().backward()
    torch.manual_seed(0)
    exact, _ = attend(Caller(), *inputs, padding(), dropout=0.3)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 0.05
    assert all(x.grad.dtype == torch.float32 and x.grad.isfinite().all() for x in inputs)


def test_autocast_does_not_convert_float64():
    inputs = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = attend(Caller(), *inputs, padding(), dropout=0.3)
        theirs, _ = attend(Caller(), *inputs, padding(), dropout=0.0)
    assert out.dtype == theirs.dtype == torch.float64


def test_a_query_without_visible_keys_has_a_finite_output_and_changes_no_other():
    mask = padding().clone()
    inputs = [x.detach() for x in tensors()]
    torch.manual_seed(0)
    expected, _ = attend(Caller(), *inputs, mask, dropout=0.3)
    mask[2] = False
    torch.manual_seed(0)
    out, _ = attend(Caller(), *inputs, mask, dropout=0.3)
    assert out.isfinite().all()
    assert torch.equal(out[:2], expected[:2])


def test_the_graph_stores_the_inputs_the_weights_and_one_byte_per_weight():
    stored = []
    inputs = tensors(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        attend(Caller(), *inputs, None, dropout=0.1)
    weights = BATCH * HEADS * SEQ * SEQ
    extra = [t for t in stored if all(t.data_ptr() != x.data_ptr() for x in inputs)]
    assert sum(t.numel() * t.element_size() for t in extra) == weights * (4 + 1)
