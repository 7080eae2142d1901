"""Classification and regression tasks, and the base class of tasks."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.objectives import Weighted
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import (
    HIDDEN,
    OwnBackbone,
    OwnHead,
    make_backbone,
    make_batch,
    make_loader,
    make_trainer,
)

MOODS = ("negative", "neutral", "positive")
REGRESSION = Labels("regression")
BINS = Labels("regression", MOODS, (-0.5, 0.5))
SINGLE = Labels("single_label", MOODS)
MULTI = Labels("multi_label", MOODS)


def regression(labels=REGRESSION, **arguments):
    return SequenceRegression(make_backbone(), LinearHead(HIDDEN, 1), labels=labels, **arguments)


def classification(labels=SINGLE, **arguments):
    head = LinearHead(HIDDEN, labels.num_outputs)
    return SequenceClassification(make_backbone(), head, labels=labels, **arguments)


def measure(task, logits, targets):
    """Return metrics over several batches, the last of them smaller."""
    metrics = task.build_metrics()
    for rows in torch.arange(len(logits)).split(9):
        task.update_metrics(metrics, logits[rows], targets[rows])
    return {name: value.item() for name, value in metrics.compute().items()}


def accuracy(one, other):
    return np.mean(np.asarray(one) == np.asarray(other))


def f1(truth, predicted, value=1):
    hits = np.sum((truth == value) & (predicted == value))
    return 2 * hits / max(1, np.sum(truth == value) + np.sum(predicted == value))


def matthews(truth, predicted):
    """Return the Matthews correlation coefficient of two classes from the four counts."""
    tp, tn = np.sum(truth & predicted), np.sum(~truth & ~predicted)
    fp, fn = np.sum(~truth & predicted), np.sum(truth & ~predicted)
    return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


RNG = np.random.default_rng(0)
TRUE_VALUES = RNG.normal(size=47).astype(np.float32)
PREDICTED_VALUES = (0.6 * TRUE_VALUES + RNG.normal(scale=0.7, size=47)).astype(np.float32)


def test_regression_loss_is_the_mean_squared_error():
    loss = regression().loss(torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([1.0, 4.0, 0.5]))
    assert loss.item() == pytest.approx((0 + 4 + 0.25) / 3)


def test_regression_metrics_equal_those_of_scipy():
    values = measure(
        regression(), torch.tensor(PREDICTED_VALUES)[:, None], torch.tensor(TRUE_VALUES)
    )
    error = np.sum((PREDICTED_VALUES - TRUE_VALUES) ** 2)
    assert set(values) == {"pearson", "spearman", "r2"}
    assert values["pearson"] == pytest.approx(
        scipy.stats.pearsonr(PREDICTED_VALUES, TRUE_VALUES)[0], 1e-4
    )
    assert values["spearman"] == pytest.approx(
        scipy.stats.spearmanr(PREDICTED_VALUES, TRUE_VALUES)[0], 1e-4
    )
    expected = 1 - error / np.sum((TRUE_VALUES - TRUE_VALUES.mean()) ** 2)
    assert values["r2"] == pytest.approx(expected, 1e-4)


def test_named_bins_are_scored_as_classes():
    values = measure(
        regression(BINS), torch.tensor(PREDICTED_VALUES)[:, None], torch.tensor(TRUE_VALUES)
    )
    truth = np.array([BINS.bin_index(r) for r in TRUE_VALUES])
    predicted = np.array([BINS.bin_index(r) for r in PREDICTED_VALUES])
    assert set(truth) == {0, 1, 2}
    assert values["accuracy"] == pytest.approx(accuracy(truth, predicted))
    assert values["macro_f1"] == pytest.approx(np.mean([f1(truth, predicted, c) for c in range(3)]))


def test_a_value_equal_to_a_cutoff_is_in_the_lower_bin():
    targets = torch.tensor([-0.5, 0.5, 0.5, -0.5])
    values = measure(regression(BINS), torch.tensor([[-9.0], [0.0], [0.51], [-0.49]]), targets)
    assert values["accuracy"] == 0.5


def test_single_label_loss_is_cross_entropy():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    logs = logits - logits.exp().sum(-1, keepdim=True).log()
    loss = classification().loss(logits, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(-(logs[0, 0] + logs[1, 2]).item() / 2)


def test_class_weights_are_given_by_name():
    task = classification(class_weights={"positive": 3, "negative": 0.5})
    assert task.loss_weights.tolist() == [0.5, 1.0, 3.0]
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    logs = logits - logits.exp().sum(-1, keepdim=True).log()
    loss = task.loss(logits, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(-(0.5 * logs[0, 0] + 3 * logs[1, 2]).item() / 3.5)


def test_label_smoothing_spreads_a_fraction_over_all_classes():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    logs = (logits - logits.exp().sum(-1, keepdim=True).log())[0]
    loss = classification(label_smoothing=0.3).loss(logits, torch.tensor([1]))
    assert loss.item() == pytest.approx(-(0.7 * logs[1] + 0.1 * logs.sum()).item())


def test_multi_label_loss_is_binary_cross_entropy():
    task = classification(MULTI, class_weights={"neutral": 2.0}, label_smoothing=0.2)
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    yes, no = logits.sigmoid().log()[0], (1 - logits.sigmoid()).log()[0]
    targets = torch.tensor([[1.0, 1.0, 0.0]])
    smooth = torch.tensor([0.9, 0.9, 0.1])
    expected = -(smooth * torch.tensor([1.0, 2.0, 1.0]) * yes + (1 - smooth) * no).mean()
    assert task.loss(logits, targets).item() == pytest.approx(expected.item())
    plain = -(targets[0] * yes + (1 - targets[0]) * no).mean()
    assert classification(MULTI).loss(logits, targets).item() == pytest.approx(plain.item())


def test_balanced_weights_are_inverse_to_the_training_counts():
    task = classification(class_weights="balanced")
    counts = {"positive": 10, "negative": 40, "neutral": 10}
    task.trainer = SimpleNamespace(datamodule=SimpleNamespace(label_counts=counts))
    task.setup("fit")
    assert task.loss_weights.tolist() == [0.5, 2.0, 2.0]
    weights = dict(zip(MOODS, task.loss_weights.tolist(), strict=True))
    assert sum(weights[name] * count for name, count in counts.items()) == 60


def test_balanced_weights_without_counts_are_an_error():
    task = classification(class_weights="balanced")
    with pytest.raises(ValueError, match="needs a DataModule with `label_counts`; pass weights"):
        make_trainer().fit(task, *[make_loader("single_label", outputs=3)] * 2)


def test_single_label_metrics_equal_their_definitions():
    truth = RNG.integers(0, 3, 60)
    logits = RNG.normal(size=(60, 3)) + 1.2 * np.eye(3)[truth]
    predicted = logits.argmax(1)
    values = measure(classification(), torch.tensor(logits).float(), torch.tensor(truth))
    assert values["accuracy"] == pytest.approx(accuracy(truth, predicted))
    assert values["macro_f1"] == pytest.approx(np.mean([f1(truth, predicted, c) for c in range(3)]))
    # For several classes the coefficient is the correlation of the one-hot tables.
    one, other = np.eye(3)[truth], np.eye(3)[predicted]
    one, other = one - one.mean(0), other - other.mean(0)
    expected = np.sum(one * other) / np.sqrt(np.sum(one**2) * np.sum(other**2))
    assert values["mcc"] == pytest.approx(expected, 1e-4)


def test_matthews_of_two_classes_follows_from_the_four_counts():
    truth = RNG.integers(0, 2, 60)
    logits = RNG.normal(size=(60, 2)) + np.eye(2)[truth]
    task = classification(Labels("single_label", ("no", "yes")))
    values = measure(task, torch.tensor(logits).float(), torch.tensor(truth))
    expected = matthews(truth.astype(bool), logits.argmax(1).astype(bool))
    assert values["mcc"] == pytest.approx(expected, 1e-4)


def test_multi_label_metrics_equal_their_definitions():
    truth = RNG.integers(0, 2, (60, 3))
    logits = RNG.normal(size=(60, 3)) + 1.2 * (2 * truth - 1)
    predicted = logits > 0
    targets = torch.tensor(truth).float()  # multi-hot, as in a batch
    values = measure(classification(MULTI), torch.tensor(logits).float(), targets)
    assert values["accuracy"] == pytest.approx(accuracy(truth, predicted))
    assert values["macro_f1"] == pytest.approx(
        np.mean([f1(truth[:, c], predicted[:, c]) for c in range(3)])
    )
    expected = matthews(truth.astype(bool).ravel(), predicted.ravel())
    assert values["mcc"] == pytest.approx(expected, 1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: classification(REGRESSION),
            "got 'regression'; use task=sequence_regression, or dat",
        ),
        (
            lambda: regression(SINGLE),
            "of kind 'regression', got 'single_label'; use task=sequence_classif",
        ),
        (
            lambda: classification(class_weights={"good": 2}),
            "unknown label 'good'; known: negative, neutral, positive",
        ),
        (
            lambda: classification(class_weights={"neutral": 0}),
            "class_weights must be > 0, got 0.0 for 'neutral'",
        ),
        (
            lambda: classification(class_weights="equal"),
            "null, balanced or {label: weight}, got 'equal'; set task.class_weights",
        ),
        (
            lambda: classification(label_smoothing=1),
            r"in \[0, 1\), got 1; set task.label_smoothing=0.1",
        ),
        (lambda: classification(label_smoothing=-0.1), r"in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_labels_and_arguments_are_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_probabilities_depend_on_the_kind_of_labels():
    logits = torch.tensor([[0.0, math.log(3.0), -50.0]])
    torch.testing.assert_close(
        classification().probabilities(logits), torch.tensor([[0.25, 0.75, 0.0]])
    )
    torch.testing.assert_close(
        classification(MULTI).probabilities(logits), torch.tensor([[0.5, 0.75, 0.0]])
    )
    assert regression().probabilities(logits) is logits


def test_outputs_are_those_of_the_head_from_the_features_of_the_backbone():
    task = regression().eval()
    batch = make_batch()
    hidden = task.backbone(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(task(batch), task.head(hidden, batch["attention_mask"]))


def test_token_types_are_passed_to_a_backbone_that_accepts_them():
    task = regression().eval()
    batch = make_batch()
    other = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    assert (task(batch) - task(other)).abs().max() > 1e-3


def test_token_types_are_not_passed_to_a_backbone_that_does_not_accept_them():
    task = SequenceRegression(OwnBackbone(), OwnHead(HIDDEN, 1), labels=REGRESSION)
    batch = make_batch()
    batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
    assert task(batch).shape == (3, 1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("regression", lambda b: SequenceRegression(b, MLPHead(HIDDEN, 1), labels=BINS)),
        ("single_label", lambda b: SequenceClassification(b, MLPHead(HIDDEN, 3), labels=SINGLE)),
        ("multi_label", lambda b: SequenceClassification(b, MLPHead(HIDDEN, 3), labels=MULTI)),
    ],
)
def test_a_16_bit_backbone_trains_with_a_32_bit_head(kind, build, precision):
    task = build(make_backbone(dtype="bfloat16"))
    loader = make_loader(kind, outputs=3)
    trainer = make_trainer(precision=precision)
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert {p.dtype for p in task.backbone.parameters()} == {torch.bfloat16}
    [first, *_] = trainer.predict(task, loader)
    assert first["logits"].dtype == torch.float32


@pytest.mark.parametrize("backbone_mode", [True, False])
def test_fit_trains_in_train_mode_for_any_initial_mode(backbone_mode):
    modes = []

    class Watched(SequenceRegression):
        def training_step(self, batch, batch_idx):
            modes.append({module.training for module in self.modules()})
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            modes.append({module.training for module in self.modules()})
            super().validation_step(batch, batch_idx)

    task = Watched(make_backbone(), LinearHead(HIDDEN, 1), labels=REGRESSION)
    task.backbone.model.train(backbone_mode)
    make_trainer(max_epochs=2).fit(task, make_loader(), make_loader())
    assert modes == ([{True}] * 3 + [{False}] * 3) * 2


def test_logged_values_are_computed_over_all_rows():
    task = classification().eval()
    loader = make_loader("single_label", rows=10, outputs=3)
    trainer = make_trainer()
    [values] = trainer.validate(task, loader, verbose=False)
    with torch.no_grad():
        batches = list(loader)
        logits = torch.cat([task(batch) for batch in batches])
        targets = torch.cat([batch["labels"] for batch in batches])
    assert set(values) == {"val/loss", "val/accuracy", "val/macro_f1", "val/mcc"}
    assert values["val/loss"] == pytest.approx(task.loss(logits, targets).item(), 1e-4)
    assert values["val/accuracy"] == pytest.approx(
        accuracy(logits.argmax(1).numpy(), targets.numpy())
    )
    [tested] = trainer.test(task, loader, verbose=False)
    assert {name.replace("test/", "val/"): v for name, v in tested.items()} == values


def test_metrics_are_reset_between_validations():
    task = regression()
    trainer = make_trainer()
    first, _, again = (
        trainer.validate(task, make_loader(rows=rows), verbose=False)[0] for rows in (12, 8, 12)
    )
    assert first == again


def test_the_monitored_metric_is_a_validation_metric():
    for task in (regression(), regression(BINS), classification(), classification(MULTI)):
        assert task.monitor in task.val_metrics.keys()
        assert task.mode == "max"


def test_predictions_contain_the_index_of_their_rows():
    task = classification().eval()
    batches = make_trainer().predict(task, make_loader("single_label", rows=10, outputs=3))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch["logits"] for batch in batches]).shape == (10, 3)


class Constant(nn.Module):
    """An objective that records its arguments."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.given = []

    def forward(self, source, target, task):
        self.given.append((source, target, task))
        return self.value * 1.0


def step(task, batch, *, at=0):
    """Return the loss of a training step at optimizer step ``at``, and the logged values."""
    logged = {}
    task.log = lambda name, value, **_: logged.update({name: value.item()})
    task._trainer = SimpleNamespace(global_step=at)
    return task.training_step(batch, 0).item(), logged


def test_objectives_are_added_with_their_weight_and_warm_up():
    one, two = Constant(5.0), Constant(7.0)
    weighted = {"one": Weighted(one, weight=2.0), "two": Weighted(two, weight=1.0, warmup=10)}
    task = regression(objectives=weighted).eval()
    batch = make_batch()
    plain = task.loss(task(batch), batch["labels"]).item()
    loss, logged = step(task, batch, at=4)
    assert loss == pytest.approx(plain + 2 * 5 + 0.4 * 7)
    assert logged == {
        "train/one": 5.0,
        "train/two": 7.0,
        "train/loss": pytest.approx(loss),
    }
    [(source, target, given)] = one.given
    assert source is batch
    assert target is None
    assert given is task


def test_the_loss_uses_the_source_batch_and_objectives_get_both_batches():
    objective = Constant(0.0)
    task = regression(objectives={"own": Weighted(objective)}).eval()
    source, target = make_batch(), make_batch(seed=9)
    loss, _ = step(task, {"source": source, "target": target})
    assert loss == pytest.approx(task.loss(task(source), source["labels"]).item())
    assert objective.given[0][:2] == (source, target)


def test_parameters_of_objectives_are_trained_and_saved():
    objective = Constant(5.0)
    task = regression(objectives={"own": Weighted(objective)})
    make_trainer().fit(task, make_loader(), make_loader())
    assert objective.value.item() < 5.0
    assert "objectives.own.value" in task.state_dict()


def test_class_weights_work_with_16_bit_logits():
    task = classification(class_weights={"positive": 3.0})
    logits, targets = torch.randn(4, 3), torch.arange(4) % 3
    half = task.loss(logits.bfloat16(), targets)
    assert half.item() == pytest.approx(task.loss(logits.bfloat16().float(), targets).item())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_gradients_are_released_before_the_next_forward_pass(accumulated):
    task = regression()
    held = []

    def watch(*_):
        if task.training:
            held.append(any(parameter.grad is not None for parameter in task.parameters()))

    task.head.register_forward_pre_hook(watch)
    make_trainer(accumulate_grad_batches=accumulated, max_epochs=2).fit(
        task, make_loader(), make_loader()
    )
    batches = len(make_loader())
    assert batches > 2
    summed = [batch % accumulated != 0 for batch in range(batches)]  # accumulated gradients stay
    assert held == summed * 2
