"""Linear and MLP heads: values, padding, arguments and initial weights."""

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, RobertaForSequenceClassification

from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.heads.pooling import pool
from tests.tiny import CONFIGS, HIDDEN, make_inputs

HEADS = [LinearHead, MLPHead]
heads = pytest.mark.parametrize("head_class", HEADS)
IDS, MASK = make_inputs()
FEATURES = torch.randn(*IDS.shape, HIDDEN, generator=torch.Generator().manual_seed(0))


def test_linear_head_is_a_linear_layer_over_pooled_features():
    head = LinearHead(HIDDEN, 3, pooling="mean").eval()
    expected = pool(FEATURES, MASK, "mean") @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(FEATURES, MASK), expected)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("tanh", torch.tanh), ("relu", torch.relu), ("gelu", nn.functional.gelu)],
)
def test_mlp_head_is_dense_activation_output(activation, function):
    head = MLPHead(HIDDEN, 3, activation=activation).eval()
    dense = FEATURES[:, 0] @ head.dense.weight.T + head.dense.bias
    expected = function(dense) @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(FEATURES, MASK), expected)


def test_mlp_head_equals_the_classification_head_of_bert():
    model = BertForSequenceClassification(CONFIGS["bert"]).eval()
    head = MLPHead(HIDDEN, 2).eval()
    head.load_pooler(model.bert.pooler.dense.state_dict())
    head.out.load_state_dict(model.classifier.state_dict())
    expected = model.classifier(model.bert.pooler(FEATURES))
    assert torch.equal(head(FEATURES, MASK), expected)


def test_mlp_head_equals_the_classification_head_of_roberta():
    model = RobertaForSequenceClassification(CONFIGS["roberta"]).eval()
    head = MLPHead(HIDDEN, 2).eval()
    head.dense.load_state_dict(model.classifier.dense.state_dict())
    head.out.load_state_dict(model.classifier.out_proj.state_dict())
    assert torch.equal(head(FEATURES, MASK), model.classifier(FEATURES))


@heads
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_padding_does_not_change_the_output(head_class, pooling):
    head = head_class(HIDDEN, 2, pooling=pooling).eval()
    changed = FEATURES.masked_fill(MASK[..., None] == 0, 7.0)
    assert torch.equal(head(changed, MASK), head(FEATURES, MASK))
    assert head(FEATURES).shape == (3, 2)


@heads
def test_dropout_is_on_in_train_mode_only(head_class):
    head = head_class(HIDDEN, 2, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(head(FEATURES, MASK), head(FEATURES, MASK))
    head.eval()
    assert torch.equal(head(FEATURES, MASK), head(FEATURES, MASK))


@heads
def test_args_rebuild_the_head(head_class):
    head = head_class(HIDDEN, 4, pooling="max", dropout=0.3)
    rebuilt = head_class(HIDDEN, 4, **head.args)
    rebuilt.load_state_dict(head.state_dict())
    assert rebuilt.args == head.args
    assert torch.equal(rebuilt.eval()(FEATURES, MASK), head.eval()(FEATURES, MASK))


def test_args_include_the_activation():
    assert MLPHead(HIDDEN, 1, activation="relu").args == {
        "pooling": "cls",
        "activation": "relu",
        "dropout": 0.1,
    }


@heads
def test_the_output_layer_is_initialised_as_in_bert(head_class):
    torch.manual_seed(0)
    head = head_class(256, 256)
    assert head.out.bias.abs().max() == 0
    assert head.out.weight.std().item() == pytest.approx(0.02, rel=0.05)


@heads
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "sum"}, "one of cls, mean, max, last, got 'sum'; set head.pooling=mean"),
        ({"num_outputs": 0}, "num_outputs must be >= 1, got 0"),
    ],
)
def test_invalid_arguments_raise(head_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        head_class(HIDDEN, **{"num_outputs": 2, **arguments})


def test_an_unknown_activation_raises():
    with pytest.raises(
        ValueError, match=r"one of tanh, relu, gelu, got 'swish'; set head.activation=tanh"
    ):
        MLPHead(HIDDEN, 2, activation="swish")


def test_a_pooler_of_another_width_raises():
    with pytest.raises(RuntimeError, match="size mismatch"):
        MLPHead(HIDDEN, 2).load_pooler(nn.Linear(8, 8).state_dict())


@heads
@pytest.mark.parametrize(
    ("pooling", "first_token"), [("cls", True), ("mean", False), ("max", False)]
)
def test_first_token_is_true_for_cls_pooling_only(head_class, pooling, first_token):
    head = head_class(HIDDEN, 2, pooling=pooling).eval()
    assert head.first_token is first_token
    hidden, mask = torch.randn(3, 5, HIDDEN), torch.ones(3, 5)
    assert torch.equal(head(hidden, mask), head(hidden[:, :1], mask)) is first_token
