"""Lookup of a module's ordered layers, by attribute path or by regexes over parameter names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_transfer.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True)
class LayerStack:
    """Ordered stack of layers in a module.

    Args:
        count: Number of layers. Their depths are 0..count - 1, from the input up.
        depth_of: Depth of each parameter, by its name in ``named_parameters()`` of the module. A
            parameter shared by several layers has the depth of the lowest one. Parameters outside
            the layers are absent.
        modules: The layers, from the input up; empty if they are given by regexes.
    """

    count: int
    depth_of: dict[str, int]
    modules: tuple[nn.Module, ...] = ()


def find_layers(module: nn.Module, layers: str | Sequence[str]) -> LayerStack:
    """Find the layers of a module.

    Args:
        module: Usually a ``LightningModule``.
        layers: Attribute path of an ordered list of modules (``nn.ModuleList``,
            ``nn.Sequential``, list or tuple), or regexes over parameter names, one per depth, from
            the input up.

    Raises:
        ValueError: If the path does not lead to a list of modules, a regex is invalid or matches
            no parameter, a parameter matches two regexes, or the list of regexes is empty.
    """
    return _by_path(module, layers) if isinstance(layers, str) else _by_names(module, layers)


def _by_path(module: nn.Module, path: str) -> LayerStack:
    # Not get_submodule: a backbone may give its layers as a property that returns a list.
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            known = dict(found.named_children()) if isinstance(found, nn.Module) else {}
            near = did_you_mean(closest(name, known) or list(known))
            raise ValueError(
                f"layers={path!r}: {type(found).__name__} has no attribute {name!r}{near} It must "
                "be the attribute path of an ordered list of modules, or a list of regexes"
            ) from None
    modules = list(found) if isinstance(found, nn.Sequential | nn.ModuleList | Sequence) else []
    if not modules or not all(isinstance(part, nn.Module) for part in modules):
        raise ValueError(
            f"layers={path!r} must lead to an ordered list of modules, got "
            f"{type(found).__name__}; name an nn.ModuleList, or give a list of regexes over "
            "parameter names"
        )
    depths: dict[int, int] = {}
    # From the top down, so that the lowest layer of a shared parameter overwrites the others.
    for depth, layer in reversed(list(enumerate(modules))):
        depths.update((id(parameter), depth) for parameter in layer.parameters())
    named = {name: depths.get(id(parameter)) for name, parameter in module.named_parameters()}
    inside = {name: depth for name, depth in named.items() if depth is not None}
    return LayerStack(len(modules), inside, tuple(modules))


def _by_names(module: nn.Module, patterns: Sequence[str]) -> LayerStack:
    names = [name for name, _ in module.named_parameters()]
    depth_of: dict[str, int] = {}
    for depth, pattern in enumerate(patterns):
        for name in match_parameter_names(pattern, names, "layers"):
            if name in depth_of:
                raise ValueError(
                    f"layers: {name} matches {patterns[depth_of[name]]!r} and {pattern!r}; a "
                    r"parameter must match one regex only (a dot matches any character: write \.)"
                )
            depth_of[name] = depth
    if not patterns:
        raise ValueError("layers is an empty list; give one regex per depth, from the input up")
    return LayerStack(len(patterns), depth_of)


def match_parameter_names(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """Return the parameter names that contain a match of a regex.

    Args:
        pattern: Regex, searched for anywhere in a name.
        names: Parameter names.
        where: Name of the argument with the regex, for messages.

    Raises:
        ValueError: If the regex is invalid or matches no name.
    """
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"{where}: invalid regular expression {pattern!r}: {error}") from error
    if not found:
        near = closest(pattern, names) or list(names[:3])
        raise ValueError(f"{where}: no parameter matches {pattern!r}{did_you_mean(near)}")
    return found


def format_depths(depths: range) -> str:
    """Return ``depth 3`` or ``depths 0-3`` for a log line.

    Args:
        depths: At least one depth, with step 1.
    """
    if len(depths) == 1:
        return f"depth {depths[0]}"
    return f"depths {depths[0]}-{depths[-1]}"
