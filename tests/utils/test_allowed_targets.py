"""Checks of the targets that a config may instantiate."""

import sys
import types
from typing import Self, TypeVar

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

from lightning_transfer.utils import allowed_targets
from lightning_transfer.utils.allowed_targets import (
    BASE_CLASSES,
    NESTED_BASE_CLASSES,
    check,
    locate,
)

T = TypeVar("T", bound=nn.Module)


class Head(nn.Module):
    def __init__(self, hidden_size: int, num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()

    @classmethod
    def from_folder(cls, path: str) -> "Head":
        raise AssertionError("was called")

    @classmethod
    def of_self(cls) -> Self:
        raise AssertionError("was called")

    @classmethod
    def of_type(cls: type[T]) -> T:
        raise AssertionError("was called")

    @classmethod
    def of_nothing(cls):
        raise AssertionError("was called")


class Task(LightningModule):
    pass


class Data(LightningDataModule):
    def __init__(self, source: str, batch_size: int = 1) -> None:
        super().__init__()


def make_head() -> nn.Module:
    raise AssertionError("was called")


def make_maybe() -> nn.Module | None:
    raise AssertionError("was called")


def make_number() -> int:
    raise AssertionError("was called")


def make_unknown() -> "NotThere":  # noqa: F821
    raise AssertionError("was called")


def make_schedule(optimizer, warmup: float) -> "torch.optim.lr_scheduler.LRScheduler":
    raise AssertionError("was called")


def unannotated():
    raise AssertionError("was called")


anonymous = lambda: nn.Linear(1, 1)  # noqa: E731
instance = nn.Linear(1, 1)
ME = __name__


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("backbone", "torch.nn.Linear"),
        ("backbone", f"{ME}.Head.from_folder"),
        ("backbone", f"{ME}.Head.of_self"),
        ("backbone", f"{ME}.Head.of_type"),
        ("head", f"{ME}.make_head"),
        ("objective", "torch.nn.MSELoss"),
        ("task", f"{ME}.Task"),
        ("data", f"{ME}.Data"),
        ("optimizer", "torch.optim.AdamW"),
        ("scheduler", "torch.optim.lr_scheduler.ConstantLR"),
        ("scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        ("scheduler", f"{ME}.make_schedule"),
        ("callback", "lightning.pytorch.callbacks.EarlyStopping"),
        ("logger", "lightning.pytorch.loggers.CSVLogger"),
        ("hydra callback", "hydra.experimental.callbacks.PickleJobInfoCallback"),
    ],
)
def test_targets_of_the_right_kind_pass_without_a_call(kind, target):
    check({"_target_": target, "_partial_": True}, kind)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.open",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "pathlib.Path.write_text",
        "pathlib.Path",
        "builtins.eval",
        "builtins.exec",
        "subprocess.run",
        "subprocess.Popen",
        "hydra.utils.instantiate",
        "hydra.utils.call",
        "functools.partial",
        "pickle.load",
        "importlib.import_module",
        "torch.nn.init",
        "torch.nn.Module.eval",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        f"{ME}.unannotated",
        f"{ME}.anonymous",
        f"{ME}.instance",
        f"{ME}.make_maybe",
        f"{ME}.make_number",
        f"{ME}.make_unknown",
        f"{ME}.Head.of_nothing",
        f"{ME}.Head.forward",
        "lightning_transfer.cli.command_line.os.system",
    ],
)
@pytest.mark.parametrize("kind", ["head", "task", "callback"])
def test_other_targets_are_refused_without_a_call(target, kind):
    with pytest.raises((ValueError, ImportError), match=rf"^stages\.x: .*{target.split('.')[-1]}"):
        check({"_target_": target}, kind, where="stages.x")


@pytest.mark.parametrize(
    "target", ["lightning.pytorch.callbacks.EarlyStopping", "torch.optim.AdamW", "builtins.dict"]
)
def test_a_class_of_another_kind_is_refused(target):
    message = f"head: {target} is not allowed here; head must be a subclass of torch.nn.Module, or"
    with pytest.raises(ValueError, match=message):
        check({"_target_": target}, "head")


def test_refusal_of_a_function_names_its_return_type():
    with pytest.raises(
        ValueError, match=r"make_number is annotated as returning builtins\.int; head"
    ):
        check({"_target_": f"{ME}.make_number"}, "head")


def test_load_from_checkpoint_is_refused_despite_its_return_type():
    target = f"{ME}.Task.load_from_checkpoint"
    with pytest.raises(ValueError, match="unpickles a file, so no config may call it"):
        check({"_target_": target, "checkpoint_path": "x.ckpt"}, "task")


@pytest.mark.parametrize(
    "spec",
    [
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.system", "command": "ls"}]},
        {"_target_": "torch.nn.Linear", "bias": {"deep": [{"_target_": "os.system"}]}},
        {"one": {"_target_": "torch.nn.Linear"}, "two": {"_target_": "os.system"}},
        [{"_target_": "os.system"}],
    ],
)
def test_nested_targets_are_checked_at_any_depth(spec):
    with pytest.raises(ValueError, match=r"^head[.[].*: os\.system has no return annotation"):
        check(spec, "head")


def test_nested_targets_with_an_allowed_base_class_pass():
    nested = [
        {"_target_": "torchmetrics.MeanMetric"},
        {"_target_": "lightning_transfer.utils.labels.Labels", "kind": "regression"},
        {"_target_": "lightning.pytorch.profilers.SimpleProfiler"},
        {"_target_": "torch.nn.GELU"},
    ]
    check({"_target_": "torch.nn.Sequential", "_args_": nested}, "head")
    with pytest.raises(ValueError, match="Labels is not allowed here"):
        check(nested[1], "head")


def test_functions_of_this_package_are_refused():
    spec = {"_target_": "lightning_transfer.experiments.run_folder.RunFolder.open", "path": "x"}
    with pytest.raises(ValueError, match=r"RunFolder\.open is annotated as returning"):
        check({"_target_": "torch.nn.Sequential", "_args_": [spec]}, "head")


def test_trainer_arguments_are_targets_or_plain_values():
    check(
        {"devices": 2, "profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler"}},
        "trainer",
    )
    check({}, "trainer")
    with pytest.raises(ValueError, match=r"^trainer\.profiler: os\.system"):
        check({"profiler": {"_target_": "os.system"}}, "trainer", where="trainer")


@pytest.mark.parametrize("spec", [None, {}, []])
def test_an_empty_spec_passes(spec):
    check(spec, "callback")


@pytest.mark.parametrize("spec", ["mlp", {"dropout": 0.1}, {"a": {"b": 1}}, 3])
def test_a_spec_without_a_target_is_an_error(spec):
    message = r"stages\.x: head must be a mapping with a _target_ \(a subclass of torch\.nn"
    with pytest.raises(ValueError, match=message):
        check(spec, "head", where="stages.x")


def test_unknown_kind_suggests_close_names():
    with pytest.raises(ValueError, match=r"unknown kind of object 'heads'; did you mean head\?"):
        check({}, "heads")


@pytest.mark.parametrize(
    "path", ["nodots", "a b.c", "torch..nn", "torch.nn.", "", "${a.b}", 3, None, {}]
)
def test_a_path_without_dots_is_refused(path):
    with pytest.raises(ValueError, match="must be a dotted path such as"):
        check({"_target_": path}, "head")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "trch.nn.Linear",
            r"no module named 'trch' \(_target_: trch\.nn\.Linear\); did you mean torch",
        ),
        (
            "torch.nnn.Linear",
            r"_target_ not found: module torch has no attribute 'nnn'; did you mean torch\.nn",
        ),
        (
            "torch.nn.Linar",
            r"module torch\.nn has no attribute 'Linar'; did you mean torch\.nn\.Lin",
        ),
        (
            f"{ME}.Head.from_foldr",
            r"class .*Head has no attribute 'from_foldr'; did you mean .*from_folder",
        ),
        ("lightning_transfer.util.Labels", r"did you mean lightning_transfer\.utils"),
    ],
)
def test_a_missing_part_of_a_path_is_named_with_close_names(path, message):
    with pytest.raises(ImportError, match=rf"^head: .*{message}"):
        check({"_target_": path}, "head")


def test_a_failed_import_is_reported_with_its_cause(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_here\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=r"needs_more\.X failed: .*No module named 'not_installed_"
    ):
        locate("needs_more.X")
    with pytest.raises(ImportError, match=r"broken\.X failed: ZeroDivisionError"):
        locate("broken.X")
    lazy = types.ModuleType("lazy")
    lazy.__getattr__ = lambda name: 1 / 0  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    with pytest.raises(ImportError, match=r"importing lazy\.X failed: division by zero"):
        locate("lazy.X")


def test_unknown_argument_suggests_close_names():
    spec = {"_target_": f"{ME}.Head", "_partial_": True, "dropuot": 0.1}
    message = (
        r"stages\.x\.dropuot: .*Head has no argument 'dropuot'; did you mean dropout\? "
        r"It takes hidden_size, num_outputs, dropout"
    )
    with pytest.raises(ValueError, match=message):
        check(spec, "head", where="stages.x")
    with pytest.raises(ValueError, match=r"data\.batchsize: .*did you mean batch_size\?"):
        check({"_target_": f"{ME}.Data", "batchsize": 3}, "data")
    with pytest.raises(ValueError, match=r"has no argument 'warmpu'; did you mean warmup"):
        check({"_target_": f"{ME}.make_schedule", "warmpu": 3}, "scheduler")
    with pytest.raises(ValueError, match=r"has no argument 'paht'; did you mean path"):
        check({"_target_": f"{ME}.Head.from_folder", "paht": 3}, "head")


def test_all_base_classes_exist():
    for base in {
        *NESTED_BASE_CLASSES,
        *(base for bases in BASE_CLASSES.values() for base in bases),
    }:
        assert isinstance(allowed_targets._base_class(base), type), base
