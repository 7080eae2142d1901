"""Gradual unfreezing of any LightningModule on one device."""

import logging
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_transfer.callbacks import Freezing, GradualUnfreezing, Phase
from tests.tiny import make_trainer

WIDTH, BATCHES = 4, 4
LAYERS = ["backbone.layers.0", "backbone.layers.1", "backbone.layers.2"]
THREE = [
    {"from_depth": 3},
    {"from_depth": 2, "at_epoch": 1},
    {"from_depth": 0, "at_epoch": 2},
]


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.2))
            for _ in range(3)
        ]
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Plain(pl.LightningModule):
    """A module with its own optimizer and scheduler, and a backbone in eval mode."""

    def __init__(self, optimizer=None, scheduler=None, interval="step"):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone()
        self.head = nn.Linear(WIDTH, 1)
        self.backbone.eval()  # as from_pretrained leaves it
        self.make_optimizer = optimizer or (
            lambda m: torch.optim.AdamW(m.parameters(), lr=0.05, weight_decay=0.5)
        )
        self.make_scheduler = scheduler
        self.interval = interval

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self)
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": {**scheduler, "monitor": "val/loss"}}


def loader(rows=32, batch_size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, WIDTH, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch_size)


class Watch(pl.Callback):
    """Record trainable parameters, modules in train mode and changed tensors in each step."""

    def __init__(self):
        self.trains, self.training, self.changed, self.epochs = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before = {name: value.clone() for name, value in module.state_dict().items()}
        self.modes = {name for name, part in module.named_modules() if part.training}

    def on_train_batch_end(self, trainer, module, *_):
        self.epochs.append(trainer.current_epoch)
        self.trains.append({n for n, p in module.named_parameters() if p.requires_grad})
        self.training.append(self.modes)
        now = module.state_dict()
        self.changed.append({n for n, v in self.before.items() if not torch.equal(v, now[n])})


def fit(module, callback, *, epochs=3, **arguments):
    watch = Watch()
    callbacks = [callback, watch, *arguments.pop("callbacks", [])]
    trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, **arguments)
    trainer.fit(module, loader(), loader())
    return watch, trainer


def names(module, depths, *, head=True):
    starts = tuple(LAYERS[depth] + "." for depth in depths) + (("head.",) if head else ())
    return {name for name, _ in module.named_parameters() if name.startswith(starts)}


DECLARED = [[], [], [], []] + [[2]] * 4 + [[0, 1, 2]] * 4


def test_only_the_declared_parameters_change_in_each_step():
    module = Plain()
    watch, trainer = fit(module, GradualUnfreezing(THREE))
    for step, depths in enumerate(DECLARED):
        declared = names(module, depths)
        assert watch.trains[step] == declared, step
        # Running statistics are buffers; they do not change in frozen layers either.
        running = {n for n in watch.before if "running_" in n or "num_batches" in n}
        moved = {n for n in running if n.startswith(tuple(LAYERS[d] for d in depths))}
        bias_before_norm = {f"{LAYERS[d]}.0.bias" for d in depths}  # the gradient is 0
        assert declared | moved >= watch.changed[step], step
        assert watch.changed[step] >= (declared - bias_before_norm) | moved, step
        [optimizer] = trainer.optimizers
        grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in module.parameters())


def test_frozen_layers_are_in_eval_mode_and_trainable_ones_in_train_mode():
    module = Plain()
    watch, _ = fit(module, GradualUnfreezing(THREE), num_sanity_val_steps=1)
    for step, depths in enumerate(DECLARED):
        expected = {
            f"{layer}{part}"
            for depth, layer in enumerate(LAYERS)
            for part in ("", ".0", ".1", ".2")
            if depth in depths
        }
        assert {n for n in watch.training[step] if n.startswith("backbone.layers.")} == expected
        assert "head" in watch.training[step]


SCHEDULERS = {
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
}


def two_groups(module):
    """Return an optimizer with a group per part, of different rates and weight decays."""
    groups = [
        {"params": list(module.backbone.parameters()), "lr": 0.01, "weight_decay": 0.0},
        {"params": list(module.head.parameters()), "lr": 0.1},
    ]
    return torch.optim.AdamW(groups)


class Rates(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append(
            [
                (g["lr"], g["weight_decay"], len(g["params"]))
                for g in trainer.optimizers[0].param_groups
            ]
        )


@pytest.mark.filterwarnings("ignore:Found 14 module.s. in eval mode")  # without the callback
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_any_scheduler_continues_across_an_unfreeze(scheduler):
    """Rates, decays and parameters of all groups equal those of a run without the callback."""
    seen = []
    for callbacks in ([], [GradualUnfreezing(THREE)]):
        rates = Rates()
        trainer = make_trainer(max_epochs=3, callbacks=[*callbacks, rates])
        trainer.fit(Plain(two_groups, scheduler), loader(), loader())
        seen.append(rates.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 12
    assert len({step[0][0] for step in seen[0]}) > 3


def test_a_plateau_scheduler_continues_across_an_unfreeze():
    rates = Rates()
    module = Plain(
        two_groups,
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, factor=0.5, patience=0, threshold=9
        ),
        interval="epoch",
    )
    trainer = make_trainer(max_epochs=4, callbacks=[GradualUnfreezing(THREE), rates])
    trainer.fit(module, loader(), loader())
    factors = [step[0][0] / 0.01 for step in rates.seen]
    assert factors == pytest.approx([step[1][0] / 0.1 for step in rates.seen])
    assert factors[::4] == pytest.approx([1, 0.5, 0.25, 0.125])


def of_trainable(parameters, lr):
    return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=lr)


def test_an_optimizer_of_trainable_parameters_contains_all_parameters():
    module = Plain(lambda m: of_trainable(m.parameters(), 0.1))
    watch, trainer = fit(module, GradualUnfreezing(THREE))
    assert sum(len(g["params"]) for g in trainer.optimizers[0].param_groups) == 14
    assert f"{LAYERS[0]}.0.weight" in watch.changed[-1]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            lambda m: torch.optim.SGD(m.head.parameters(), lr=0.1),
            r"backbone.layers.0.0.weight is trainable and must be in one optimizer group, got 0 gr",
        ),
    ],
)
def test_a_parameter_in_no_optimizer_is_an_error(optimizer, message):
    with pytest.raises(ValueError, match=message):
        fit(Plain(optimizer), GradualUnfreezing(THREE))


def test_a_parameter_in_two_optimizers_is_an_error():
    class Two(Plain):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    with pytest.raises(ValueError, match="must be in one optimizer group, got 2 groups"):
        fit(Two(), GradualUnfreezing(THREE))


@pytest.mark.filterwarnings("ignore:Found 3 module.s. in eval mode")  # the teacher
def test_modules_frozen_by_the_user_stay_frozen_and_keep_their_mode():
    module = Plain()
    module.teacher = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval().requires_grad_(False)
    module.backbone.layers[2][0].requires_grad_(False)
    watch, _ = fit(module, GradualUnfreezing("head > all"), epochs=2)
    frozen = {"backbone.layers.2.0.weight", "backbone.layers.2.0.bias"}
    assert watch.trains[-1] == names(module, [0, 1, 2]) - frozen
    assert not any(name.startswith("teacher") for name in watch.training[-1])
    assert module.backbone.layers[2][0].weight.requires_grad is False


class Fails(pl.Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("power cut")


def test_a_later_fit_trains_layers_frozen_by_an_earlier_one():
    module = Plain()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module, GradualUnfreezing([{"from_depth": 3}]), callbacks=[Fails()])
    assert {n for n, p in module.named_parameters() if p.requires_grad} == names(module, [])
    module.make_optimizer = lambda m: of_trainable(m.parameters(), 0.1)
    fit(module, GradualUnfreezing([{"from_depth": 2}]), epochs=1)
    assert {n for n, p in module.named_parameters() if p.requires_grad} == names(module, [2])
    watch, _ = fit(module, GradualUnfreezing(THREE))
    assert watch.trains == [names(module, depths) for depths in DECLARED]


@pytest.mark.parametrize(
    "layers",
    [
        "backbone.layers",
        "backbone.net",
        [r"layers\.0\.", r"layers\.1\.", r"layers\.2\."],
    ],
    ids=["ModuleList", "Sequential", "regexes"],
)
def test_layers_are_found_by_path_and_by_regexes(layers):
    module = Plain()
    if layers == "backbone.net":
        module.backbone.net = nn.Sequential(*module.backbone.layers)
    watch, _ = fit(module, GradualUnfreezing(THREE, layers=layers))
    found = [{n for n in trains if n.startswith("backbone")} for trains in watch.trains]
    assert found == [names(module, depths, head=False) for depths in DECLARED]
    assert {n for n in watch.training[4] if n.startswith("backbone.layers.")} == {
        f"{LAYERS[2]}{part}" for part in ("", ".0", ".1", ".2")
    }


def test_chain_thaw_refreezes_layers():
    module = Plain()
    watch, _ = fit(module, GradualUnfreezing("chain-thaw"), epochs=5)
    trains = watch.trains[::4]
    expected = [([], True), ([0], False), ([1], False), ([2], False), ([0, 1, 2], True)]
    assert trains == [names(module, depths, head=head) for depths, head in expected]
    for step in range(4, 8):  # the refrozen head has momentum
        assert not any(name.startswith("head") for name in watch.changed[step])


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ({"at_step": 5}, 5),
        ({"at_fraction": 0.4}, 5),
        ({"at_fraction": 0.5}, 6),
        ({"at_epoch": 1}, 4),
    ],
)
def test_a_phase_starts_at_its_step(start, step):
    module = Plain()
    watch, _ = fit(module, GradualUnfreezing([{"from_depth": "head"}, {"from_depth": 1, **start}]))
    assert [len(trains) > 2 for trains in watch.trains] == [False] * step + [True] * (12 - step)


def test_steps_are_optimizer_steps_under_gradient_accumulation():
    module = Plain()
    phases = [{"from_depth": 3}, {"from_depth": 0, "at_step": 3}]
    watch, _ = fit(module, GradualUnfreezing(phases), accumulate_grad_batches=2, epochs=3)
    assert [len(trains) > 2 for trains in watch.trains] == [False] * 6 + [True] * 6


def test_a_phase_starts_at_the_plateau_of_a_metric():
    values = iter([1.0, 0.5, 0.6, 0.4, 0.45, 0.41, 0.3, 0.2])

    class Scripted(Plain):
        def validation_step(self, batch, batch_idx):
            if batch_idx == 0:
                self.value = next(values)
            self.log("val/loss", self.value)

    phases = [
        {"from_depth": "head"},
        {"from_depth": 2, "at_plateau": {"monitor": "val/loss"}},
        {"from_depth": 0, "at_plateau": {"monitor": "val/loss", "patience": 1}},
    ]
    watch, _ = fit(Scripted(), GradualUnfreezing(phases), epochs=8)
    # In the first phase 0.6 is no improvement on 0.5; in the second, 0.45 and 0.41 are none on 0.4.
    assert [len(trains) for trains in watch.trains[::4]] == [2, 2, 2, 6, 6, 6, 14, 14]


def test_a_plateau_of_an_unknown_metric_is_an_error():
    phases = [{"from_depth": 3}, {"from_depth": 0, "at_plateau": {"monitor": "val/f1"}}]
    with pytest.raises(ValueError, match="unknown metric 'val/f1'; logged metrics: val/loss"):
        fit(Plain(), GradualUnfreezing(phases))


def test_a_fraction_of_an_endless_run_is_an_error():
    callback = GradualUnfreezing("head > all")
    with pytest.raises(ValueError, match=r"at_fraction=0.5 needs the length of the run"):
        fit(Plain(), callback, epochs=-1, max_time={"seconds": 5})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("backbone.layer", r"Backbone has no attribute 'layer'; did you mean layers\?"),
        ("head", "must lead to an ordered list of modules, got Linear"),
        ([r"layers\.0", "nothing"], "no parameter matches 'nothing'"),
        ([r"layers", r"layers\.1"], r"layers.1.0.weight matches 'layers' and 'layers\\\\.1'"),
        ([], "layers is an empty list"),
    ],
)
def test_missing_layers_are_an_error(layers, message):
    with pytest.raises(ValueError, match=message):
        fit(Plain(), GradualUnfreezing(THREE, layers=layers))


def test_each_change_is_one_log_line(caplog):
    caplog.set_level(logging.INFO)
    fit(Plain(two_groups), GradualUnfreezing(THREE))
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("lightning_transfer")]
    rates = "learning rates 1.00e-02 (group 0), 1.00e-01 (group 1)"
    assert lines == [
        "epoch 1, step 0: phase 1 of 3 trains parameters outside the layers, 5 of 89 "
        "parameters (5.62 %); learning rates 1.00e-01 (group 1)",
        "epoch 2, step 4: phase 2 of 3 trains depth 2 and parameters outside the layers, 33 of 89 "
        f"parameters (37.08 %); {rates}",
        "epoch 3, step 8: phase 3 of 3 trains depths 0-2 and parameters outside the layers, 89 of "
        f"89 parameters (100.00 %); {rates}",
    ]


def test_phases_after_the_end_of_the_run_are_warned_about(caplog):
    fit(Plain(), GradualUnfreezing(THREE), epochs=2)
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith(
        "phase 3 of 3 never starts: its start is at_epoch=2, and the run ends before"
    )


def test_a_callback_used_in_a_second_fit_starts_again():
    callback = GradualUnfreezing(THREE)
    first, _ = fit(Plain(), callback)
    second, _ = fit(Plain(), callback)
    assert first.trains == second.trains
    assert len(first.trains[0]) == 2


def test_freezing_and_unfreezing_are_combined():
    module = Plain()
    freezing = Freezing(names=[r"layers\.0"])
    watch, _ = fit(module, GradualUnfreezing("head > all"), epochs=2, callbacks=[freezing])
    assert watch.trains[-1] == names(module, [1, 2])
    assert not any(n.startswith(LAYERS[0]) for n in watch.training[-1])
    assert f"{LAYERS[1]}.2" in watch.training[-1]


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    def __init__(self, hook, step):
        self.hook, self.step = hook, step

    def _maybe(self, trainer, hook):
        if (hook, trainer.global_step) == (self.hook, self.step):
            raise Stop

    def on_train_batch_end(self, trainer, *_):
        self._maybe(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        self._maybe(trainer, "validation")

    def on_train_epoch_start(self, trainer, *_):
        self._maybe(trainer, "epoch")


OTHERS = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")


@OTHERS
def test_a_run_resumed_after_the_unfreeze_epoch_stays_unfrozen(tmp_path):
    """BackboneFinetuning freezes forever after such a resume (pytorch-lightning #21901)."""
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    fit(Plain(), GradualUnfreezing(THREE), callbacks=[saving], enable_checkpointing=True)
    for epoch in range(3):
        module, watch = Plain(), Watch()
        trainer = make_trainer(max_epochs=4, callbacks=[GradualUnfreezing(THREE), watch])
        trainer.fit(module, loader(), loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        expected = [names(module, depths) for depths in (DECLARED + [[0, 1, 2]] * 4)]
        assert watch.trains == expected[4 * (epoch + 1) :]


@OTHERS
def test_a_checkpoint_with_other_phases_is_warned_about_and_the_new_phases_apply(tmp_path, caplog):
    saving = ModelCheckpoint(tmp_path, filename="a")
    fit(Plain(), GradualUnfreezing(THREE), epochs=1, callbacks=[saving], enable_checkpointing=True)
    watch, callback = Watch(), GradualUnfreezing([{"from_depth": 1}])
    trainer = make_trainer(max_epochs=2, callbacks=[callback, watch])
    module = Plain()
    trainer.fit(module, loader(), loader(), ckpt_path=tmp_path / "a.ckpt")
    assert watch.trains == [names(module, [1, 2])] * 4
    assert "the checkpoint has other phases of unfreezing" in caplog.text


def test_phases_are_given_as_objects():
    module = Plain()
    watch, _ = fit(module, GradualUnfreezing([Phase("head"), Phase(2, at_epoch=1)]), epochs=2)
    assert watch.trains[::4] == [names(module, []), names(module, [2])]


def test_a_sharding_strategy_is_refused():
    class Sharding(pl.strategies.ParallelStrategy):
        root_device = torch.device("cpu")

    trainer = make_trainer()
    trainer.strategy.__class__ = Sharding
    with pytest.raises(
        ValueError, match=r"Sharding fixes the trainable .* use trainer.strategy=ddp"
    ):
        GradualUnfreezing(THREE).setup(trainer, Plain(), "fit")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_layers_unfreeze_in_other_precisions(precision):
    module = Plain()
    watch, _ = fit(module, GradualUnfreezing(THREE), precision=precision)
    assert watch.trains == [names(module, depths) for depths in DECLARED]
    assert all(math.isfinite(p.float().sum().item()) for p in module.parameters())


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_callback_works_in_a_config_of_lightning_cli(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(
        """
seed_everything: 3
trainer:
  max_epochs: 3
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_transfer.callbacks.GradualUnfreezing
      init_args:
        layers: backbone.layers
        phases:
          - {from_depth: 3}
          - {from_depth: 2, at_epoch: 1}
          - {from_depth: 0, at_fraction: 0.6}
"""
    )
    watch = Watch()
    monkeypatch.setattr("sys.argv", ["main.py", "fit", "--config", str(config)])
    cli = LightningCLI(
        Plain, Data, trainer_defaults={"callbacks": [watch]}, save_config_callback=None
    )
    assert watch.trains == [names(cli.model, depths) for depths in DECLARED]


def test_a_trainer_has_no_callback_of_this_package_by_default():
    trainer = make_trainer()
    assert not [c for c in trainer.callbacks if type(c).__module__.startswith("lightning_transfer")]


def one_group_per_depth(module):
    parts = [*module.backbone.layers, module.head]
    return torch.optim.SGD([{"params": list(p.parameters()), "lr": 0.1} for p in parts])


class Applied(pl.Callback):
    """Record the learning rate of each update, and the rate in the optimizer group."""

    def __init__(self):
        self.applied, self.shown = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.before = [p.detach().clone() for p in self._first(module)]

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients = [None if p.grad is None else p.grad.clone() for p in self._first(module)]

    def on_train_batch_end(self, trainer, module, *_):
        moved = zip(self.before, self._first(module), self.gradients, strict=True)
        self.applied.append(
            [0 if g is None else ((old - new).norm() / g.norm()).item() for old, new, g in moved]
        )
        self.shown.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def _first(self, module):
        return [part[0].weight for part in module.backbone.layers] + [module.head.weight]


def test_newly_unfrozen_layers_warm_up_with_rewarm():
    seen = Applied()
    phases = [{"from_depth": 3}, {"from_depth": 2, "at_step": 2}, {"from_depth": 0, "at_step": 7}]
    module = Plain(
        one_group_per_depth, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.9**s)
    )
    fit(module, GradualUnfreezing(phases, rewarm=3), callbacks=[seen])
    ramp = [0.25, 0.5, 0.75] + [1.0] * 9
    for step in range(12):
        rate = 0.1 * 0.9**step
        top = 0 if step < 2 else rate * ramp[step - 2]
        low = 0 if step < 7 else rate * ramp[step - 7]
        assert seen.applied[step] == pytest.approx([low, low, top, rate], rel=1e-3), step
        assert seen.shown[step] == pytest.approx([0.9 * rate] * 4)  # after the scheduler's step


@OTHERS
def test_a_warm_up_continues_after_a_resume(tmp_path):
    phases = [{"from_depth": 3}, {"from_depth": 0, "at_step": 3}]
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    whole, resumed = Applied(), Applied()
    options = {"enable_checkpointing": True, "epochs": 2}
    callback = GradualUnfreezing(phases, rewarm=4)
    fit(Plain(one_group_per_depth), callback, callbacks=[saving, whole], **options)
    callbacks = [GradualUnfreezing(phases, rewarm=4), resumed, ModelCheckpoint(tmp_path)]
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    path = tmp_path / "step=4.ckpt"
    trainer.fit(Plain(one_group_per_depth), loader(), loader(), ckpt_path=path)
    for ours, theirs in zip(resumed.applied, whole.applied[4:], strict=True):
        assert ours[0] / ours[-1] == pytest.approx(theirs[0] / theirs[-1], rel=1e-3)
    assert resumed.applied[0][0] / resumed.applied[0][-1] == pytest.approx(0.4, rel=1e-3)


def test_a_second_fit_does_not_continue_earlier_warm_ups():
    """The head is refrozen and warms up again, but must not do so at the start of the next fit."""
    phases = [
        {"from_depth": 3},
        {"from_depth": 0, "outside": False, "at_step": 4},
        {"from_depth": 0, "at_step": 8},
    ]
    callback, seen = GradualUnfreezing(phases, rewarm=3), [Applied(), Applied()]
    module = Plain(one_group_per_depth)
    for applied in seen:
        fit(module, callback, callbacks=[applied])
    ramp = [0.1] * 4 + [0] * 4 + [0.025, 0.05, 0.075, 0.1]
    for applied in seen:
        assert [step[-1] for step in applied.applied] == pytest.approx(ramp, rel=1e-3)


def test_a_module_frozen_by_the_user_keeps_its_train_mode():
    module = Plain()
    module.teacher = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).requires_grad_(False)
    watch, _ = fit(module, GradualUnfreezing(THREE))
    assert all({"teacher", "teacher.0", "teacher.1"} <= modes for modes in watch.training)


def test_rewarm_needs_a_group_for_each_depth():
    callback = GradualUnfreezing(THREE, rewarm=2)
    with pytest.raises(
        ValueError, match=r"rewarm=2 needs .* phase 3 unfreezes only a part of group 0"
    ):
        fit(Plain(two_groups), callback)
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        GradualUnfreezing(THREE, rewarm=-1)
