import pytest
import torch

from lightning_transfer.heads import NextTokenHead


def test_logits_are_the_product_with_the_embeddings():
    head = NextTokenHead(8, 0, vocabulary=(30, 8))
    hidden, table = torch.randn(5, 8), torch.randn(30, 8)
    logits = head.tokens(hidden, table)
    assert logits.shape == (5, 30)
    assert torch.allclose(logits, hidden @ table.T)
    assert head.tokens(hidden, table.bfloat16()).dtype == torch.float32


def test_it_has_no_weights_and_is_rebuilt_from_its_sizes():
    head = NextTokenHead(8, 0, vocabulary=(30, 8))
    assert list(head.parameters()) == []
    assert NextTokenHead(8, 0, vocabulary=(30, 8), **head.args).state_dict() == head.state_dict()


@pytest.mark.parametrize(
    ("outputs", "vocabulary", "message"),
    [
        (2, (30, 8), "guesses tokens and nothing else, got num_outputs=2; use data of raw text"),
        (0, (30, 6), "features of 8 numbers cannot meet embeddings of 6; use a backbone whose"),
    ],
)
def test_what_it_cannot_do_is_told(outputs, vocabulary, message):
    with pytest.raises(ValueError, match=message):
        NextTokenHead(8, outputs, vocabulary=vocabulary)
