"""Frozen layers run once for each row, and nothing else about the run changes."""

import logging
from collections import Counter

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from datasets import Dataset
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn

from lightning_transfer.callbacks import ActivationCache, AutoFreeze, Freezing, GradualUnfreezing
from lightning_transfer.callbacks.activation_cache import StoreFolder
from lightning_transfer.callbacks.activation_cache.activation_store import VALUES
from lightning_transfer.data import LabelSpec, Splits, TextDataModule, Tokens
from lightning_transfer.heads import LinearHead
from lightning_transfer.tasks import SequenceRegression
from tests.conftest import make_rows, make_tokenizer
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_trainer

TRAIN, VAL, TEST = 44, 8, 12  # none leaves a single row for the last batch of 8
DEPTHS = 4  # embeddings and three layers


class Reviews(TextDataModule):
    """Texts with the balance of their good and bad words as the label."""

    default_label = LabelSpec("regression")

    def load_rows(self):
        rows = make_rows(TRAIN + VAL + TEST)
        texts = [f"{row['text']} {row['id']}" for row in rows]
        return Dataset.from_dict({"text": texts, "label": [row["rating"] for row in rows]})


def reviews(*, seed=0, **arguments):
    data = Reviews(**{"splits": Splits(val=VAL, test=TEST), "batch_size": 8, **arguments})
    data.tokenizer = make_tokenizer()
    data.seed = seed
    return data


def make_task(name="bert", *, pooling="mean", **changes):
    backbone = make_backbone(name, vocab_size=60, **changes)
    data = reviews()
    data.setup("fit")
    head = LinearHead(backbone.hidden_size, 1, pooling=pooling)
    return SequenceRegression(backbone, head, labels=data.labels)


class Watch(pl.Callback):
    """Record losses, and the number of rows through each layer."""

    def __init__(self):
        self.losses, self.val_losses, self.rows = [], [], Counter()

    def setup(self, trainer, pl_module, stage):
        for depth, layer in enumerate(pl_module.backbone.layers[1:], start=1):
            inner = next(m for m in layer.modules() if isinstance(m, nn.Linear))
            inner.register_forward_hook(lambda _, args, out, depth=depth: self.count(depth, args))

    def count(self, depth, args):
        if len(args[0]) > 1:  # a single row: the backbone probes the output type of its layers
            self.rows[depth] += len(args[0])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module):
        self.val_losses.append(trainer.callback_metrics["val/loss"].item())


def fit(task, *callbacks, data=None, epochs=3, watch=None, **arguments):
    torch.manual_seed(7)
    watch = watch or Watch()
    trainer = make_trainer(max_epochs=epochs, callbacks=[*callbacks, watch], **arguments)
    trainer.fit(task, datamodule=data or reviews())
    return watch


def half_frozen():
    return Freezing(-1)


SCHEDULES = {
    "by gradients": lambda: AutoFreeze(100, every=4, keep=2),
    "head": Freezing,
    "last layer": half_frozen,
    "gradual": lambda: GradualUnfreezing("one layer an epoch"),
    "refreezing": lambda: GradualUnfreezing(
        [{"from_depth": 0}, {"from_depth": 3, "at_epoch": 1}, {"from_depth": 2, "at_step": 13}]
    ),
}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("bert", schedule) for schedule in SCHEDULES]
    + [(name, "gradual") for name in ("roberta", "electra", "deberta-v2-conv", "modernbert")],
)
def test_losses_and_weights_equal_those_without_the_cache(name, schedule):
    with_it, without = make_task(name), make_task(name)
    cached = fit(with_it, SCHEDULES[schedule](), ActivationCache())
    plain = fit(without, SCHEDULES[schedule]())
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert cached.val_losses == pytest.approx(plain.val_losses, rel=1e-5)
    for one, other in zip(with_it.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_only_the_first_token_is_stored_for_a_head_over_it(name, tmp_path):
    phases = [{"from_depth": "head"}, {"from_depth": -1, "at_epoch": 2}]
    cached, plain = (
        fit(make_task(name, pooling="cls"), GradualUnfreezing(phases), *more, epochs=4)
        for more in ([ActivationCache(folder=tmp_path)], [])
    )
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert cached.val_losses == pytest.approx(plain.val_losses, rel=1e-5)
    data = reviews()
    data.setup("fit")
    rows, tokens = TRAIN + VAL + TEST, int(data.token_table.starts[-1])
    sizes = {path.stat().st_size for path in tmp_path.glob(f"*/{VALUES}")}
    assert sizes == {rows * HIDDEN * 4, tokens * HIDDEN * 4}


def test_a_frozen_layer_runs_once_per_row_and_a_trainable_one_in_each_epoch():
    watch = fit(make_task(), half_frozen(), ActivationCache(), epochs=4)
    assert watch.rows[1] == watch.rows[2] == TRAIN + VAL
    assert watch.rows[3] >= 4 * (TRAIN + VAL)


def test_without_frozen_layers_nothing_is_stored(tmp_path):
    fit(make_task(), ActivationCache(folder=tmp_path / "stores"))
    fit(make_task(), Freezing("embeddings"), ActivationCache(folder=tmp_path / "stores"))
    assert not (tmp_path / "stores").exists()


def test_the_output_for_a_later_phase_is_stored_in_the_same_pass():
    phases = [{"from_depth": "head"}, {"from_depth": -1, "at_epoch": 1}]
    watch = fit(make_task(), GradualUnfreezing(phases), ActivationCache(), epochs=3)
    assert watch.rows[1] == watch.rows[2] == TRAIN + VAL


def test_only_the_newly_frozen_layers_run_after_refreezing():
    phases = [{"from_depth": 2}, {"from_depth": "head", "at_epoch": 1}]
    watch = fit(make_task(), GradualUnfreezing(phases), ActivationCache(), epochs=4)
    assert watch.rows[1] == TRAIN + VAL
    # Both layers were trained in the first epoch, so their output has changed.
    assert watch.rows[2] == watch.rows[3] == 2 * (TRAIN + VAL)


def test_a_second_run_with_another_seed_and_head_computes_nothing():
    fit(make_task(), Freezing(), ActivationCache())
    task = make_task()
    task.head = nn.Sequential()  # drop the head of the first run
    task.head = LinearHead(task.backbone.hidden_size, 1, pooling="max")
    watch = fit(task, Freezing(), ActivationCache(), data=reviews(seed=5))
    assert watch.rows == {}


@pytest.mark.parametrize("change", ["a weight", "tokens", "precision", "dtype", "a buffer"])
def test_everything_that_changes_the_output_is_part_of_the_key(change):
    fit(make_task(), Freezing(), ActivationCache())
    task, data, dtype, more = make_task(), reviews(), None, {}
    if change == "a weight":
        next(task.backbone.layers[1].parameters()).data[0, 0] += 1e-3
    if change == "heads":
        task = make_task(num_attention_heads=4)  # with equal weights
    if change == "a buffer":
        task.backbone.layers[2].register_buffer("scale", torch.ones(1))
    if change == "tokens":
        data = reviews(tokens=Tokens(max_length=9))
    if change == "precision":
        more = {"precision": "bf16-mixed"}
    if change == "dtype":
        dtype = "float16"
    watch = fit(task, Freezing(), ActivationCache(dtype=dtype), data=data, **more)
    assert watch.rows[1] == TRAIN + VAL


def test_a_weight_above_the_boundary_is_not_part_of_the_key():
    fit(make_task(), half_frozen(), ActivationCache())
    task = make_task()
    next(task.backbone.layers[3].parameters()).data[0, 0] += 1
    assert fit(task, half_frozen(), ActivationCache()).rows[1] == 0


def test_frozen_weights_changed_during_a_run_are_detected():
    class Nudge(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                with torch.no_grad():
                    next(pl_module.backbone.layers[1].parameters()).mul_(1.5)

    with_it, without = make_task(), make_task()
    cached = fit(with_it, Freezing(), Nudge(), ActivationCache(), epochs=4)
    plain = fit(without, Freezing(), Nudge(), epochs=4)
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)


def test_nothing_is_stored_with_active_dropout_in_frozen_layers():
    class Live(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.backbone.requires_grad_(False)
            pl_module.backbone.train()

    watch = fit(make_task(), Live(), ActivationCache(), epochs=3)
    assert watch.rows[1] >= 3 * TRAIN


def test_float16_stores_give_nearly_the_same_losses():
    cached = fit(make_task(), Freezing(), ActivationCache(dtype="float16"))
    plain = fit(make_task(), Freezing())
    assert cached.losses != plain.losses
    assert cached.losses == pytest.approx(plain.losses, rel=1e-2)


def test_a_full_cache_is_logged_once_and_training_continues(caplog):
    caplog.set_level(logging.INFO, "lightning_transfer")
    plain = fit(make_task(), Freezing())
    cached = fit(make_task(), Freezing(), ActivationCache(limit_gb=2e-5))
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert TRAIN + VAL < cached.rows[1] < 3 * (TRAIN + VAL)  # some rows are stored
    logged = [line for line in caplog.messages if "the activation cache is full after" in line]
    assert len(logged) == 1
    assert "the limit is 0.0 GB" in logged[0]
    assert "activation_cache.limit_gb=2e-05" in logged[0]


def test_a_lower_store_is_evicted_for_the_one_in_use(tmp_path):
    phases = [{"from_depth": 2}, {"from_depth": 3, "at_epoch": 2}]
    small, large = tmp_path / "small", tmp_path / "large"
    fit(make_task(), GradualUnfreezing(phases), ActivationCache(folder=large), epochs=4)
    sizes = [path.stat().st_blocks * 512 for path in large.glob(f"*/{VALUES}")]
    assert len(sizes) == 2
    limit = (max(sizes) + min(sizes) / 2) / 1e9
    cache = ActivationCache(limit, folder=small)
    watch = fit(make_task(), GradualUnfreezing(phases), cache, epochs=4)
    [kept] = small.glob(f"*/{VALUES}")
    assert kept.stat().st_blocks * 512 == max(sizes)
    assert watch.rows[3] == 4 * (TRAIN + VAL)


def test_an_unusable_folder_is_logged_and_training_continues(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_transfer")
    (tmp_path / "file").write_text("in the way")
    plain = fit(make_task(), Freezing())
    cached = fit(make_task(), Freezing(), ActivationCache(folder=tmp_path / "file"))
    assert cached.losses == plain.losses
    assert [line for line in caplog.messages if "cache is disabled: cannot use its folder" in line]


class Bare(pl.LightningDataModule):
    """A DataModule without a token table."""

    def val_dataloader(self):
        return []

    def train_dataloader(self):
        data = reviews()
        data.setup("fit")
        return data.train_dataloader()


def own_backbone():
    task = make_task()
    task.backbone = OwnBackbone()
    task._extras = []
    return task


@pytest.mark.parametrize(
    ("task", "data", "why"),
    [
        (make_task, Bare, "the DataModule has no token_table"),
        (
            own_backbone,
            reviews,
            "backbone has no hidden_states_at, max_partial_depth and partial_hidden_size",
        ),
    ],
)
def test_a_missing_requirement_is_logged_once(task, data, why, caplog):
    caplog.set_level(logging.INFO, "lightning_transfer")
    fit(task(), ActivationCache(), data=data(), limit_val_batches=0)
    assert not [line for line in caplog.messages if "is disabled" in line]  # nothing is frozen
    fit(task(), Freezing(), ActivationCache(), data=data(), limit_val_batches=0)
    assert [line for line in caplog.messages if why in line] == [
        f"the activation cache is disabled: {why}"
    ]


def test_rows_of_another_table_are_an_error():
    class Shifted(Reviews):
        def train_dataloader(self):
            loader = super().train_dataloader()
            loader.dataset.positions = np.roll(loader.dataset.positions, 1)
            return loader

    data = Shifted(splits=Splits(val=VAL, test=TEST), batch_size=8)
    data.tokenizer = make_tokenizer()
    data.setup("fit")
    other = reviews(tokens=None)
    other.setup("fit")

    class WrongRows(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch["row"] = batch["row"].roll(1)

    with pytest.raises(
        ValueError, match=r"tokens of row \d+ in a batch differ from those in the DataModule's"
    ):
        fit(make_task(), Freezing(), WrongRows(), ActivationCache(), data=data)


@pytest.mark.parametrize("late", [Freezing, GradualUnfreezing, AutoFreeze, BackboneFinetuning])
def test_a_freezing_callback_after_the_cache_is_an_error(late):
    with pytest.raises(ValueError, match=f"must come after {late.__name__}"):
        fit(make_task(), ActivationCache(), late())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit_gb": 0}, "limit_gb must be > 0, got 0"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, null, got 'int8'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActivationCache(**arguments)


def test_a_test_reads_the_store_of_a_fit_and_creates_none(tmp_path):
    folder = tmp_path / "stores"

    def scored(task):
        watch, data = Watch(), reviews()
        trainer = make_trainer(callbacks=[ActivationCache(folder=folder), watch])
        [values] = trainer.test(task, datamodule=data, verbose=False)
        return watch.rows[1], values["test/loss"]

    trained = make_task()
    assert scored(trained)[0] == TEST
    assert not folder.exists()
    fit(trained, Freezing(), ActivationCache(folder=folder))
    trained.requires_grad_(True)
    first, second = scored(trained), scored(trained)
    assert (first[0], second[0]) == (TEST, 0)
    assert first[1] == pytest.approx(second[1], rel=1e-6)
    assert len(list(folder.iterdir())) == 1


def test_stores_can_be_evicted_after_the_fit(tmp_path):
    fit(make_task(), Freezing(), ActivationCache(folder=tmp_path))
    [store] = tmp_path.iterdir()
    assert StoreFolder(tmp_path, limit=1)._evict()
    assert not store.exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_losses_are_equal_in_other_precisions(precision):
    cached = fit(make_task(), half_frozen(), ActivationCache(), precision=precision)
    plain = fit(make_task(), half_frozen(), precision=precision)
    tolerance = 1e-9 if precision == "64-true" else 2e-2
    assert cached.losses == pytest.approx(plain.losses, rel=tolerance, abs=tolerance)


def test_losses_are_equal_under_gradient_accumulation():
    arguments = {"accumulate_grad_batches": 2, "epochs": 3}
    cached = fit(make_task(), half_frozen(), ActivationCache(), **arguments)
    plain = fit(make_task(), half_frozen(), **arguments)
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)


def test_each_depth_is_logged_once(caplog):
    caplog.set_level(logging.INFO, "lightning_transfer")
    phases = [{"from_depth": "head"}, {"from_depth": 2, "at_epoch": 1}]
    fit(make_task(), GradualUnfreezing(phases), ActivationCache(), epochs=3)
    lines = [line for line in caplog.messages if "computed once" in line]
    assert [line.partition(" are")[0] for line in lines] == ["depths 0-3", "depths 0-1"]
