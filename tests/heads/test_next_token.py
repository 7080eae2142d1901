"""Head of causal language models."""

import pytest
import torch

from lightning_transfer.heads import NextTokenHead


def test_logits_are_products_with_the_embeddings():
    head = NextTokenHead(8, 0, vocabulary=(30, 8))
    hidden, table = torch.randn(5, 8), torch.randn(30, 8)
    logits = head.tokens(hidden, table)
    assert logits.shape == (5, 30)
    assert torch.allclose(logits, hidden @ table.T)
    assert head.tokens(hidden, table.bfloat16()).dtype == torch.float32


def test_the_head_has_no_weights_and_is_rebuilt_from_its_sizes():
    head = NextTokenHead(8, 0, vocabulary=(30, 8))
    assert list(head.parameters()) == []
    assert NextTokenHead(8, 0, vocabulary=(30, 8), **head.args).state_dict() == head.state_dict()


@pytest.mark.parametrize(
    ("outputs", "vocabulary", "message"),
    [
        (2, (30, 8), "num_outputs must be 0, got 2; use data of raw text"),
        (0, (30, 6), "must have the same width, got 8 and 6; choose another backbone"),
    ],
)
def test_invalid_sizes_raise(outputs, vocabulary, message):
    with pytest.raises(ValueError, match=message):
        NextTokenHead(8, outputs, vocabulary=vocabulary)
