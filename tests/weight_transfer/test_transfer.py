import pytest
import torch
from torch import nn
from transformers import BertModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import Weights
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import describe_task
from lightning_transfer.weight_transfer import align_outputs, transfer_weights
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, OwnHead, make_backbone, make_batch

BATCH = make_batch()
RATING = Labels("regression")


def single(*names):
    return Labels("single_label", names)


def make_task(labels, head_class=MLPHead, backbone=None, **arguments):
    task_class = SequenceRegression if labels.kind == "regression" else SequenceClassification
    head = head_class(HIDDEN, labels.num_outputs, **arguments)
    return task_class(backbone or make_backbone(), head, labels=labels).eval()


def weights_of(task):
    description = describe_task(task, tokenizer=None, tokens=None)
    return Weights(description, task.state_dict(), None, "a.ckpt")


def new_task_from(old, labels, head_class=MLPHead, label_map=None, **arguments):
    """Return a new task with the weights of an old one, and the line of the report."""
    new = make_task(labels, head_class, make_backbone(seed=9), **arguments)
    line = str(
        transfer_weights(weights_of(old), new.backbone, new.head, labels, label_map=label_map)
    )
    for name, value in old.backbone.state_dict().items():
        assert torch.equal(new.backbone.state_dict()[name], value)
    return new, line


def test_a_pretrained_pooler_is_loaded_into_an_mlp_head_with_cls_pooling():
    torch.manual_seed(3)
    model = BertModel(CONFIGS["bert"])
    pooler = model.pooler.dense.weight.detach().clone()
    backbone, head = Backbone(model), MLPHead(HIDDEN, 1)
    assert str(transfer_weights(None, backbone, head, RATING)) == "new head"
    assert torch.equal(head.dense.weight, pooler)
    assert torch.equal(head.dense.bias, backbone.pooler_state["bias"])


@pytest.mark.parametrize(
    "head", [MLPHead(HIDDEN, 1, pooling="mean"), LinearHead(HIDDEN, 1), OwnHead(HIDDEN, 1)]
)
def test_a_pretrained_pooler_is_not_loaded_into_other_heads(head):
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert str(transfer_weights(None, make_backbone(), head, RATING)) == "new head"
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_without_a_pooler_the_head_is_new():
    for backbone in (make_backbone("distilbert"), OwnBackbone()):
        assert str(transfer_weights(None, backbone, MLPHead(HIDDEN, 1), RATING)) == "new head"


@pytest.mark.parametrize("head_class", [MLPHead, LinearHead, OwnHead])
def test_same_labels_keep_the_head(head_class):
    old = make_task(single("neg", "neu", "pos"), head_class)
    new, line = new_task_from(old, single("neg", "neu", "pos"), head_class)
    assert line == "head kept: labels neg, neu, pos"
    assert torch.equal(new(BATCH), old(BATCH))


@pytest.mark.parametrize("head_class", [MLPHead, LinearHead, OwnHead])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_same_labels_in_another_order_permute_the_logits(head_class, kind):
    names, order = ("neg", "neu", "pos"), ("pos", "neg", "neu")
    old = make_task(Labels(kind, names), head_class)
    new, line = new_task_from(old, Labels(kind, order), head_class)
    assert line == "head kept: outputs matched by name, neg, neu, pos become pos, neg, neu"
    before, after = old(BATCH), new(BATCH)
    for position, name in enumerate(order):
        assert torch.equal(after[:, position], before[:, names.index(name)])


def test_weights_of_another_backbone_are_an_error():
    start = weights_of(make_task(RATING))
    with pytest.raises(ValueError, match=r"a.ckpt do not fit the backbone, a OwnBackbone: .*Unexp"):
        transfer_weights(start, OwnBackbone(), MLPHead(HIDDEN, 1), RATING)


def test_partly_equal_labels_are_an_error():
    old = make_task(single("neg", "pos"))
    with pytest.raises(ValueError, match=r"only in part: the weights have \['neg', 'pos'\], the d"):
        new_task_from(old, single("neg", "neu", "pos"))


def test_a_label_map_transfers_rows_and_the_others_are_new():
    old = make_task(single("neg", "pos"))
    head = MLPHead(HIDDEN, 3).eval()
    fresh = head.out.weight.detach().clone()
    backbone = make_backbone()
    labels = single("mixed", "good", "bad")
    label_map = {"neg": "bad", "pos": "good"}
    line = str(transfer_weights(weights_of(old), backbone, head, labels, label_map=label_map))
    assert line == "head kept: outputs matched by name, neg, pos become mixed, good, bad"
    new = SequenceClassification(backbone, head, labels=labels).eval()
    assert torch.equal(new(BATCH)[:, [2, 1]], old(BATCH))
    assert torch.equal(head.out.weight[0], fresh[0])


def test_a_label_map_may_drop_an_old_label():
    old = make_task(single("neg", "neu", "pos"))
    new, _ = new_task_from(old, single("neg", "pos"), label_map={"neg": "neg", "pos": "pos"})
    assert torch.equal(new(BATCH), old(BATCH)[:, [0, 2]])


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (single("tech", "politics"), "new head: the labels neg, pos become tech, politics"),
        (Labels("multi_label", ("neg", "pos")), "new head: the labels neg, pos become neg, pos"),
        (RATING, "new head: the labels neg, pos become regression"),
    ],
)
def test_other_labels_give_a_new_head(labels, line):
    old = make_task(single("neg", "pos"))
    torch.manual_seed(5)
    head = MLPHead(HIDDEN, labels.num_outputs)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert str(transfer_weights(weights_of(old), make_backbone(), head, labels)) == line
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "text"), [("masked_tokens", "masked tokens"), ("next_tokens", "next tokens")]
)
def test_labels_without_names_are_reported_by_kind(kind, text):
    start = weights_of(make_task(single("neg", "pos")))
    start.description["labels"] = Labels(kind).to_dict()
    report = transfer_weights(start, make_backbone(), MLPHead(HIDDEN, 1), RATING)
    assert str(report) == f"new head: the labels {text} become regression"


def test_a_regression_head_is_kept_with_other_bins():
    old = make_task(Labels("regression", ("a", "b"), (0,)))
    new, line = new_task_from(old, Labels("regression", ("c", "d", "e"), (-1, 1)))
    assert line == "head kept: labels regression"
    assert torch.equal(new(BATCH), old(BATCH))


@pytest.mark.parametrize(("head_class", "name"), [(LinearHead, "LinearHead"), (OwnHead, "OwnHead")])
def test_a_head_of_another_class_is_new(head_class, name):
    _, line = new_task_from(make_task(RATING), RATING, head_class)
    assert line == f"new head: the config has another head ({name})"


class Unnamed(nn.Module):
    """Head without an attribute `out`."""

    def __init__(self, hidden_size, num_outputs):
        super().__init__()
        self.last = nn.Linear(hidden_size, num_outputs)

    def forward(self, hidden, attention_mask=None):
        return self.last(hidden[:, 0])


def test_outputs_of_a_head_without_out_cannot_be_reordered():
    old = make_task(single("neg", "pos"), Unnamed)
    new, line = new_task_from(old, single("neg", "pos"), Unnamed)
    assert line == "head kept: labels neg, pos"
    assert torch.equal(new(BATCH), old(BATCH))
    with pytest.raises(
        ValueError, match=r"Unnamed cannot be .* no nn.Linear called `out`; rename its last"
    ):
        new_task_from(old, single("pos", "neg"), Unnamed)


def test_align_outputs_returns_the_label_order_of_the_data():
    names, order = ("neg", "neu", "pos"), ("neu", "pos", "neg")
    task = make_task(single(*names)).train()
    before = task.eval()(BATCH)
    aligned = align_outputs(task.train(), single(*order))
    assert not aligned.training
    assert aligned.labels.names == order
    after = aligned(BATCH)
    for position, name in enumerate(order):
        assert torch.equal(after[:, position], before[:, names.index(name)])


def test_a_regression_is_scored_in_the_bins_of_the_data():
    bins = Labels("regression", ("low", "high"), (0,))
    aligned = align_outputs(make_task(RATING), bins)
    assert aligned.labels == bins
    assert "test/accuracy" in aligned.test_metrics.keys()


@pytest.mark.parametrize(
    "labels", [RATING, single("a", "b"), Labels("multi_label", ("neg", "pos"))]
)
def test_a_task_is_not_scored_on_other_labels(labels):
    with pytest.raises(ValueError, match="the model has the labels neg, pos, the data have"):
        align_outputs(make_task(single("neg", "pos")), labels)
