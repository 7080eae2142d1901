"""Progress bar and progress lines of a stage."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch

from lightning_transfer.callbacks import StageProgress, StageProgressBar
from lightning_transfer.heads import LinearHead
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, OwnBackbone, make_loader, make_trainer

TITLE = "target after source · seed 0"


def make_task():
    torch.manual_seed(0)
    return SequenceRegression(OwnBackbone(), LinearHead(HIDDEN, 1), labels=Labels("regression"))


def bar_in(trainer):
    bar = StageProgressBar(TITLE)
    bar._trainer = trainer
    return bar


def test_the_bar_shows_stage_and_epoch():
    bar = bar_in(SimpleNamespace(max_epochs=3))
    assert bar._get_train_description(0) == f"{TITLE} · epoch 1/3"
    assert bar.validation_description == f"{TITLE} · validation"
    assert bar.test_description == f"{TITLE} · test"
    for endless in (None, -1):
        assert bar_in(SimpleNamespace(max_epochs=endless))._get_train_description(4) == (
            f"{TITLE} · epoch 5"
        )


def test_the_bar_shows_only_the_loss_and_the_monitored_metric():
    metrics = {"train/loss": 0.5, "val/loss": 0.4, "val/pearson": 0.25, "val/r2": 0.1}
    trainer = SimpleNamespace(callback_metrics={k: torch.tensor(v) for k, v in metrics.items()})
    shown = bar_in(trainer).get_metrics(trainer, make_task())
    assert shown == {"train/loss": 0.5, "val/pearson": 0.25}


def test_the_bar_works_in_fit_and_test(capfd):
    task = make_task()
    trainer = make_trainer(enable_progress_bar=True, callbacks=[StageProgressBar(TITLE)])
    trainer.fit(task, make_loader(), make_loader())
    trainer.test(task, make_loader(), verbose=False)
    shown = capfd.readouterr().out
    assert "epoch 1/1" in shown


def lines(caplog, *, monitor=None, **arguments):
    caplog.set_level(logging.INFO, "lightning_transfer")
    trainer = make_trainer(callbacks=[StageProgress(TITLE)], log_every_n_steps=1, **arguments)
    task = make_task()
    task.recipe = Recipe(monitor=monitor)
    trainer.fit(task, make_loader(), make_loader())
    return [r.getMessage() for r in caplog.records if r.name.startswith("lightning_transfer")]


def test_each_epoch_is_one_line_with_losses_metric_and_seconds(caplog):
    first, second = lines(caplog, max_epochs=2)
    number = r"-?\d+\.\d{3}"
    pattern = (
        rf"epoch 1/2 · train/loss {number}, val/loss {number}, val/pearson {number} · \d\.\d s"
    )
    assert re.fullmatch(f"{TITLE} · {pattern}", first)
    assert second.startswith(f"{TITLE} · epoch 2/2 · train/loss")


@pytest.mark.parametrize(
    ("monitor", "shown"),
    [("val/loss", ["train/loss", "val/loss"]), ("val/r2", ["train/loss", "val/loss", "val/r2"])],
)
def test_a_line_shows_losses_and_the_monitored_metric_once(caplog, monitor, shown):
    [line] = lines(caplog, monitor=monitor)
    assert re.findall(r"\w+/\w+(?= )", line.partition("epoch 1/1")[2]) == shown


def test_an_endless_run_counts_its_epochs(caplog):
    [only] = lines(caplog, max_epochs=-1, max_steps=3)
    assert only.startswith(f"{TITLE} · epoch 1 · train/loss")


def test_a_line_without_metrics_has_no_gap(caplog):
    caplog.set_level(logging.INFO)
    trainer = SimpleNamespace(
        is_global_zero=True, callback_metrics={}, max_epochs=2, current_epoch=0
    )
    progress = StageProgress(TITLE)
    progress.on_train_epoch_start(trainer, make_task())
    progress.on_train_epoch_end(trainer, make_task())
    assert re.fullmatch(rf"{TITLE} · epoch 1/2 · \d\.\d s", caplog.messages[-1])


def test_only_rank_zero_logs(caplog):
    caplog.set_level(logging.INFO)
    trainer = SimpleNamespace(is_global_zero=False)
    StageProgress(TITLE).on_train_epoch_end(trainer, make_task())
    assert caplog.messages == []
