"""An encoder or a decoder with its weights by name, seen the same way in every architecture."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.layer_layout import (
    LayerLayout,
    Side,
    find_layer_layout,
    table_of_positions,
)
from lightning_transfer.weight_transfer.weight_transfer_report import (
    PartStatus,
    TransferredPart,
    count,
)

# What begins the names of what only a decoder behind an encoder has: in BERT's and GPT-2's kind,
# GPT-2's, BART's, ProphetNet's and NLLB's; and, as it is called here (see ``named_like``), in T5's.
_T5 = "cross_attention"
_CROSS = ("crossattention", "ln_cross_attn", "encoder_attn", "cross_attn", _T5)
# T5 numbers the parts of a layer; those of a decoder have one more in between.
_T5_CROSS = re.compile(r"(?P<layer>.*\.layer)\.(?P<place>\d+)\.EncDecAttention\..*")
_T5_PART = re.compile(r"(?P<layer>.*\.layer)\.(?P<place>\d+)\.(?P<rest>.*)")


@dataclass(frozen=True)
class StackWeights:
    """The weights of one side of a model.

    Args:
        name: ``encoder`` or ``decoder``.
        model: What it is a side of.
        anatomy: Of that model.
        fresh: Names of the model's weights that are random.
    """

    name: str
    model: PreTrainedModel
    anatomy: LayerLayout
    fresh: frozenset[str]

    @property
    def _side(self) -> Side:
        return self.anatomy.sides[self.name]

    @cached_property
    def module(self) -> nn.Module:
        """What runs the side."""
        return self.model.get_submodule(self._side.root)

    @property
    def model_type(self) -> str:
        """What transformers calls its architecture."""
        return str(self.config.model_type)

    @property
    def config(self) -> PretrainedConfig:
        """Of the side, where it has one of its own."""
        config: PretrainedConfig = getattr(self.module, "config", self.model.config)
        return config

    @cached_property
    def _random(self) -> set[int]:
        state = self.model.state_dict(keep_vars=True)
        return {id(value) for name, value in state.items() if name in self.fresh}

    def own(self, tensors: Iterable[Tensor]) -> dict[PartStatus, list[Tensor]]:
        """Return what is to be said of weights that stay as the side came, and of which of them."""
        said: dict[PartStatus, list[Tensor]] = {"kept": [], "reinitialised": []}
        for tensor in tensors:
            said["reinitialised" if id(tensor) in self._random else "kept"].append(tensor)
        return {status: held for status, held in said.items() if held}

    def own_parts(self, part: str, tensors: Iterable[Tensor], why: str) -> list[TransferredPart]:
        """Return the same as parts of the table; without tensors there are none."""
        said = self.own(tensors)
        return [TransferredPart(part, status, count(held), why) for status, held in said.items()]

    def own_table(self, table: nn.Embedding) -> PartStatus:
        """Return the same of one table."""
        return next(iter(self.own([table.weight])))

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return len(self.model.get_submodule(self._side.stack))  # type: ignore[arg-type]

    @property
    def listens(self) -> bool:
        """Whether its layers read what an encoder has read."""
        return len(self.anatomy.sides) == 2 and self.name == "decoder"

    @cached_property
    def tokens(self) -> nn.Embedding | None:
        """The table of tokens; None where the model shows none."""
        table = self.module.get_input_embeddings()  # type: ignore[operator]
        return table if isinstance(table, nn.Embedding) else None

    @cached_property
    def positions(self) -> nn.Embedding | None:
        """The table of positions, or None without one."""
        return table_of_positions(self.module)

    @property
    def positions_name(self) -> str:
        """What its table of positions is called."""
        return "positions" if len(self.anatomy.sides) == 1 else f"{self.name} positions"

    @cached_property
    def layers(self) -> dict[str, Tensor]:
        """All else by name: layers, norms and small tables; the tensors are the module's own."""
        tables = {id(t.weight) for t in (self.tokens, self.positions) if t is not None}
        state = self.module.state_dict(keep_vars=True)
        found = {k: v for k, v in state.items() if id(v) not in tables}
        if self.anatomy.bridge is not None and self.name == "decoder":
            bridge = self.model.get_submodule(self.anatomy.bridge)
            found |= bridge.state_dict(prefix=f"{self.anatomy.bridge}.", keep_vars=True)
        return found

    def layer_of(self, name: str) -> int | None:
        """Return the place of the layer, from 0, that a parameter is in; None outside of them."""
        stack = self._side.stack.removeprefix(f"{self._side.root}.")
        if not name.startswith(f"{stack}."):
            return None
        return int(name.removeprefix(f"{stack}.").partition(".")[0])


def stacks_of(backbone: Backbone) -> Mapping[str, StackWeights]:
    """Return the sides of a backbone by name."""
    anatomy = find_layer_layout(backbone.model)
    return {
        name: StackWeights(name, backbone.model, anatomy, backbone.fresh) for name in anatomy.sides
    }


def token_tables(sides: Mapping[str, StackWeights]) -> dict[str, list[StackWeights]]:
    """Return what each table of tokens is called, and the sides that have it, or have it in common.

    Args:
        sides: Of one model.
    """
    tables: dict[int, list[StackWeights]] = {}
    for side in sides.values():
        if side.tokens is not None:
            tables.setdefault(id(side.tokens.weight), []).append(side)
    alone = len(tables) == 1
    return {
        "token embeddings" if alone else f"{held[0].name} token embeddings": held
        for held in tables.values()
    }


def named_like(side: StackWeights, other: StackWeights) -> dict[str, Tensor]:
    """Return the weights of a side's layers, so named that the same part has the same name.

    Args:
        side: Any.
        other: What it is compared with; where one of them alone reads an encoder, T5's numbers of
            the parts of a layer are those without cross-attention.
    """
    if side.listens == other.listens:
        return side.layers
    found = (_T5_CROSS.fullmatch(name) for name in side.layers)
    cross = {match["layer"]: int(match["place"]) for match in found if match}
    return {_renumbered(name, cross): value for name, value in side.layers.items()}


def _renumbered(name: str, cross: Mapping[str, int]) -> str:
    match = _T5_PART.fullmatch(name)
    if match is None or match["layer"] not in cross:
        return name
    place, between = int(match["place"]), cross[match["layer"]]
    if place == between:
        return f"{match['layer']}.{_T5}.{match['rest']}"
    return f"{match['layer']}.{place - (place > between)}.{match['rest']}"


def is_cross_attention(name: str) -> bool:
    """Whether a parameter of a layer is part of what reads an encoder."""
    return any(part.startswith(_CROSS) for part in name.split("."))


def is_one_way(name: str) -> bool:
    """Whether a parameter means something else where no later token is seen: T5's distances."""
    return "relative_attention_bias" in name.split(".")
