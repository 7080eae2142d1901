import logging

import pytest
import torch

from lightning_transfer.callbacks import Compiled
from lightning_transfer.heads import MLPHead
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_loader, make_trainer


@pytest.fixture(autouse=True)
def forget():
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
    """Without dropout: what a compiled model draws differs."""
    return make_backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def seeing(graphs):
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend


def failing(graph, inputs):
    raise RuntimeError("no compiler is found\nand more")


@pytest.mark.parametrize("build", [OwnBackbone, pytest.param(pretrained, marks=pytest.mark.slow)])
def test_a_compiled_backbone_learns_what_it_does_without_and_is_itself_afterwards(build):
    graphs = []
    torch.manual_seed(1)
    compiled = fit(Compiled(seeing(graphs)), backbone=build())
    torch.manual_seed(1)
    plain = fit(backbone=build())
    assert graphs
    assert compiled.backbone._compiled_call_impl is None
    one, other = compiled.state_dict(), plain.state_dict()
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_where_it_cannot_be_compiled_the_run_goes_on_and_one_line_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        task = fit(Compiled(failing))
    [line] = [r.getMessage() for r in caplog.records if "torch.compile" in r.getMessage()]
    assert line.startswith("torch.compile does not work here, so the run goes on without it: ")
    assert "no compiler is found" in line
    assert "\n" not in line
    for one, other in zip(task.parameters(), fit().parameters(), strict=True):
        assert torch.equal(one, other)


def test_errors_of_the_model_are_its_own():
    backbone = OwnBackbone()
    backbone.first.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(Compiled(seeing([])), backbone=backbone)
    assert backbone._compiled_call_impl is None
