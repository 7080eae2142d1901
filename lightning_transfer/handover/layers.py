"""The layers of one side, taken from those of another by name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from lightning_transfer.handover.handed_on import Became, HandedPart, count
from lightning_transfer.handover.sides import SideWeights, is_cross_attention


@dataclass
class Fit:
    """How the weights of one side fit another.

    Args:
        old: What is taken from.
        new: What is filled.
    """

    old: SideWeights
    new: SideWeights
    fitting: list[str] = field(init=False, default_factory=list)
    unlike: list[str] = field(init=False, default_factory=list)
    lacking: list[str] = field(init=False, default_factory=list)  # in no layer of the old
    surplus: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Compare the names, and the shapes of those that both have."""
        old, new = self.old.layers, self.new.layers
        for name, value in new.items():
            if name not in old:
                self.lacking.append(name)
            elif old[name].shape != value.shape:
                self.unlike.append(name)
            else:
                self.fitting.append(name)
        self.surplus = [name for name in old if name not in new]
        if self.old.model_type != self.new.model_type:  # names may agree, and mean something else
            self.fitting = []

    def mismatches(self) -> list[str]:
        """Return what does not fit, in words; empty where all that is needed does."""
        old, new = self.old, self.new
        if old.model_type != new.model_type:
            return [f"they are of a {old.model_type} and the backbone is a {new.model_type}"]
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
        here, there = (tuple(side.layers[name].shape) for side in (self.new, self.old))
        rest = f" ({len(more)} more are unlike)" if more else ""
        return f"{name} is {there} in them and {here} in the backbone{rest}"

    def take(self) -> None:
        """Fill in what fits; each tensor keeps its dtype."""
        old, new = self.old.layers, self.new.layers
        with torch.no_grad():
            for name in self.fitting:
                new[name].copy_(old[name])

    def parts(self, other: Became) -> list[HandedPart]:
        """Return what became of the layers.

        Args:
            other: What is said of those of the backbone's own that stay.
        """
        old, new = self.old, self.new
        if old.model_type != new.model_type:
            gone = self._part(old, old.layers, "skipped", "of another architecture")
            return [self._part(new, new.layers, other, self.mismatches()[0]), gone]
        deeper = [n for n in self.lacking if (new.layer_of(n) or 0) >= old.depth]
        cross = [n for n in self.lacking if n not in deeper and self._is_cross(n)]
        odd = [n for n in self.lacking if n not in deeper and n not in cross]
        none = "none in the weights"
        rows: list[tuple[list[str], Became, str]] = [
            (self.fitting, "taken", self._source()),
            (deeper, other, f"{_layers(self._beyond(deeper, new, old))}: {none}"),
            (cross, other, f"cross-attention: {none}"),
            (odd, other, none),
            (self.unlike, other, self._sizes() if self.unlike else ""),
        ]
        parts = [self._part(new, *row) for row in rows if row[0]]
        if self.surplus:
            beyond = self._beyond(self.surplus, old, new)
            why = f"{_layers(beyond)}: " if beyond else ""
            parts.append(self._part(old, self.surplus, "skipped", f"{why}none in the backbone"))
        return parts

    def _part(
        self, side: SideWeights, names: Iterable[str], became: Became, why: str
    ) -> HandedPart:
        return HandedPart(side.name, became, count(side.layers[name] for name in names), why)

    def _source(self) -> str:
        return "" if self.old.name == self.new.name else f"from the {self.old.name} of the weights"

    def _beyond(self, names: Iterable[str], side: SideWeights, other: SideWeights) -> list[int]:
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
