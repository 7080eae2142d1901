"""The layers of one side, taken from those of another by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_transfer.weight_transfer.config_differences import differences
from lightning_transfer.weight_transfer.stack_weights import (
    StackWeights,
    is_cross_attention,
    is_one_way,
    named_like,
)
from lightning_transfer.weight_transfer.weight_transfer_report import TransferredPart, count


@dataclass
class Fit:
    """How the weights of one side fit another.

    Names and shapes may agree by chance: layers of another architecture, or that compute something
    else by their config, do not fit at all.

    Args:
        old: What is taken from.
        new: What is filled.
    """

    old: StackWeights
    new: StackWeights
    there: Mapping[str, Tensor] = field(init=False)
    here: Mapping[str, Tensor] = field(init=False)
    foreign: str = field(init=False, default="")  # why nothing fits
    fitting: list[str] = field(init=False, default_factory=list)
    unlike: list[str] = field(init=False, default_factory=list)
    lacking: list[str] = field(init=False, default_factory=list)  # in no layer of the old
    surplus: list[str] = field(init=False, default_factory=list)
    one_way: list[str] = field(init=False, default_factory=list)  # of the same name and shape

    def __post_init__(self) -> None:
        """Compare the names, and the shapes of those that both have."""
        old, new = self.old, self.new
        self.there, self.here = named_like(old, new), named_like(new, old)
        for name, value in self.here.items():
            if name not in self.there:
                self.lacking.append(name)
            elif old.name != new.name and is_one_way(name):
                self.one_way.append(name)
            elif self.there[name].shape != value.shape:
                self.unlike.append(name)
            else:
                self.fitting.append(name)
        self.surplus = [name for name in self.there if name not in self.here]
        if old.model_type != new.model_type:
            self.foreign = f"they are of a {old.model_type} and the backbone is a {new.model_type}"
        elif told := differences(old, new):
            self.foreign = f"they compute something else: {', '.join(told.values())}"

    def mismatches(self) -> list[str]:
        """Return what does not fit, in words; empty where all that is needed does."""
        if self.foreign:
            return [self.foreign]
        old, new = self.old, self.new
        told = []
        if beyond := self._beyond(self.surplus, old, new):
            told.append(f"they have {_layers(beyond)}, and the backbone has {new.depth} layers")
        if beyond := self._beyond(self.lacking, new, old):
            told.append(f"the backbone has {_layers(beyond)}, and they have {old.depth} layers")
        if names := self._odd(self.lacking):
            told.append(f"they lack {_some(names)}")
        if names := self._odd(self.surplus):
            told.append(f"the backbone has no {_some(names)}")
        return [*told, self._sizes()] if self.unlike else told

    def _sizes(self) -> str:
        name, *more = self.unlike
        here, there = (tuple(side[name].shape) for side in (self.here, self.there))
        rest = f" ({len(more)} more are unlike)" if more else ""
        return f"{name} is {there} in them and {here} in the backbone{rest}"

    def take(self) -> None:
        """Fill in what fits; each tensor keeps its dtype."""
        if self.foreign:
            return
        with torch.no_grad():
            for name in self.fitting:
                self.here[name].copy_(self.there[name])

    def parts(self) -> list[TransferredPart]:
        """Return what became of the layers."""
        old, new = self.old, self.new
        if self.foreign:
            alike = old.model_type == new.model_type
            why = "of another function" if alike else "of another architecture"
            gone = TransferredPart(old.name, "skipped", count(old.layers.values()), why)
            return [*self._own(self.here, self.foreign), gone]
        deeper = [n for n in self.lacking if (new.layer_of(n) or 0) >= old.depth]
        cross = [n for n in self.lacking if n not in deeper and self._is_cross(n)]
        odd = [n for n in self.lacking if n not in deeper and n not in cross]
        none = "none in the weights"
        parts = []
        if self.fitting:
            size = count(self.here[name] for name in self.fitting)
            parts.append(TransferredPart(new.name, "transferred", size, self._source()))
        for names, why in (
            (deeper, f"{_layers(self._beyond(deeper, new, old))}: {none}"),
            (cross, f"cross-attention: {none}"),
            (self.one_way, f"distances: the {old.name} of the weights looks both ways"),
            (odd, none),
            (self.unlike, self._sizes() if self.unlike else ""),
        ):
            parts += self._own(names, why)
        return [*parts, *self._left_behind()]

    def _left_behind(self) -> list[TransferredPart]:
        if not self.surplus:
            return []
        beyond = self._beyond(self.surplus, self.old, self.new)
        why = f"{_layers(beyond)}: " if beyond else ""
        size = count(self.there[name] for name in self.surplus)
        return [TransferredPart(self.old.name, "skipped", size, f"{why}none in the backbone")]

    def _own(self, names: Iterable[str], why: str) -> list[TransferredPart]:
        """Return what is to be said of the backbone's own weights that stay."""
        return self.new.own_parts(self.new.name, (self.here[name] for name in names), why)

    def _source(self) -> str:
        return "" if self.old.name == self.new.name else f"from the {self.old.name} of the weights"

    def _beyond(self, names: Iterable[str], side: StackWeights, other: StackWeights) -> list[int]:
        """Return the layers, from 0, of one side that the other is too short for."""
        places = {side.layer_of(name) for name in names}
        return sorted(place for place in places if place is not None and place >= other.depth)

    def _is_cross(self, name: str) -> bool:
        return self.old.listens != self.new.listens and is_cross_attention(name)

    def _odd(self, names: Iterable[str]) -> list[str]:
        """Return the names that neither the length nor the part of a side explains."""
        shorter = min(self.old.depth, self.new.depth)
        return [
            name
            for name in names
            if not self._is_cross(name) and (self.new.layer_of(name) or 0) < shorter
        ]


def _layers(places: Sequence[int]) -> str:
    """Return layers, given from 0, as people count them."""
    if len(places) == 1:
        return f"layer {places[0] + 1}"
    return f"layers {places[0] + 1} to {places[-1] + 1}" if places else ""


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
