"""Allowed targets: check which classes and functions a config instantiates, before any call.

Hydra instantiates any ``_target_``. A YAML file from elsewhere could run ``os.system`` or open
files for writing, and Hydra's list of blocked names lets much of that through. This module
therefore works with a list of allowed base classes: each kind of object in a config (backbone,
head, optimizer, ...) has a base class, and any other target is refused. Targets are resolved by
importing their module; nothing is called.
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

NESTED_BASE_CLASSES = (
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
"""Base classes of targets nested inside another target; classes of this package are allowed too."""

# Dotted paths instead of classes: the command line imports this module before torch, to answer
# --help in under a second, and optuna is an optional dependency.
BASE_CLASSES: Mapping[str, tuple[str, ...]] = {
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
    "trainer": NESTED_BASE_CLASSES,
    "sampler": ("optuna.samplers.BaseSampler",),
    "pruner": ("optuna.pruners.BasePruner",),
    "hydra callback": ("hydra.experimental.callback.Callback",),
}
"""Allowed base classes of each kind of object.

A spec of kind ``trainer`` holds the arguments of Lightning's Trainer. Each of them may be a target
or a plain value.
"""

_PACKAGE = "lightning_transfer"
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
# Lightning's load_from_checkpoint is annotated as returning the right class, but it unpickles the
# file that the config names.
_REFUSED_FUNCTIONS = {"load_from_checkpoint"}


def check(spec: Any, kind: str, *, where: str = "") -> None:
    """Raise if a config would instantiate an object of another kind.

    The outermost ``_target_`` must be a subclass of the base class of ``kind``, or a function or
    classmethod annotated as returning one. Targets nested inside it must fit one of
    :data:`NESTED_BASE_CLASSES` in the same way, or be a class of this package. Arguments unknown
    to the target are refused too.

    Args:
        spec: Plain config with resolved interpolations: a mapping with a ``_target_``, a mapping
            or list of such mappings (callbacks by name), or ``None`` for no object.
        kind: A key of :data:`BASE_CLASSES`.
        where: Dotted key of ``spec`` in the config, for messages.

    Raises:
        ValueError: If ``kind`` is unknown, or if a target is not allowed, is not a dotted path, is
            missing, or is given an unknown argument.
        ImportError: If a target cannot be imported. The message names the missing part and close
            names.

    Example:
        >>> check({"_target_": "os.system"}, "head")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: head: os.system has no return annotation; ...
    """
    if kind not in BASE_CLASSES:
        raise ValueError(
            f"unknown kind of object {kind!r}{did_you_mean(closest(kind, BASE_CLASSES))}"
        )
    bases, where = BASE_CLASSES[kind], where or kind
    has_target = _check_targets(spec, bases, where, kind)
    # The Trainer itself is built by this package, so a spec of its arguments needs no target.
    if spec and not has_target and bases is not NESTED_BASE_CLASSES:
        raise ValueError(
            f"{where}: {kind} must be a mapping with a _target_ (a subclass of {bases[0]}), "
            f"got {spec!r}"
        )


def locate(path: Any, where: str = "_target_") -> Any:
    """Import the class or function at a dotted path, without calling it.

    Args:
        path: Dotted path, such as ``torch.nn.Linear``.
        where: Dotted key of the path in the config, for messages.

    Raises:
        ValueError: If ``path`` is not a dotted path.
        ImportError: If a part of it does not exist, or if a module fails to import.
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
            # A submodule is an attribute of its package only after its first import.
            if not isinstance(found, types.ModuleType) or not _is_module(f"{parent}.{name}"):
                raise _missing_name(found, name, parent, where) from None
            found = _import(f"{parent}.{name}", path, where)
        except Exception as error:  # from a module that imports its members on first access
            raise ImportError(f"{where}: importing {path} failed: {error}") from error
    return found


def _check_targets(spec: Any, bases: tuple[str, ...], where: str, kind: str) -> bool:
    """Check every ``_target_`` in ``spec``; return True if there is one."""
    if isinstance(spec, list | tuple):
        found = [_check_targets(part, bases, f"{where}[{i}]", kind) for i, part in enumerate(spec)]
        return any(found)
    if not isinstance(spec, Mapping):
        return False
    is_target = "_target_" in spec
    if is_target:
        _check_target(spec, bases, where, kind)
        bases = NESTED_BASE_CLASSES
    parts = [_check_targets(part, bases, f"{where}.{name}", kind) for name, part in spec.items()]
    return is_target or any(parts)


def _check_target(spec: Mapping[str, Any], bases: tuple[str, ...], where: str, kind: str) -> None:
    path = spec["_target_"]
    target = locate(path, where)
    objection = _objection(target, bases)
    if objection:
        if len(bases) == 1:
            allowed = f"{kind} must be a subclass of {bases[0]}, or a function annotated as "
            allowed += "returning one"
        else:
            allowed = "an argument must be a subclass of one of these classes, or a function "
            allowed += f"annotated as returning one: {', '.join(bases)}"
        raise ValueError(f"{where}: {path} {objection}; {allowed}")
    _check_arguments(target, spec, where)


def _objection(target: Any, bases: tuple[str, ...]) -> str:
    """Return the reason to refuse ``target``, or an empty string if it is allowed."""
    made = target
    if not inspect.isclass(target):
        if not isinstance(target, _FUNCTIONS):
            return f"is neither a class nor a function, but a {type(target).__name__}"
        if target.__name__ in _REFUSED_FUNCTIONS:
            return "unpickles a file, so no config may call it"
        made = _return_type(target)
        if made is None:
            return "has no return annotation"
        if not inspect.isclass(made):
            return f"is annotated as returning {made}"
    elif bases is NESTED_BASE_CLASSES and _comes_from(target, _PACKAGE):
        return ""
    # Bases of other packages are skipped, so that checking a head does not import optuna.
    possible = (base for base in bases if _comes_from(made, base.partition(".")[0]))
    if any(issubclass(made, _base_class(base)) for base in possible):
        return ""
    name = f"{made.__module__}.{made.__qualname__}"
    return "is not allowed here" if made is target else f"is annotated as returning {name}"


def _return_type(function: Any) -> Any:
    """Return the resolved return annotation of a function, or ``None`` if there is none."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            # Only the return annotation is resolved: those of the arguments may fail to.
            holder = types.SimpleNamespace(__annotations__={"return": annotation})
            annotation = typing.get_type_hints(holder, globalns=names)["return"]
        except Exception:
            return f"{annotation!r}, unknown at run time"
    owner = getattr(function, "__self__", None)
    is_self = annotation is typing.Self or isinstance(annotation, typing.TypeVar)
    return owner if is_self and inspect.isclass(owner) else annotation


def _check_arguments(target: Any, spec: Mapping[str, Any], where: str) -> None:
    """Raise if the target has no argument of a given name, as far as its signature is known."""
    # A metaclass may hide the constructor's signature (LightningDataModule's does).
    own = inspect.isclass(target) and target.__init__ is not object.__init__
    try:
        parameters = list(inspect.signature(target.__init__ if own else target).parameters.values())
    except (TypeError, ValueError):  # builtins and C extensions may have no signature
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
def _base_class(path: str) -> type:
    return locate(path)


def _comes_from(made: type, root: str) -> bool:
    """Return True if a class or one of its bases is defined in package ``root``."""
    return any(parent.__module__.partition(".")[0] == root for parent in made.__mro__)


def _import(module: str, path: str, where: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # The same exception is raised if the module exists but imports a missing one.
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            near = did_you_mean(closest(module, [found.name for found in pkgutil.iter_modules()]))
            message = f"{where}: no module named {module!r} (_target_: {path}){near}"
        else:
            message = f"{where}: importing {path} failed: {type(error).__name__}: {error}"
        raise ImportError(message) from error


def _missing_name(owner: Any, name: str, parent: str, where: str) -> ImportError:
    """Return the error for a name that a module or class does not have."""
    submodules = pkgutil.iter_modules(getattr(owner, "__path__", []))
    known = [*dir(owner), *(module.name for module in submodules)]
    near = closest(name, [known for known in known if not known.startswith("_")])
    kind = "module" if isinstance(owner, types.ModuleType) else "class"
    suggestion = did_you_mean([f"{parent}.{name}" for name in near])
    return ImportError(
        f"{where}: _target_ not found: {kind} {parent} has no attribute {name!r}{suggestion}"
    )


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
