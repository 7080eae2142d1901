"""Optimizer groups by depth and weight decay, with a learning-rate ratio for each depth."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

# Name of the scales of IA3 in peft. They are vectors and take no weight decay, but peft stores them
# with two dimensions.
_IA3_SCALE = "ia3_l"


@runtime_checkable
class Layered(Protocol):
    """Object with an ordered list of layers."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Modules in order from the input; the first one contains the embeddings (depth 0)."""
        ...


def layers_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the layers of a backbone in order from the input.

    Args:
        backbone: Any module with an attribute ``layers``.

    Raises:
        ValueError: If it has no attribute ``layers``.
    """
    if not isinstance(backbone, Layered):
        raise ValueError(
            f"{type(backbone).__name__} has no attribute `layers`; a backbone needs a list of its "
            "modules in order from the input"
        )
    return list(backbone.layers)


def depth_of_parameters(backbone: nn.Module) -> dict[int, int]:
    """Return the depth of each parameter of a backbone.

    Args:
        backbone: Module with an attribute ``layers``.

    Returns:
        ``id(parameter)`` to depth: 0 for the embeddings, 1..N for the layers. A parameter outside
        of all layers has the depth of the top layer. A parameter shared by several layers has the
        depth of the lowest.

    Raises:
        ValueError: If the backbone has no attribute ``layers``.
    """
    layers = layers_of(backbone)
    # A parameter outside of the layers is above all of them, such as a final norm.
    depths = {id(parameter): len(layers) - 1 for parameter in backbone.parameters()}
    # From the top, so that the lowest layer sets the depth of a shared parameter last.
    for depth in reversed(range(len(layers))):
        depths.update((id(parameter), depth) for parameter in layers[depth].parameters())
    return depths


@dataclass(frozen=True)
class ParameterGroups:
    """Optimizer groups by depth and by weight decay.

    Each depth has a pair of groups, ``depth 3`` and ``depth 3, no decay``, and so has the ``head``.
    Every parameter is in exactly one group, whether it is frozen or not. Biases and norms (all
    parameters with one dimension) have no weight decay.

    The learning rate of a group is that of the optimizer times the ratio of the group, so a sweep
    over the optimizer's learning rate keeps the ratios. Discriminative learning rates are those of
    Howard & Ruder 2018 (arXiv:1801.06146); the paper divides by 2.6 per layer
    (``layer_decay=0.385``).

    Args:
        head_ratio: Learning rate of the head, relative to that of the top layer, > 0. With
            ``layer_ratios`` it is relative to the optimizer's learning rate.
        layer_decay: Learning rate of a layer, relative to that of the layer above it, in (0, 1].
        layer_ratios: Ratio of every depth from the embeddings to the top layer, each > 0, instead
            of ``layer_decay``.

    Raises:
        ValueError: If a ratio is out of its range, if both ``layer_decay`` and ``layer_ratios`` are
            given, or, when the object is called, if the number of ratios is not the number of
            depths of the backbone.

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
                f"layer_decay={self.layer_decay} and layer_ratios={list(self.layer_ratios)} both "
                "set the ratios of the layers; give only one of them"
            )
        if any(ratio <= 0 for ratio in self.layer_ratios):
            raise ValueError(
                f"layer_ratios must be > 0, got {list(self.layer_ratios)}; freeze a layer with the "
                "callback Freezing instead of a ratio of 0"
            )

    def __call__(self, task: nn.Module, backbone: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters of a task in groups for an optimizer.

        Args:
            task: All its parameters are grouped, those of objectives with the head.
            backbone: Part of the task with an attribute ``layers``.

        Returns:
            Groups with ``params``, ``name`` and ``lr_ratio``, and with ``weight_decay=0`` for
            biases and norms.
        """
        # Frozen parameters are grouped too: an optimizer skips parameters without a gradient, and
        # no parameter has to be added or moved when layers are unfrozen.
        depths = depth_of_parameters(backbone)
        ratios = self._ratios(len(layers_of(backbone)), max(depths.values(), default=0))
        scales = {id(p) for name, p in task.named_parameters() if _IA3_SCALE in name.split(".")}
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        # `parameters()` yields a tied parameter once, so it is in one group only.
        for parameter in task.parameters():
            depth = depths.get(id(parameter))  # None outside of the backbone
            where = "head" if depth is None else f"depth {depth}"
            # Norms and biases are the parameters with one dimension, in every architecture.
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
        """Return the ratio of each depth.

        Args:
            count: Number of depths.
            top: Highest depth with parameters; its ratio is 1.
        """
        if self.layer_ratios is None:
            return [self.layer_decay ** (top - depth) for depth in range(count)]
        if len(self.layer_ratios) != count:
            raise ValueError(
                f"layer_ratios must have {count} values, one per depth from 0 (the embeddings) to "
                f"{count - 1}, got {len(self.layer_ratios)}"
            )
        return [float(ratio) for ratio in self.layer_ratios]
