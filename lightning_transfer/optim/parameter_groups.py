"""Parameters in groups by depth and weight decay, each with its share of the learning rate."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

_SCALE = "ia3_l"  # what peft calls the scales of IA3: vectors, kept with two dimensions


@runtime_checkable
class Layered(Protocol):
    """Anything that shows its layers in order, from the input up."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Modules from the input up; the first holds the embeddings."""
        ...


def layers_of(backbone: nn.Module) -> list[nn.Module]:
    """Return a backbone's layers from the input up.

    Raises:
        ValueError: If it shows none.
    """
    if not isinstance(backbone, Layered):
        raise ValueError(
            f"{type(backbone).__name__} shows no `layers`; a backbone needs an ordered list of "
            "modules from the input up in its attribute `layers`"
        )
    return list(backbone.layers)


def depth_of_parameters(backbone: nn.Module) -> dict[int, int]:
    """Map ``id(parameter)`` to its depth in the backbone.

    A parameter in no layer, such as a final norm, stands with the top layer: it sits above all.
    One that several layers share stands with the lowest.
    """
    layers = layers_of(backbone)
    depths = {id(parameter): len(layers) - 1 for parameter in backbone.parameters()}
    for depth in reversed(range(len(layers))):
        depths.update((id(parameter), depth) for parameter in layers[depth].parameters())
    return depths


@dataclass(frozen=True)
class ParameterGroups:
    """Sort parameters into optimizer groups by depth and by weight decay.

    Every parameter is in exactly one group from the start, frozen or not: an optimizer passes
    over what has no gradient, and so nothing has to move between groups when layers unfreeze.
    Each depth has its own pair of groups, ``depth 3`` and ``depth 3, no decay``, and so has the
    ``head``, whatever their rates: biases and norms (all parameters of one dimension) take no
    weight decay, ever.

    Discriminative learning rates follow Howard & Ruder 2018 (arXiv:1801.06146), who divide by 2.6
    a layer (``layer_decay`` 0.385). A rate is the optimizer's times the group's ratio, so that one
    learning rate can be swept and the ratios stay.

    Args:
        head_ratio: Learning rate of the head over that of the backbone's top layer, > 0. With
            ``layer_ratios``, over the optimizer's own.
        layer_decay: Learning rate of a layer over that of the layer above it, in (0, 1].
        layer_ratios: Instead of ``layer_decay``: the ratio of every depth, > 0, from the
            embeddings up.

    Raises:
        ValueError: If a ratio is out of its range, if both ``layer_decay`` and ``layer_ratios`` are
            given, or (when called) if the backbone has another number of depths than ratios.

    Example:
        >>> ParameterGroups(layer_ratios=[0.1, 0.5, 1.0]).layer_ratios
        [0.1, 0.5, 1.0]
    """

    head_ratio: float = 10.0
    layer_decay: float = 1.0
    _: KW_ONLY
    layer_ratios: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.head_ratio <= 0:
            raise ValueError(f"head_ratio must be > 0, got {self.head_ratio}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.layer_ratios is None:
            return
        if self.layer_decay != 1:
            raise ValueError(
                f"layer_decay={self.layer_decay} and layer_ratios={list(self.layer_ratios)} are "
                "two ways to say the same; give one of them"
            )
        if any(ratio <= 0 for ratio in self.layer_ratios):
            raise ValueError(
                f"layer_ratios must be > 0, got {list(self.layer_ratios)}; a layer that is not to "
                "learn is frozen by the callback Freezing"
            )

    def __call__(self, task: nn.Module, backbone: nn.Module) -> list[dict[str, Any]]:
        """Return optimizer groups with ``name``, ``lr_ratio`` and, where due, no weight decay."""
        depths = depth_of_parameters(backbone)
        ratios = self._ratios(len(layers_of(backbone)), max(depths.values(), default=0))
        scales = {id(p) for name, p in task.named_parameters() if _SCALE in name.split(".")}
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        for parameter in task.parameters():
            depth = depths.get(id(parameter))
            where = "head" if depth is None else f"depth {depth}"
            decays = parameter.ndim > 1 and id(parameter) not in scales
            group = groups.setdefault(
                (where, decays),
                {
                    "params": [],
                    "name": where if decays else f"{where}, no decay",
                    "lr_ratio": self.head_ratio if depth is None else ratios[depth],
                },
            )
            if not decays:
                group["weight_decay"] = 0.0
            group["params"].append(parameter)
        return list(groups.values())

    def _ratios(self, count: int, top: int) -> list[float]:
        """Return the ratio of each of ``count`` depths; those up to ``top`` have parameters."""
        if self.layer_ratios is None:
            return [self.layer_decay ** (top - depth) for depth in range(count)]
        if len(self.layer_ratios) != count:
            raise ValueError(
                f"layer_ratios has {len(self.layer_ratios)} values and the backbone {count} "
                f"depths, 0 (the embeddings) to {count - 1}; give one ratio a depth, from the "
                "input up"
            )
        return [float(ratio) for ratio in self.layer_ratios]
