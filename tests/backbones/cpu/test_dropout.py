"""Dropout on the CPU: random masks, values, gradients and memory."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_transfer.backbones.cpu import FastDropout
from lightning_transfer.backbones.cpu.dropout import keep_mask, rounded


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_fraction_of_dropped_elements_is_the_probability(p):
    torch.manual_seed(0)
    mask = keep_mask((400, 1000), p)
    assert mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 1}
    error = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs((mask == 0).double().mean().item() - p) < 4 * error
    # Four elements share one draw of 64 bits, so each of the four lanes is tested.
    for lane in range(4):
        share = (mask.flatten()[lane::4] == 0).double().mean().item()
        assert abs(share - p) < 4 * 2 * error


def test_neighbouring_elements_of_a_mask_are_uncorrelated():
    torch.manual_seed(1)
    mask = keep_mask((400_000,), 0.3).double()
    for distance in (1, 2, 3, 4):
        pair = torch.stack([mask[:-distance], mask[distance:]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.006


@pytest.mark.parametrize(("p", "least", "most"), [(0.0, 0, 0), (65535 / 65536, 0.99, 1)])
def test_masks_for_the_smallest_and_the_largest_probability(p, least, most):
    torch.manual_seed(0)
    assert least <= (keep_mask((100_000,), p) == 0).double().mean().item() <= most


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 0, 3)])
def test_a_mask_has_the_requested_shape(shape):
    assert keep_mask(shape, 0.5).shape == shape


def test_a_seed_reproduces_a_mask_and_a_restored_generator_the_next_one():
    torch.manual_seed(5)
    first, state = keep_mask((64,), 0.5), torch.get_rng_state()
    second = keep_mask((64,), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(keep_mask((64,), 0.5), second)
    torch.manual_seed(5)
    assert torch.equal(keep_mask((64,), 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_and_gradient_have_the_same_scale(dtype):
    torch.manual_seed(0)
    x = torch.randn(50, 40, dtype=dtype, requires_grad=True)
    out = FastDropout(0.25)(x)
    out.sum().backward()
    kept = out.detach() != 0
    assert out.dtype == dtype
    assert 0.6 < kept.double().mean() < 0.9
    scale = 1 / 0.75
    assert torch.equal(out[kept], (x * scale)[kept])
    assert torch.equal(x.grad, kept.to(dtype) * scale)


def test_the_scale_is_that_of_the_rounded_probability():
    p = 3e-5
    assert rounded(p) == 2 / 65536
    torch.manual_seed(0)
    out = FastDropout(p)(torch.ones(1000))
    assert out.max().item() == pytest.approx(1 / (1 - 2 / 65536), rel=1e-7)


def test_first_and_second_derivatives_equal_numerical_ones():
    x = torch.randn(12, dtype=torch.float64, requires_grad=True)

    def run(values):
        torch.manual_seed(3)
        return FastDropout(0.4)(values)

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_probabilities_of_zero_and_one_have_a_fixed_output(p):
    module, x = FastDropout(p), torch.randn(30)
    assert torch.equal(module.eval()(x), x)
    torch.manual_seed(0)
    expected = torch.zeros(30) if p == 1 else x
    assert torch.equal(module.train()(x), expected)


def test_in_place_dropout_is_that_of_torch():
    torch.manual_seed(0)
    expected = nn.functional.dropout(torch.ones(50), 0.5)
    torch.manual_seed(0)
    x = torch.ones(50)
    assert FastDropout(0.5, inplace=True)(x) is x
    assert torch.equal(x, expected)


def test_the_graph_stores_one_byte_per_element():
    stored = []
    x = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        FastDropout(0.1)(x)
    assert [(t.dtype, t.numel()) for t in stored] == [(torch.uint8, 64 * 64)]


def test_a_dropout_is_copied_and_pickled():
    module = FastDropout(0.2).eval()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is FastDropout
        assert (other.p, other.training, other.inplace) == (0.2, False, False)
    assert isinstance(module, nn.Dropout)
    assert module.state_dict() == {}
