"""Freezing by depth, name and function."""

import logging
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_transfer.callbacks import Freezing
from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import (
    CONFIGS,
    HIDDEN,
    OwnBackbone,
    make_backbone,
    make_batch,
    make_loader,
    make_trainer,
)

RECIPE = Recipe(partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5))


def make_task(name="bert", backbone=None):
    backbone = make_backbone(name) if backbone is None else backbone
    return SequenceRegression(
        backbone, MLPHead(HIDDEN, 1), labels=Labels("regression"), recipe=RECIPE
    )


def trainable(task):
    return {name for name, p in task.named_parameters() if p.requires_grad}


def names_of(task, depths):
    """Return the names of the parameters at these depths."""
    inside = {id(p) for depth in depths for p in task.backbone.layers[depth].parameters()}
    return {name for name, p in task.named_parameters() if id(p) in inside}


ALL, HEAD = range(4), {"head.dense.weight", "head.dense.bias", "head.out.weight", "head.out.bias"}
CASES = {
    "all": ("all", ALL),
    "embeddings": ("embeddings", [0]),
    "nothing": (0, []),
    "depth 1": (1, [0]),
    "depth 3": (3, [0, 1, 2]),
    "depth 4": (4, ALL),
}
cases = pytest.mark.parametrize(("below", "frozen"), CASES.values(), ids=CASES)


class Watch(pl.Callback):
    """Record the modes of each layer and of the head in each training and validation step."""

    def __init__(self):
        self.training, self.validation = [], []

    def modes(self, task):
        modules = [*task.backbone.layers, task.head]
        return [{part.training for part in module.modules()} for module in modules]

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.training.append(self.modes(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.validation.append(self.modes(pl_module))


@cases
def test_exactly_the_frozen_layers_have_no_gradient(below, frozen):
    task = make_task()
    Freezing(below).setup(make_trainer(), task, "fit")
    everything = {name for name, _ in task.named_parameters()}
    assert trainable(task) == everything - names_of(task, frozen)
    assert HEAD <= trainable(task)


@cases
def test_frozen_layers_do_not_change_and_stay_in_eval_mode_during_a_fit(below, frozen):
    task, watch = make_task(), Watch()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = make_trainer(
        max_epochs=3,
        callbacks=[Freezing(below), watch],
        val_check_interval=2,  # in the middle of an epoch of three batches
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
    )
    trainer.fit(task, make_loader(), make_loader())
    constant = names_of(task, frozen)
    for name, parameter in task.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in constant), name
    expected = [{depth not in frozen} for depth in ALL] + [{True}]
    assert watch.training == [expected] * 9
    assert len(watch.validation) >= 9
    assert all(modes == [{False}] * 5 for modes in watch.validation)
    optimizer = trainer.optimizers[0]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.parameters()))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_output_of_frozen_layers_does_not_change(name):
    """Also with modules beside the layers, such as the relative position embeddings of DeBERTa."""
    task = make_task(name)
    batch = make_batch()

    def frozen_output():
        seen = []
        stack = task.backbone.layers
        hook = stack[3].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        with torch.no_grad():
            task.eval()(batch)
        hook.remove()
        return seen[0]

    before = frozen_output()
    make_trainer(callbacks=[Freezing(3)]).fit(task, make_loader(), make_loader())
    assert torch.equal(frozen_output(), before)


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)
            raise Stop


def test_frozen_layers_are_in_eval_mode_after_a_resume_within_an_epoch(tmp_path):
    stop = StopAt()
    stop.path = tmp_path / "a.ckpt"
    with pytest.raises(Stop):
        make_trainer(callbacks=[Freezing(2), stop]).fit(make_task(), make_loader(), make_loader())
    task, watch = make_task(), Watch()
    trainer = make_trainer(callbacks=[Freezing(2), watch], limit_train_batches=3)
    trainer.fit(task, StatefulLoader(), make_loader(), ckpt_path=stop.path)
    assert watch.training == [[{False}, {False}, {True}, {True}, {True}]]


class StatefulLoader:
    """Three batches; a resumed run has already seen the first two."""

    def __init__(self):
        self.done = 0

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(list(make_loader())[2:])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_layers_are_frozen_before_the_strategy_wraps_the_module():
    """DDP registers the trainable parameters when it wraps the module."""
    seen = []

    class Strategy(pl.strategies.SingleDeviceStrategy):
        def setup(self, trainer):
            seen.append(trainable(trainer.lightning_module))
            super().setup(trainer)

    task = make_task()
    trainer = make_trainer(strategy=Strategy("cpu"), callbacks=[Freezing("all")], max_steps=1)
    trainer.fit(task, make_loader(), make_loader())
    assert seen == [HEAD]


def test_a_log_line_counts_the_trainable_parameters(caplog):
    caplog.set_level(logging.INFO)
    task = make_task(backbone=OwnBackbone())
    Freezing("embeddings").setup(make_trainer(), task, "fit")
    [line] = [r.getMessage() for r in caplog.records if r.name.startswith("lightning_transfer")]
    assert line == "froze the embeddings: 833 of 1,361 parameters (61.20 %) trainable"
    assert sum(p.numel() for p in task.parameters()) == 1361
    assert task.backbone.table.weight.numel() == 1361 - 833


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_nothing_is_frozen_outside_fit(stage):
    task = make_task()
    Freezing("all").setup(make_trainer(), task, stage)
    assert all(p.requires_grad for p in task.parameters())


class Plain(pl.LightningModule):
    """A LightningModule with its backbone at another attribute path."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"text": OwnBackbone()})
        self.out = nn.Linear(HIDDEN, 1)

    def training_step(self, batch, batch_idx):
        return self.out(self.encoder["text"](batch["input_ids"])).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_any_lightning_module_can_be_frozen():
    task = Plain()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    freezing = Freezing(2, backbone="encoder.text")
    make_trainer(callbacks=[freezing]).fit(task, make_loader())
    changed = {name for name, value in task.state_dict().items() if (value != before[name]).any()}
    text = "encoder.text.second"
    assert changed == {f"{text}.weight", f"{text}.bias", "out.weight", "out.bias"}


@pytest.mark.parametrize("below", ["head", 1.5, True, "2"])
def test_an_invalid_depth_is_refused(below):
    with pytest.raises(
        ValueError, match=f"below must be all, embeddings or an integer, got {below!r}"
    ):
        Freezing(below)


@pytest.mark.parametrize("below", [5, -5])
def test_a_missing_depth_is_refused(below):
    with pytest.raises(ValueError, match=rf"below={below} is no depth .* 0..3; below=4 freezes"):
        Freezing(below).setup(make_trainer(), make_task(), "fit")


def test_a_backbone_without_layers_is_refused():
    task = Plain()
    with pytest.raises(ValueError, match=r"'out.layers': Linear has no attribute 'layers'"):
        Freezing(1, backbone="out").setup(make_trainer(), task, "fit")
    Freezing("all", backbone="out").setup(make_trainer(), task, "fit")
    assert trainable(task) == {n for n, _ in task.named_parameters() if n.startswith("encoder")}


def test_all_but_the_top_two_layers_are_frozen():
    task = make_task()
    Freezing(-2).setup(make_trainer(), task, "fit")
    assert trainable(task) == HEAD | names_of(task, [2, 3])


def test_parameters_matching_a_regex_are_frozen():
    task = make_task()
    Freezing(names=[r"embeddings", r"layer\.1\."]).setup(make_trainer(), task, "fit")
    assert trainable(task) == HEAD | names_of(task, [1, 3])


def test_parameters_chosen_by_a_function_are_frozen():
    task = make_task()
    freezing = Freezing(function=lambda name, parameter: parameter.ndim > 1)
    freezing.setup(make_trainer(), task, "fit")
    assert trainable(task) == {n for n, p in task.named_parameters() if p.ndim == 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["embedings"], r"names: no parameter matches 'embedings'; did you mean"),
        (["("], r"names: invalid regular expression '\('"),
    ],
)
def test_a_regex_without_a_match_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        Freezing(names=names).setup(make_trainer(), make_task(), "fit")


def test_two_ways_of_freezing_are_refused():
    with pytest.raises(
        ValueError, match=r"give only one of below, names and function, got below=1, "
    ):
        Freezing(1, names=["a"])


class Seen(pl.Callback):
    """Record the mode of each module in the last step."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.modes = {name: module.training for name, module in pl_module.named_modules()}


def test_only_biases_train_and_dropout_is_active():
    """BitFit (arXiv:2106.10199): a partly frozen layer is in train mode."""
    task, seen = make_task(), Seen()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    callbacks = [Freezing(names=[r"^backbone\.(?!.*bias$)"]), seen]
    make_trainer(callbacks=callbacks, max_epochs=2).fit(task, make_loader(), make_loader())
    changed = {name for name, value in task.state_dict().items() if (value != before[name]).any()}
    biases = {n for n in before if n.startswith("backbone.") and n.endswith(".bias")}
    keys = {
        n for n in biases if ".key." in n
    }  # attention does not depend on the key biases: no gradient
    assert biases - keys <= changed <= biases | HEAD
    assert seen.modes["backbone.model.encoder.layer.0.attention.output.dropout"]
    assert all(mode for name, mode in seen.modes.items() if name.startswith("backbone.model"))


def test_a_later_fit_trains_parameters_frozen_by_an_earlier_one():
    task = make_task()
    task.backbone.layers[1].requires_grad_(False)  # frozen by the user, so it stays frozen
    for below, frozen in (("embeddings", [0]), (-1, [0, 2]), (0, [])):
        make_trainer(callbacks=[Freezing(below)]).fit(task, make_loader(), make_loader())
        assert trainable(task) == HEAD | names_of(task, {0, 2, 3} - {*frozen})
