"""Compilation of the backbone."""

import logging

import pytest
import torch

from lightning_transfer.callbacks import Compiled
from lightning_transfer.heads import MLPHead
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_loader, make_trainer


@pytest.fixture(autouse=True)
def reset_dynamo():
    yield
    torch._dynamo.reset()


def fit(*callbacks, backbone=None):
    torch.manual_seed(0)
    backbone = backbone or OwnBackbone()
    head = MLPHead(HIDDEN, 1, dropout=0.0)
    task = SequenceRegression(backbone, head, labels=Labels("regression"))
    trainer = make_trainer(callbacks=list(callbacks), max_epochs=2)
    trainer.fit(task, make_loader(), make_loader())
    return task


def pretrained():
    """Return a backbone without dropout: a compiled model draws other random numbers."""
    return make_backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def recording(graphs):
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend


def failing(graph, inputs):
    raise RuntimeError("no compiler is found\nand more")


@pytest.mark.parametrize("build", [OwnBackbone, pytest.param(pretrained, marks=pytest.mark.slow)])
def test_a_compiled_backbone_trains_as_usual_and_is_restored_afterwards(build):
    graphs = []
    torch.manual_seed(1)
    compiled = fit(Compiled(recording(graphs)), backbone=build())
    torch.manual_seed(1)
    plain = fit(backbone=build())
    assert graphs
    assert compiled.backbone._compiled_call_impl is None
    one, other = compiled.state_dict(), plain.state_dict()
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_a_failed_compilation_is_logged_once_and_the_run_continues(caplog):
    with caplog.at_level(logging.WARNING):
        task = fit(Compiled(failing))
    [line] = [r.getMessage() for r in caplog.records if "torch.compile" in r.getMessage()]
    assert line.startswith("torch.compile failed, so the run continues without it: ")
    assert "no compiler is found" in line
    assert "\n" not in line
    for one, other in zip(task.parameters(), fit().parameters(), strict=True):
        assert torch.equal(one, other)


def test_errors_of_the_model_are_raised():
    backbone = OwnBackbone()
    backbone.first.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(Compiled(recording([])), backbone=backbone)
    assert backbone._compiled_call_impl is None
