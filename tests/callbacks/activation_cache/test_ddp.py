"""Stores are shared by ranks and by a resumed run."""

import json
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from lightning_transfer.callbacks import ActivationCache, Freezing, GradualUnfreezing, ResumePoint
from tests.callbacks.activation_cache.test_callback import TRAIN, VAL, Watch, make_task, reviews
from tests.tiny import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
PHASES = [
    {"from_depth": "head"},
    {"from_depth": 2, "at_epoch": 1},
    {"from_depth": 0, "at_epoch": 3},
]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Note(pl.Callback):
    """Save the weights of each rank after each epoch, and the number of rows through its layers."""

    def __init__(self, folder, watch):
        self.folder, self.watch = folder, watch

    def on_train_epoch_end(self, trainer, module):
        name = f"epoch{trainer.current_epoch}-rank{trainer.global_rank}"
        torch.save(module.state_dict(), self.folder / f"{name}.pt")
        (self.folder / f"{name}.json").write_text(json.dumps(self.watch.rows))


def fit(folder, *callbacks, ranks, epochs=4):
    folder.mkdir()
    watch = Watch()
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    trainer = make_trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, watch, Note(folder, watch)],
        use_distributed_sampler=False,
        **({"devices": ranks, "strategy": strategy} if ranks > 1 else {}),
    )
    task = make_task(**NO_DROPOUT)
    task.head.dropout.p = 0.0
    trainer.fit(task, datamodule=reviews(batch_size=8 // ranks))
    return folder


def weights(folder, epoch, rank):
    return torch.load(folder / f"epoch{epoch}-rank{rank}.pt", weights_only=True)


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_ranks_stay_equal_and_equal_one_device_without_the_cache(tmp_path):
    cache = ActivationCache(folder=tmp_path / "stores")
    two = fit(tmp_path / "two", GradualUnfreezing(PHASES), cache, ranks=2)
    one = fit(tmp_path / "one", GradualUnfreezing(PHASES), ranks=1)
    for epoch in range(4):
        ranks = [weights(two, epoch, rank) for rank in range(2)]
        assert largest_difference(*ranks) == 0
        assert largest_difference(weights(one, epoch, 0), ranks[0]) < 2e-5
    assert largest_difference(weights(two, 0, 0), weights(two, 3, 0)) > 1e-3


def test_no_row_is_computed_on_two_ranks(tmp_path):
    cache = ActivationCache(folder=tmp_path / "stores")
    folder = fit(tmp_path / "two", Freezing(), cache, ranks=2)
    seen = [json.loads((folder / f"epoch3-rank{rank}.json").read_text()) for rank in range(2)]
    # Without the rows for padding, a batch of four may have one row left, which Watch ignores.
    assert TRAIN + VAL - 4 <= sum(rows["1"] for rows in seen) <= TRAIN + VAL


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Stop


def run(folder, *callbacks, epochs=3, start=None):
    watch, task = Watch(), make_task()
    torch.manual_seed(3)
    point = ResumePoint(folder, every_n_steps=1)
    cache = ActivationCache(folder=folder / "stores")
    schedule = GradualUnfreezing([{"from_depth": 2}, {"from_depth": "head", "at_epoch": 2}])
    trainer = make_trainer(
        max_epochs=epochs,
        callbacks=[schedule, cache, *callbacks, watch, point],
        enable_checkpointing=True,
    )
    try:
        trainer.fit(task, datamodule=reviews(), ckpt_path=start)
    except Stop:
        pass
    return task, watch, point.path


@pytest.mark.parametrize("step", [2, 6, 9, 14])
def test_a_resumed_run_is_exact_and_computes_no_row_again(tmp_path, step):
    whole, counted, _ = run(tmp_path / "whole")
    _, before, path = run(tmp_path / "cut", StopAt(step))
    resumed, after, _ = run(tmp_path / "cut", start=path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    together = Counter(before.rows) + Counter(after.rows)
    assert together[1] == counted.rows[1] == TRAIN + VAL
