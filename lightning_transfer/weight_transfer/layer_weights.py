"""Weight transfer between the layers of two stacks, matched by parameter name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_transfer.weight_transfer.config_differences import differences
from lightning_transfer.weight_transfer.stack_weights import (
    StackWeights,
    aligned_names,
    is_cross_attention,
    is_directional,
)
from lightning_transfer.weight_transfer.weight_transfer_report import TransferredPart, count

_NOT_IN_WEIGHTS = "not in the weights"


@dataclass
class LayerMatch:
    """Comparison of the layers of two stacks, and the copy of the matching parameters.

    Names and shapes may agree by chance. Layers of two architectures, or of one architecture with
    configs of different functions, therefore do not match at all.

    Args:
        old: Stack of the weights.
        new: Stack of the backbone, filled by :meth:`copy_layers`.
    """

    old: StackWeights
    new: StackWeights
    old_layers: Mapping[str, Tensor] = field(init=False)
    new_layers: Mapping[str, Tensor] = field(init=False)
    incompatible: str = field(init=False, default="")  # reason why no layer can be copied
    matching: list[str] = field(init=False, default_factory=list)
    other_shape: list[str] = field(init=False, default_factory=list)
    only_new: list[str] = field(init=False, default_factory=list)
    only_old: list[str] = field(init=False, default_factory=list)
    directional: list[str] = field(init=False, default_factory=list)  # equal in name and shape only

    def __post_init__(self) -> None:
        """Compare names and shapes, then the architectures and configs."""
        old, new = self.old, self.new
        self.old_layers, self.new_layers = aligned_names(old, new), aligned_names(new, old)
        for name, value in self.new_layers.items():
            if name not in self.old_layers:
                self.only_new.append(name)
            # Only a decoder filled from an encoder: positions of two encoders can be copied.
            elif old.name != new.name and is_directional(name):
                self.directional.append(name)
            elif self.old_layers[name].shape != value.shape:
                self.other_shape.append(name)
            else:
                self.matching.append(name)
        self.only_old = [name for name in self.old_layers if name not in self.new_layers]
        if old.model_type != new.model_type:
            self.incompatible = (
                f"the weights are of a {old.model_type} model, the backbone is a {new.model_type} "
                "model"
            )
        elif changed := differences(old, new):
            self.incompatible = f"the configs differ: {', '.join(changed.values())}"

    def mismatches(self) -> list[str]:
        """Return a message for each mismatch; empty if all required parameters match."""
        if self.incompatible:
            return [self.incompatible]
        old, new = self.old, self.new
        found = []
        if beyond := self._layers_beyond(self.only_old, old, new):
            found.append(
                f"the weights have {_format_layers(beyond)}, the backbone has {new.depth} layers"
            )
        if beyond := self._layers_beyond(self.only_new, new, old):
            found.append(
                f"the backbone has {_format_layers(beyond)}, the weights have {old.depth} layers"
            )
        if names := self._unexplained(self.only_new):
            found.append(f"the weights lack {_format_names(names)}")
        if names := self._unexplained(self.only_old):
            found.append(f"the backbone lacks {_format_names(names)}")
        return [*found, self._format_shapes()] if self.other_shape else found

    def _format_shapes(self) -> str:
        name, *more = self.other_shape
        new, old = (tuple(layers[name].shape) for layers in (self.new_layers, self.old_layers))
        rest = f" ({len(more)} more differ)" if more else ""
        return f"{name} has shape {old} in the weights and {new} in the backbone{rest}"

    def copy_layers(self) -> None:
        """Copy the matching parameters; each tensor of the backbone keeps its dtype."""
        if self.incompatible:
            return
        with torch.no_grad():
            for name in self.matching:
                self.new_layers[name].copy_(self.old_layers[name])

    def parts(self) -> list[TransferredPart]:
        """Return the layers with their status, one entry per reason."""
        old, new = self.old, self.new
        if self.incompatible:
            # The backbone keeps all its layers, and those of the weights are not used.
            same_type = old.model_type == new.model_type
            why = "different config" if same_type else "different architecture"
            skipped = TransferredPart(old.name, "skipped", count(old.layers.values()), why)
            return [*self._untransferred(self.new_layers, self.incompatible), skipped]
        # `or 0`: a parameter outside of the layers, such as a norm, is not missing by depth.
        deeper = [n for n in self.only_new if (new.layer_of(n) or 0) >= old.depth]
        cross = [n for n in self.only_new if n not in deeper and self._is_cross(n)]
        others = [n for n in self.only_new if n not in deeper and n not in cross]
        beyond = _format_layers(self._layers_beyond(deeper, new, old))
        parts = []
        if self.matching:
            size = count(self.new_layers[name] for name in self.matching)
            parts.append(TransferredPart(new.name, "transferred", size, self._source()))
        for names, why in (
            (deeper, f"{beyond}: {_NOT_IN_WEIGHTS}"),
            (cross, f"cross-attention: {_NOT_IN_WEIGHTS}"),
            (
                self.directional,
                f"relative positions: the {old.name} of the weights is bidirectional",
            ),
            (others, _NOT_IN_WEIGHTS),
            (self.other_shape, self._format_shapes() if self.other_shape else ""),
        ):
            parts += self._untransferred(names, why)
        return [*parts, *self._skipped()]

    def _skipped(self) -> list[TransferredPart]:
        """Return the parameters of the weights without a counterpart in the backbone."""
        if not self.only_old:
            return []
        beyond = self._layers_beyond(self.only_old, self.old, self.new)
        layers = f"{_format_layers(beyond)}: " if beyond else ""
        size = count(self.old_layers[name] for name in self.only_old)
        # Not an error by itself: `mismatches` decides which missing parameters are.
        return [TransferredPart(self.old.name, "skipped", size, f"{layers}not in the backbone")]

    def _untransferred(self, names: Iterable[str], why: str) -> list[TransferredPart]:
        tensors = (self.new_layers[name] for name in names)
        return self.new.untransferred_parts(self.new.name, tensors, why)

    def _source(self) -> str:
        return "" if self.old.name == self.new.name else f"from the {self.old.name} of the weights"

    def _layers_beyond(
        self, names: Iterable[str], stack: StackWeights, other: StackWeights
    ) -> list[int]:
        """Return the layers (from 0) of one stack above the top of another."""
        layers = {stack.layer_of(name) for name in names}
        return sorted(layer for layer in layers if layer is not None and layer >= other.depth)

    def _is_cross(self, name: str) -> bool:
        # Between two decoders of encoder-decoders, cross-attention is a parameter as any other.
        return self.old.has_cross_attention != self.new.has_cross_attention and is_cross_attention(
            name
        )

    def _unexplained(self, names: Iterable[str]) -> list[str]:
        """Return the names that are missing neither by depth nor as cross-attention.

        Missing layers have a message of their own, and the weights of an encoder are expected to
        lack the cross-attention of a decoder.
        """
        shorter = min(self.old.depth, self.new.depth)
        return [
            name
            for name in names
            if not self._is_cross(name) and (self.new.layer_of(name) or 0) < shorter
        ]


def _format_layers(layers: Sequence[int]) -> str:
    """Return layers (from 0) as a text that counts from 1."""
    # As in the layer layout: depth 0 are the embeddings, so layer 1 is the lowest layer.
    if len(layers) == 1:
        return f"layer {layers[0] + 1}"
    return f"layers {layers[0] + 1} to {layers[-1] + 1}" if layers else ""


def _format_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
