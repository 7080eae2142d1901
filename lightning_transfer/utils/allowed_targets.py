"""Typed slots: what a config may build, checked before anything is called.

Hydra builds whatever a ``_target_`` names, so a YAML file from elsewhere could run ``os.system`` or
open files for writing; its list of blocked names lets much of that through. Here each slot of a
config names the base class of what belongs there, and anything else is refused. Names are resolved
by importing their module, and nothing is called.
"""

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import types
import typing
from collections.abc import Mapping
from typing import Any

from lightning_transfer.utils.suggestions import closest, did_you_mean

NESTED = (
    "torch.nn.Module",
    "lightning.pytorch.LightningModule",
    "lightning.pytorch.LightningDataModule",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "lightning.pytorch.Callback",
    "lightning.pytorch.loggers.Logger",
    "lightning.pytorch.profilers.Profiler",
    "lightning.pytorch.strategies.Strategy",
    "lightning.pytorch.accelerators.Accelerator",
    "lightning.pytorch.plugins.Precision",
    "lightning.pytorch.plugins.ClusterEnvironment",
    "lightning.pytorch.plugins.CheckpointIO",
    "lightning.pytorch.plugins.LayerSync",
    "torchmetrics.Metric",
    "optuna.pruners.BasePruner",
)
"""Base classes of what may be an argument of the object in a slot, beside our own classes."""

SLOTS: Mapping[str, tuple[str, ...]] = {
    "backbone": ("torch.nn.Module",),
    "head": ("torch.nn.Module",),
    "task": ("lightning.pytorch.LightningModule",),
    "data": ("lightning.pytorch.LightningDataModule",),
    "optimizer": ("torch.optim.Optimizer",),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler",),
    "callback": ("lightning.pytorch.Callback",),
    "adapter": ("lightning_transfer.adapters.Adapter",),
    "logger": ("lightning.pytorch.loggers.Logger",),
    "objective": ("torch.nn.Module",),
    "groups": ("lightning_transfer.optim.ParameterGroups",),
    "tokenizer": ("lightning_transfer.data.TokenizerTrainer",),
    "trainer": NESTED,
    "sampler": ("optuna.samplers.BaseSampler",),
    "pruner": ("optuna.pruners.BasePruner",),
    "hydra callback": ("hydra.experimental.callback.Callback",),
}
"""Slot to the base classes of what belongs there; imported only when something is checked.

``trainer`` holds the arguments of Lightning's Trainer, of which any may be built, or none.
"""

_PACKAGE = "lightning_transfer"
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
# It unpickles a file that the config names, whatever class it is called on.
_REFUSED = {"load_from_checkpoint"}


def check(spec: Any, slot: str, *, where: str = "") -> None:
    """Refuse a config that would build something else than its slot takes.

    The outermost ``_target_`` must be a subclass of the slot's base, or a function or classmethod
    that is annotated as returning one. Those nested inside it must be so for one of the known
    bases, or be a class of this package. Arguments that the target does not take are refused too.

    Args:
        spec: Plain config, with interpolations resolved: a mapping with a ``_target_``, a mapping
            or list of such (callbacks by name), or ``None`` for an empty slot.
        slot: One of :data:`SLOTS`.
        where: Dotted key of ``spec`` in the config, for messages.

    Raises:
        ValueError: If a target is refused, is not written as a dotted path, is missing, or is given
            an argument that it does not have.
        ImportError: If a target cannot be imported; the message says which part, and what is close.

    Example:
        >>> check({"_target_": "os.system"}, "head")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: head: os.system is not annotated as returning anything; ...
    """
    if slot not in SLOTS:
        raise ValueError(f"unknown slot {slot!r}{did_you_mean(closest(slot, SLOTS))}")
    if not _walk(spec, SLOTS[slot], where or slot, slot) and spec and SLOTS[slot] is not NESTED:
        raise ValueError(
            f"{where or slot}: a {slot} is built from a mapping with a _target_ (a subclass of "
            f"{SLOTS[slot][0]}), got {spec!r}"
        )


def locate(path: Any, where: str = "_target_") -> Any:
    """Return the class or function that a dotted path names, by importing and nothing else.

    Args:
        path: Dotted path, such as ``torch.nn.Linear``.
        where: Dotted key of the path in the config, for messages.

    Raises:
        ValueError: If ``path`` is not a dotted path.
        ImportError: If a part of it does not exist, or a module fails to import.
    """
    names = path.split(".") if isinstance(path, str) else []
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ValueError(
            f"{where}: _target_ must be a dotted path such as torch.nn.Linear, got {path!r}"
        )
    found = _import(names[0], path, where)
    for position, name in enumerate(names[1:], start=1):
        parent = ".".join(names[:position])
        try:
            found = getattr(found, name)
        except AttributeError:
            if not isinstance(found, types.ModuleType) or not _is_module(f"{parent}.{name}"):
                raise _absent(found, name, parent, f"{where}: ") from None
            found = _import(f"{parent}.{name}", path, where)
        except Exception as error:  # a module that imports its parts when they are asked for
            raise ImportError(f"{where}: importing {path} failed: {error}") from error
    return found


def _walk(spec: Any, bases: tuple[str, ...], where: str, slot: str) -> bool:
    """Check every ``_target_`` in ``spec``; return whether there is one."""
    if isinstance(spec, list | tuple):
        found = [_walk(part, bases, f"{where}[{i}]", slot) for i, part in enumerate(spec)]
        return any(found)
    if not isinstance(spec, Mapping):
        return False
    is_target = "_target_" in spec
    if is_target:
        _check_target(spec, bases, where, slot)
        bases = NESTED
        slot = "an argument"
    parts = [_walk(part, bases, f"{where}.{name}", slot) for name, part in spec.items()]
    return is_target or any(parts)


def _check_target(spec: Mapping[str, Any], bases: tuple[str, ...], where: str, slot: str) -> None:
    path = spec["_target_"]
    target = locate(path, where)
    wrong = _objection(target, bases)
    if wrong:
        takes = f"a subclass of {bases[0]}" if len(bases) == 1 else f"one of {', '.join(bases)}"
        raise ValueError(
            f"{where}: {path} {wrong}; {slot} takes {takes}, or a function annotated as returning "
            "one"
        )
    _check_arguments(target, spec, where)


def _objection(target: Any, bases: tuple[str, ...]) -> str:
    """Return why ``target`` may not be called here, or nothing."""
    made = target
    if not inspect.isclass(target):
        if not isinstance(target, _FUNCTIONS):
            return f"is neither a class nor a function, but a {type(target).__name__}"
        if target.__name__ in _REFUSED:
            return "unpickles a file, so no config may call it"
        made = _returned(target)
        if made is None:
            return "is not annotated as returning anything"
        if not inspect.isclass(made):
            return f"is annotated as returning {made}"
    elif bases is NESTED and _comes_from(target, _PACKAGE):
        return ""
    possible = (base for base in bases if _comes_from(made, base.partition(".")[0]))
    if any(issubclass(made, _base(base)) for base in possible):
        return ""
    name = f"{made.__module__}.{made.__qualname__}"
    return "does not belong here" if made is target else f"is annotated as returning {name}"


def _returned(function: Any) -> Any:
    """Return a function's return annotation as an object, or ``None`` without one."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            holder = types.SimpleNamespace(__annotations__={"return": annotation})
            annotation = typing.get_type_hints(holder, globalns=names)["return"]
        except Exception:
            return f"{annotation!r}, unknown at run time"
    owner = getattr(function, "__self__", None)
    is_self = annotation is typing.Self or isinstance(annotation, typing.TypeVar)
    return owner if is_self and inspect.isclass(owner) else annotation


def _check_arguments(target: Any, spec: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that the target does not have, where its signature is known."""
    # A metaclass may hide the constructor's signature (LightningDataModule's does).
    own = inspect.isclass(target) and target.__init__ is not object.__init__
    try:
        parameters = list(inspect.signature(target.__init__ if own else target).parameters.values())
    except (TypeError, ValueError):
        return
    parameters = parameters[1:] if own else parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in spec:
        if name not in known and name not in _HYDRA_KEYS:
            raise ValueError(
                f"{where}.{name}: {spec['_target_']} has no argument {name!r}"
                f"{did_you_mean(closest(str(name), known))} It takes {', '.join(known) or 'none'}"
            )


@functools.cache
def _base(path: str) -> type:
    return locate(path)


def _comes_from(made: type, root: str) -> bool:
    """Return whether a class or one of its bases is of package ``root``: imports nothing."""
    return any(parent.__module__.partition(".")[0] == root for parent in made.__mro__)


def _import(module: str, path: str, where: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            near = did_you_mean(closest(module, [found.name for found in pkgutil.iter_modules()]))
            message = f"{where}: no module named {module!r} (_target_: {path}){near}"
        else:
            message = f"{where}: importing {path} failed: {type(error).__name__}: {error}"
        raise ImportError(message) from error


def _absent(owner: Any, name: str, parent: str, start: str) -> ImportError:
    below = pkgutil.iter_modules(getattr(owner, "__path__", []))
    known = [*dir(owner), *(module.name for module in below)]
    near = closest(name, [known for known in known if not known.startswith("_")])
    kind = "module" if isinstance(owner, types.ModuleType) else "class"
    names = did_you_mean([f"{parent}.{name}" for name in near])
    return ImportError(f"{start}_target_ names {name!r}, which is not in {kind} {parent}{names}")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
