"""AutoFreeze on one device: rule, freezing steps and resume."""

import logging
import math
from contextlib import nullcontext

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lightning_transfer.callbacks import AutoFreeze, ResumePoint
from lightning_transfer.callbacks.auto_freeze import (
    GradientSums,
    relative_changes,
    settled_boundary,
)
from tests.callbacks.test_gradual_unfreezing import SCHEDULERS, Plain, Rates, Watch, loader
from tests.tiny import make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no",
    "ignore:.*used to create the checkpoint",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
)
WIDTH, DEPTHS, STEPS = 4, 4, 12
# Summed gradient of each layer (columns) in each interval of two steps (rows); then the changes.
LEVELS = [
    [1.0, 1.0, 1.0, 1.0],
    [1.1, 1.5, 1.2, 2.0],  # 0.1 0.5 0.2 1.0: depth 0 is below 0.35, and the next is not
    [1.1, 2.1, 1.26, 3.0],  # - 0.4 0.05 0.5: depth 2 is below 0.4, but depth 1 is not
    [1.1, 2.205, 1.386, 4.5],  # - 0.05 0.1 0.5: depth 1 is below 0.1
    [1.1, 2.205, 1.5246, 6.75],  # - - 0.1 0.5: depth 2 is below 0.3
    [1.1, 2.205, 1.5246, 6.75],
]
FROZEN = [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2  # layers, before each step


@pytest.mark.parametrize(
    ("change", "percentile", "frozen", "boundary"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 50, 0, 2),
        ([0.3, 0.1, 0.1, 0.4, 0.5], 50, 0, 0),  # depth 0 equals the median
        ([0.1, 0.9, 0.1, 0.4, 0.5], 50, 0, 1),  # depth 2 has settled, but depth 1 below has not
        ([0.1, 0.2, 0.3, 0.4, 0.5], 90, 0, 4),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 20, 0, 1),
        ([None, 0.1, 0.5, 0.2, 0.5], 50, 1, 2),  # a frozen layer does not count
        (
            [None, 0.1, 0.5, 0.2, 0.5],
            50,
            0,
            2,
        ),  # a layer without trainable parameters is passed over
        ([None, 0.5, 0.1, 0.2, 0.5], 50, 0, 0),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 50, 0, 0),  # no layer changes less than the others
        ([0.1, math.inf, math.inf, math.inf, math.inf], 50, 0, 1),
        ([0.1, 0.2, 0.3, math.inf, math.inf], 50, 0, 2),
        ([0.5, 0.2], 100, 0, 0),
        ([0.2, 0.5], 100, 0, 1),
    ],
)
def test_consecutive_layers_below_the_percentile_are_frozen(change, percentile, frozen, boundary):
    known = {depth: value for depth, value in enumerate(change) if value is not None}
    assert settled_boundary(known, percentile, range(frozen, len(change))) == boundary


def test_the_change_of_a_norm_is_relative_to_the_previous_norm():
    found = relative_changes(
        {0: 2.0, 1: 2.0, 2: 0.0, 3: 0.0, 5: 1.0}, {0: 3.0, 1: 1.5, 2: 0.0, 3: 1.0}
    )
    assert found == {0: 0.5, 1: 0.25, 2: 0.0, 3: math.inf}


def gradients(kind, step):
    """Return gradients of a layer with outliers, or of an embedding table with few rows in use."""
    generator = torch.Generator().manual_seed(step)
    if kind == "layer":
        size = torch.randn(1536, 1, generator=torch.Generator().manual_seed(0)).mul(0.5).exp()
        return (1 + 0.1 * step) * size * torch.randn(1536, 384, generator=generator)
    table = torch.zeros(5000, 384)
    rows = torch.randint(0, 5000, (500,), generator=generator) ** 2 // 5000
    table[rows] = torch.randn(500, 384, generator=generator)
    return table


@pytest.mark.parametrize("kind", ["layer", "table"])
def test_one_eleventh_of_the_values_estimates_the_norm_and_its_change(kind):
    sampled, exact = [], []
    for interval in range(2):
        steps = [gradients(kind, 1 + 4 * interval + step) for step in range(4)]
        sums = GradientSums()
        for gradient in steps:
            sums.add("a", gradient)
        assert sums.sums["a"].numel() == pytest.approx(steps[0].numel() / 11, rel=1e-3)
        sampled.append(sums.norms({"a": 0}))
        exact.append({0: sum(steps).norm().item()})
    assert relative_changes(*exact)[0] == pytest.approx(relative_changes(*sampled)[0], abs=0.01)
    assert sampled[0][0] == pytest.approx(exact[0][0], rel=0.02)


def test_each_row_and_column_is_sampled_and_small_tensors_have_their_weight():
    for width in (384, 512, 768, 896, 1024, 1536):
        sums = GradientSums()
        met = torch.arange(64 * width).view(64, width)
        sums.add("w", met)
        share = sums.sums["w"].numel() / met.numel()
        seen = (sums.sums["w"].double() * share**0.5).round().long().flatten()
        assert set((seen // width).tolist()) == set(range(64))
        assert set((seen % width).tolist()) == set(range(width))
    sums = GradientSums()
    sums.add("w", torch.ones(768, 768))
    sums.add("b", torch.ones(768))
    assert sums.norms({"w": 0, "b": 0})[0] == pytest.approx(math.sqrt(768 * 769), rel=1e-5)


def test_small_tensors_are_summed_completely():
    sums = GradientSums()
    for step in range(1, 3):
        sums.add("a", torch.tensor([[1.0, -2.0]]) * step)
        sums.add("b", torch.tensor([2.0], dtype=torch.bfloat16) * (-1) ** step)
        sums.add("c", torch.tensor([4.0]))
    assert sums.norms({"a": 1, "b": 1, "c": 4}) == {1: pytest.approx(math.sqrt(45)), 4: 8.0}
    sums.clear()
    assert sums.norms({"a": 1, "b": 1, "c": 4}) == {}


class Scripted(pl.LightningModule):
    """A module with a given gradient, equal for all values of a layer, in each interval."""

    def __init__(self, levels=LEVELS, optimizer=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)) for _ in range(DEPTHS)
        )
        self.head = nn.Linear(WIDTH, 1)
        self.layers.eval()  # as from_pretrained leaves them
        self.levels = levels
        self.make_optimizer = optimizer or (
            lambda m: torch.optim.AdamW(m.parameters(), lr=0.05, weight_decay=0.5)
        )

    def training_step(self, batch, batch_idx):
        interval, second = divmod(self.trainer.global_step, 2)
        part = -2 if second else 3  # their sum is 1; the norms of single steps add up to 5
        parts = self.trainer.accumulate_grad_batches
        part *= 1 if parts == 1 else (0.5, 1.5)[batch_idx % 2]
        sums = [sum(p.sum() for p in layer.parameters()) for layer in self.layers]
        loss = sum(part * level * s for level, s in zip(self.levels[interval], sums, strict=True))
        return loss + self.head(batch[0]).square().mean()

    def configure_optimizers(self):
        return self.make_optimizer(self)


def scripted(**arguments):
    return AutoFreeze(**{"every": 2, "start": 0, "layers": "layers", **arguments})


def fit(module, callback, *, epochs=3, **arguments):
    watch = Watch()
    callbacks = [callback, watch, *arguments.pop("callbacks", [])]
    trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, **arguments)
    trainer.fit(module, loader())
    return watch, trainer


def frozen_layers(watch):
    """Return the number of frozen layers of a Scripted module in each step."""
    return [
        sum(f"layers.{depth}.0.weight" not in trains for depth in range(DEPTHS))
        for trains in watch.trains
    ]


def test_layers_freeze_at_the_end_of_the_interval_in_which_they_settle():
    watch, trainer = fit(Scripted(), scripted())
    assert frozen_layers(watch) == FROZEN
    for step, frozen in enumerate(FROZEN):
        below = tuple(f"layers.{depth}" for depth in range(frozen))
        above = [f"layers.{depth}" for depth in range(frozen, DEPTHS)]
        names = {name for name, _ in trainer.lightning_module.named_parameters()}
        assert watch.trains[step] == {n for n in names if not n.startswith(below)} if below else 1
        assert watch.changed[step] == watch.trains[step], step  # with momentum and weight decay
        training = {n for n in watch.training[step] if n.startswith("layers.")}
        assert training == {f"{layer}{part}" for layer in above for part in ("", ".0", ".1")}
        assert "head" in watch.training[step]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"keep": 2}, [0] * 4 + [1] * 4 + [2] * 4),
        ({"keep": 0}, FROZEN),  # the topmost layer is never below the percentile
        ({"start": 2}, [0] * 6 + [1] * 2 + [2] * 2 + [3] * 2),
        ({"start": 1, "every": 100}, [0] * 12),
        ({"start": "10 %"}, [0] * 5 + [1] * 4 + [2] * 2 + [3]),
        ({"every": 4}, [0] * 8 + [1] * 4),
        ({"every": "0.5 epochs"}, FROZEN),
        ({"every": "1 epoch"}, [0] * 8 + [1] * 4),
        ({"every": "16.7 %"}, FROZEN),
        ({"every": "2 steps", "start": "0 %"}, FROZEN),
        ({"percentile": 90}, [0] * 4 + [3] * 8),
    ],
)
def test_options_change_the_freezing_steps(options, frozen):
    callback = scripted(**options)
    watch, _ = fit(Scripted(), callback)
    assert frozen_layers(watch) == frozen


def by_hand(gradients, every, percentile, layers):
    """Return the number of frozen layers before each step, computed as in the paper."""
    frozen, before, found, total = 0, None, [], None
    for step, gradient in enumerate(gradients):
        found.append(frozen)
        total = gradient if total is None else [a + b for a, b in zip(total, gradient, strict=True)]
        if (step + 1) % every:
            continue
        norms, total = [value.norm().item() for value in total], None
        if before is not None:
            pairs = list(zip(before, norms, strict=True))[frozen:]
            eta = [abs(old - new) / old for old, new in pairs]
            frozen += next(i for i, e in enumerate(eta) if e >= np.percentile(eta, percentile))
            frozen = min(frozen, layers - 1)
        before = norms
    return found


class Recorded(pl.Callback):
    """Record the gradient of each layer in each optimizer step."""

    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parts = [list(layer.parameters()) for layer in module.backbone.layers]
        self.gradients.append(
            [
                torch.cat(
                    [torch.zeros(p.numel()) if p.grad is None else p.grad.view(-1) for p in part]
                )
                for part in parts
            ]
        )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("percentile", [50, 80])
def test_layers_freeze_as_in_the_paper_for_a_real_loss(accumulate, percentile):
    module, seen = Plain(), Recorded()
    callback = AutoFreeze(percentile, every=2, start=0)
    watch, _ = fit(module, callback, epochs=6, callbacks=[seen], accumulate_grad_batches=accumulate)
    expected = by_hand(seen.gradients, 2, percentile, 3)
    found = [
        sum(f"backbone.layers.{depth}.0.weight" not in trains for depth in range(3))
        for trains in watch.trains
    ]
    assert found == [frozen for frozen in expected for _ in range(accumulate)]
    assert found[-1] > 0


def test_accumulated_gradients_are_summed():
    watch, _ = fit(Scripted(), scripted(), epochs=6, accumulate_grad_batches=2)
    assert frozen_layers(watch) == [frozen for frozen in FROZEN for _ in range(2)]


def test_gradients_are_summed_before_clipping():
    """Clipped gradients of all layers have a constant norm, so depth 0 would seem to change."""
    watch, _ = fit(Scripted(), scripted(), gradient_clip_val=1e-3)
    assert frozen_layers(watch) == FROZEN


class Scaled(MixedPrecision):
    """Loss scaling in full precision."""

    def __init__(self, **arguments):
        scaler = torch.amp.GradScaler("cpu", **{"init_scale": 1024.0, **arguments})
        super().__init__("16-mixed", "cpu", scaler)

    def forward_context(self):
        return nullcontext()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("growth", [1, 1000])
def test_loss_scaling_changes_nothing(fused, growth):
    """Gradients of a fused optimizer are still scaled, by a different factor in each step."""
    module = Scripted(optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=0.05, fused=fused))
    watch, _ = fit(module, scripted(), plugins=[Scaled(growth_interval=growth)])
    assert frozen_layers(watch) == FROZEN


def test_an_overflowing_step_is_ignored():
    module = Scripted(optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=0.05))
    scaled = Scaled(init_scale=2e38)  # the first gradients, of 3 and more, are infinite
    watch, _ = fit(module, scripted(), plugins=[scaled])
    assert not watch.changed[0]
    callback = scripted()
    fit(Scripted(), callback, plugins=[Scaled(init_scale=2e38)], epochs=1, limit_train_batches=2)
    assert all(value.isfinite().all() for value in callback.state_dict()["sums"].values())


def test_an_interval_with_nan_gradients_is_not_compared():
    levels = [row.copy() for row in LEVELS]
    levels[1][0] = math.nan
    watch, _ = fit(Scripted(levels), scripted())
    assert frozen_layers(watch) == [0] * 8 + [2] * 2 + [3] * 2


SCHEDULED = SCHEDULERS["LambdaLR"]


@pytest.mark.filterwarnings("ignore:Found 14 module.s. in eval mode")  # without the callback
def test_the_scheduler_continues():
    seen = []
    for callbacks in ([], [AutoFreeze(80, every=1, start=0)]):
        rates = Rates()
        trainer = make_trainer(max_epochs=3, callbacks=[*callbacks, rates])
        trainer.fit(Plain(scheduler=SCHEDULED), loader())
        seen.append(rates.seen)
    assert callbacks[0].frozen > 0
    assert seen[0] == seen[1]
    assert len({step[0][0] for step in seen[0]}) == 12


class EachStep(ResumePoint):
    """Save a separate file in each step."""

    def on_train_batch_end(self, trainer, *arguments):
        self.path = self.path.with_name(f"{trainer.global_step}.ckpt")
        super().on_train_batch_end(trainer, *arguments)

    def on_train_epoch_end(self, trainer, module):
        self.path = self.path.with_name(f"{trainer.global_step}.ckpt")
        super().on_train_epoch_end(trainer, module)


class Tensors(nn.Module):
    """A backbone with dropout, and with some gradients large enough to be sampled."""

    def __init__(self):
        super().__init__()
        sizes = [(WIDTH, 80), (80, 80), (80, WIDTH)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(*size), nn.Tanh(), nn.Dropout(0.2)) for size in sizes
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Resumable:
    """A loader with a position to resume from."""

    def __init__(self):
        self.batches, self.at = list(loader()), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.at %= len(self.batches)
        while self.at < len(self.batches):
            self.at += 1
            yield self.batches[self.at - 1]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def with_dropout(folder, path=None):
    module = Plain(scheduler=SCHEDULED)
    module.backbone = Tensors()
    auto, watch = AutoFreeze(70, every=2, start=0), Watch()
    callbacks = [auto, watch, EachStep(folder, every_n_steps=1)]
    trainer = make_trainer(max_epochs=3, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(module, Resumable(), ckpt_path=path)
    return module.state_dict(), watch.trains, auto.state_dict()


def test_resumed_at_any_step_equals_uninterrupted_bit_for_bit(tmp_path):
    whole, trains, state = with_dropout(tmp_path / "whole")
    assert len(trains) == STEPS
    assert len({len(names) for names in trains}) > 1  # something froze, and not at once
    for step in range(1, STEPS):
        path = tmp_path / "whole" / f"{step}.ckpt"
        torch.load(path, weights_only=True)
        resumed, rest, end = with_dropout(tmp_path / "resumed", path=path)
        assert rest == trains[step:], step
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items()), step
        assert end["frozen"] == state["frozen"]
        assert end["steps"] == state["steps"]


def test_a_checkpoint_contains_one_eleventh_of_large_gradients(tmp_path):
    with_dropout(tmp_path)
    state = torch.load(tmp_path / "1.ckpt", weights_only=True)["callbacks"]["AutoFreeze"]
    assert state["sums"]["backbone.layers.1.0.weight"].numel() == 37 * 16  # of 400 lines
    assert state["sums"]["backbone.layers.1.0.bias"].numel() == 80


def test_other_intervals_after_a_resume_keep_frozen_layers_and_restart_the_sums(tmp_path, caplog):
    saving = EachStep(tmp_path, every_n_steps=1)
    fit(Scripted(), scripted(), callbacks=[saving], enable_checkpointing=True)
    watch, saving = Watch(), EachStep(tmp_path / "other", every_n_steps=1)
    callbacks = [scripted(every=3), watch, saving]
    trainer = make_trainer(max_epochs=3, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(Scripted(), loader(), ckpt_path=tmp_path / "5.ckpt")
    assert frozen_layers(watch)[:6] == [1] * 6
    assert (
        "the checkpoint has intervals of 2 steps, this run has intervals of 3 steps" in caplog.text
    )


def test_a_callback_used_in_a_second_fit_starts_again():
    callback, module = scripted(), Scripted()
    first, _ = fit(module, callback)
    second, _ = fit(module, callback)
    assert frozen_layers(first) == frozen_layers(second) == FROZEN


class Fails(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 9:
            raise RuntimeError("power cut")


def test_a_later_fit_trains_layers_frozen_by_an_earlier_one():
    module = Scripted()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module, scripted(), callbacks=[Fails()])
    assert not module.layers[1][0].weight.requires_grad
    watch, _ = fit(module, scripted())
    assert frozen_layers(watch) == FROZEN


@pytest.mark.filterwarnings("ignore:Found 3 module.s. in eval mode")  # the frozen layer
def test_layers_frozen_by_the_user_stay_frozen_and_are_not_tested():
    module = Scripted()
    module.layers[0].requires_grad_(False)
    module.layers[2][0].bias.requires_grad_(False)
    watch, _ = fit(module, scripted())
    # Depths 1-3: 0.5 0.2 1.0, then 0.4 0.05 0.5, then 0.05 0.1 0.5, then depths 2 and 3.
    assert frozen_layers(watch) == [1] * 8 + [2] * 2 + [3] * 2
    assert "layers.0.1" not in watch.training[-1]
    assert not module.layers[2][0].bias.requires_grad


def test_layers_are_found_by_regexes():
    patterns = [rf"^layers\.{depth}\." for depth in range(DEPTHS)]
    watch, _ = fit(Scripted(), scripted(layers=patterns))
    assert frozen_layers(watch) == FROZEN
    assert "layers.0.1" not in watch.training[-1] or "layers.0.0" not in watch.training[-1]


def test_sparse_gradients_are_summed():
    tables = [nn.Embedding(50, WIDTH, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    found = []
    for table in tables:
        table(torch.tensor([1, 1, 7])).square().sum().backward()
        sums = GradientSums()
        sums.add("table", table.weight.grad)
        found.append(sums.norms({"table": 0})[0])
    assert found[0] == found[1] > 0


def test_embeddings_are_not_tested_and_freeze_with_the_layer_above():
    class Table(Plain):
        def __init__(self):
            super().__init__(lambda m: torch.optim.SGD(m.parameters(), lr=0.01))
            above = [nn.Linear(WIDTH, WIDTH) for _ in range(2)]
            self.backbone.layers = nn.ModuleList([nn.Embedding(50, WIDTH), *above])

        def training_step(self, batch, batch_idx):
            return self.head(self.backbone((batch[0][:, 0].abs() * 9).long())).square().mean()

    waiting = AutoFreeze(every=100)
    module, _ = Table(), fit(Table(), waiting, epochs=1)
    assert not [name for name in waiting.state_dict()["sums"] if "layers.0" in name]
    assert [name for name in waiting.state_dict()["sums"] if "layers.1" in name]
    eager = AutoFreeze(100, every=1)
    fit(module, eager, epochs=1)
    assert eager.frozen == 2
    assert not module.backbone.layers[0].weight.requires_grad


def test_each_change_is_one_log_line(caplog):
    caplog.set_level(logging.INFO)
    fit(Scripted(), scripted())
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("lightning_transfer")]
    changed = "gradient norms changed by less than"
    assert lines == [
        f"epoch 2, step 4: froze depth 0, {changed} 35 %; 65 of 85 parameters (76.47 %) trainable",
        f"epoch 3, step 8: froze depth 1, {changed} 10 %; 45 of 85 parameters (52.94 %) trainable",
        f"epoch 3, step 10: froze depth 2, {changed} 30 %; 25 of 85 parameters (29.41 %) trainable",
    ]


def test_a_run_shorter_than_two_intervals_is_warned_about(caplog):
    fit(Scripted(), scripted(every="1 epoch", start=4))
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "its first test would be at step 12, but the run ends at step 12" in line
    assert line.startswith("AutoFreeze never freezes a layer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 0}, r"percentile must be in \(0, 100\], got 0"),
        ({"percentile": 101}, r"percentile must be in \(0, 100\], got 101"),
        ({"percentile": "50"}, r"percentile must be in \(0, 100\], got '50'"),
        ({"keep": -1}, "keep must be an integer >= 0, got -1"),
        ({"keep": 0.5}, "keep must be an integer >= 0, got 0.5"),
        ({"every": 0}, "every must be > 0, got 0"),
        ({"every": "often"}, "every must be a number of optimizer steps, or .* got 'often'"),
        ({"every": "1.5 steps"}, "every must be a number of optimizer steps, .* got '1.5 steps'"),
        ({"start": -3}, "start must be a number of optimizer steps, .* got -3"),
        ({"start": True}, "start must be a number of optimizer steps, .* got True"),
    ],
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        AutoFreeze(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "layer"}, r"Scripted has no attribute 'layer'; did you mean layers\?"),
        (
            {"keep": 4},
            "keep=4 leaves no layer to freeze: the module has 4 layers; keep must be at most 3",
        ),
    ],
)
def test_arguments_that_do_not_fit_the_module_are_an_error_before_the_fit(options, message):
    with pytest.raises(ValueError, match=message):
        scripted(**options).check(Scripted())


def test_a_percentage_of_an_endless_run_is_an_error():
    with pytest.raises(ValueError, match=r"every='5 %' needs the length of the run"):
        fit(Scripted(), scripted(every="5 %"), epochs=-1, max_time={"seconds": 5})


def test_a_parameter_in_no_optimizer_is_an_error():
    module = Scripted(optimizer=lambda m: torch.optim.SGD(m.head.parameters(), lr=0.1))
    with pytest.raises(
        ValueError,
        match=r"layers.0.0.weight is trainable and must be in one optimizer group, got 0",
    ):
        fit(module, scripted())


def test_a_sharding_strategy_is_refused():
    class Sharding(pl.strategies.ParallelStrategy):
        root_device = torch.device("cpu")

    trainer = make_trainer()
    trainer.strategy.__class__ = Sharding
    with pytest.raises(
        ValueError, match=r"Sharding fixes the trainable .* use trainer.strategy=ddp"
    ):
        scripted().setup(trainer, Scripted(), "fit")
