"""Inputs of the backbone from a batch, and requests for the first token only."""

import pytest
import torch
from torch import nn

from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, OwnHead, make_backbone, make_batch

REGRESSION = Labels("regression")
FULL = (5, 5, 5)


class Recording(nn.Module):
    """A backbone that records its arguments."""

    def __init__(self, backbone):
        super().__init__()
        self.inner = backbone
        self.hidden_size = HIDDEN
        self.calls = []

    @property
    def layers(self):
        return self.inner.layers

    def forward(self, input_ids, attention_mask=None, *, first_token=False):
        self.calls.append({"mask": attention_mask, "first_token": first_token})
        return self.inner(input_ids, attention_mask, first_token=first_token)


class RequiresMask(OwnBackbone):
    """A custom backbone with a required mask."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask) * attention_mask[..., None]


def make_task(head, backbone=None):
    return SequenceRegression(backbone or Recording(make_backbone()), head, labels=REGRESSION)


@pytest.mark.parametrize(
    ("head", "first_token"),
    [
        (MLPHead(HIDDEN, 1), True),
        (LinearHead(HIDDEN, 1, pooling="cls"), True),
        (LinearHead(HIDDEN, 1), False),
        (OwnHead(HIDDEN, 1), False),
    ],
    ids=["mlp", "cls", "mean", "own"],
)
def test_only_the_first_token_is_requested_if_the_head_reads_no_other(head, first_token):
    task = make_task(head).eval()
    batch = make_batch()
    outputs = task(batch)
    assert [call["first_token"] for call in task.backbone.calls] == [first_token]
    features = task.backbone.inner(batch["input_ids"], batch["attention_mask"])
    expected = head(features, batch["attention_mask"])
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", [MLPHead(HIDDEN, 1), LinearHead(HIDDEN, 1)])
def test_a_custom_backbone_gets_only_arguments_that_it_accepts(head):
    task = make_task(head, OwnBackbone())
    batch = make_batch()
    assert task(batch).shape == (3, 1)


@pytest.mark.parametrize(("marked", "masked"), [({"full": ()}, False), ({}, True)])
def test_a_batch_marked_as_full_is_passed_without_a_mask(marked, masked):
    task = make_task(LinearHead(HIDDEN, 1)).eval()
    batch = make_batch(lengths=FULL)
    outputs = task({**batch, **marked})
    [call] = task.backbone.calls
    assert (call["mask"] is not None) is masked
    assert torch.equal(outputs, task(batch))


def test_a_backbone_with_a_required_mask_gets_one():
    task = make_task(LinearHead(HIDDEN, 1), RequiresMask())
    batch = make_batch(lengths=FULL)
    assert torch.equal(task.eval()({**batch, "full": ()}), task(batch))
