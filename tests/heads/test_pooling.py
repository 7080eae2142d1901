"""Pooling of token features, with padding on either side."""

import pytest
import torch

from lightning_transfer.heads.pooling import pool

HIDDEN = torch.tensor(
    [
        [[1.0, -1.0], [3.0, -5.0], [2.0, -3.0], [9.0, 9.0]],
        [[4.0, 0.0], [7.0, 7.0], [7.0, 7.0], [7.0, 7.0]],
    ]
)  # (batch, seq, hidden)
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
EXPECTED = {
    "cls": [[1.0, -1.0], [4.0, 0.0]],
    "mean": [[2.0, -3.0], [4.0, 0.0]],
    "max": [[3.0, -1.0], [4.0, 0.0]],
    "last": [[2.0, -3.0], [4.0, 0.0]],
}
modes = pytest.mark.parametrize("mode", EXPECTED)


@modes
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_pooled_values(mode, dtype):
    assert pool(HIDDEN, MASK.to(dtype), mode).tolist() == EXPECTED[mode]


@modes
@pytest.mark.parametrize("filler", [1e9, -1e9, float("nan"), float("inf")])
def test_features_of_padding_are_ignored(mode, filler):
    changed = HIDDEN.masked_fill(MASK[..., None] == 0, filler)
    assert pool(changed, MASK, mode).tolist() == EXPECTED[mode]


@modes
def test_without_a_mask_all_tokens_are_pooled(mode):
    first, last = HIDDEN[:, 0], HIDDEN[:, -1]
    found = {"cls": first, "last": last, "mean": HIDDEN.mean(1), "max": HIDDEN.amax(1)}
    expected = found[mode]
    assert torch.equal(pool(HIDDEN, None, mode), expected)
    assert torch.equal(pool(HIDDEN, torch.ones_like(MASK), mode), expected)


@modes
def test_a_row_of_padding_gives_finite_features_and_gradients(mode):
    hidden = HIDDEN.clone().requires_grad_()
    features = pool(hidden, torch.zeros_like(MASK), mode)
    expected = HIDDEN[:, 0] if mode == "cls" else torch.zeros(2, 2)
    assert torch.equal(features, expected)
    features.sum().backward()
    assert hidden.grad.isfinite().all()


@modes
def test_padding_gets_no_gradient(mode):
    hidden = HIDDEN.clone().requires_grad_()
    pool(hidden, MASK, mode).sum().backward()
    assert hidden.grad[MASK == 0].abs().max() == 0
    assert hidden.grad[MASK == 1].abs().max() > 0


@modes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_have_the_dtype_of_the_tokens(mode, dtype):
    features = pool(HIDDEN.to(dtype), MASK, mode)
    assert features.dtype == dtype
    assert features.tolist() == EXPECTED[mode]


def test_an_unknown_mode_raises():
    with pytest.raises(ValueError, match="one of cls, mean, max, last, got 'median'; set head"):
        pool(HIDDEN, MASK, "median")


def test_the_last_token_with_padding_on_the_left():
    left = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])
    assert torch.equal(pool(HIDDEN, left, "last"), HIDDEN[:, -1])
