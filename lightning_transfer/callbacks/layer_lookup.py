"""A module's layers from the input up, by attribute path or by regexes over parameter names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_transfer.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True)
class Layers:
    """An ordered stack of layers in a module.

    Args:
        count: How many depths there are.
        depth_of: Parameter name, as in ``named_parameters()`` of the module, to its depth. A
            parameter that several layers share stands with the lowest; what is in no layer is not
            in here.
        modules: The layers themselves, from the input up; empty where regexes define them.
    """

    count: int
    depth_of: dict[str, int]
    modules: tuple[nn.Module, ...] = ()


def find_layers(module: nn.Module, layers: str | Sequence[str]) -> Layers:
    """Find the layers of a module.

    Args:
        module: Usually a ``LightningModule``.
        layers: Attribute path of an ordered list of modules (``nn.ModuleList``,
            ``nn.Sequential``, list or tuple), or regexes over parameter names, one a depth, from
            the input up.

    Raises:
        ValueError: If the path leads to no list of modules, or a regex matches no parameter, or a
            parameter matches two of them.
    """
    return _by_path(module, layers) if isinstance(layers, str) else _by_names(module, layers)


def _by_path(module: nn.Module, path: str) -> Layers:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            known = dict(found.named_children()) if isinstance(found, nn.Module) else {}
            near = did_you_mean(closest(name, known) or list(known))
            raise ValueError(
                f"layers={path!r}: {type(found).__name__} has no {name!r}{near} It is the "
                "attribute path of an ordered list of modules, or a list of regexes"
            ) from None
    modules = list(found) if isinstance(found, nn.Sequential | nn.ModuleList | Sequence) else []
    if not modules or not all(isinstance(part, nn.Module) for part in modules):
        raise ValueError(
            f"layers={path!r} must lead to an ordered list of modules, got "
            f"{type(found).__name__}; name an nn.ModuleList, or give a list of regexes over "
            "parameter names"
        )
    depths: dict[int, int] = {}
    for depth, layer in reversed(list(enumerate(modules))):
        depths.update((id(parameter), depth) for parameter in layer.parameters())
    named = {name: depths.get(id(parameter)) for name, parameter in module.named_parameters()}
    inside = {name: depth for name, depth in named.items() if depth is not None}
    return Layers(len(modules), inside, tuple(modules))


def _by_names(module: nn.Module, patterns: Sequence[str]) -> Layers:
    names = [name for name, _ in module.named_parameters()]
    depth_of: dict[str, int] = {}
    for depth, pattern in enumerate(patterns):
        for name in matching(pattern, names, "layers"):
            if name in depth_of:
                raise ValueError(
                    f"layers: {name} matches {patterns[depth_of[name]]!r} and {pattern!r}; a "
                    r"parameter has one depth (a dot matches everything, write \.)"
                )
            depth_of[name] = depth
    if not patterns:
        raise ValueError("layers is an empty list; give one regex a depth, from the input up")
    return Layers(len(patterns), depth_of)


def matching(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """Return the parameter names in which a regex is found.

    Raises:
        ValueError: If it is no regex, or is found in none.
    """
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is no regular expression: {error}") from error
    if not found:
        near = closest(pattern, names) or list(names[:3])
        raise ValueError(f"{where}: {pattern!r} matches no parameter{did_you_mean(near)}")
    return found


def name_depths(depths: range) -> str:
    """Return how a log calls an unbroken run of at least one depth."""
    if len(depths) == 1:
        return f"depth {depths[0]}"
    return f"depths {depths[0]}-{depths[-1]}"
