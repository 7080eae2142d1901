"""An encoder or a decoder with its weights by name, seen the same way in every architecture."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_transfer.architectures import Anatomy, Side, find_anatomy, table_of_positions
from lightning_transfer.backbone import Backbone

# What only a decoder behind an encoder has: BERT's and BART's, GPT-2's.
_CROSS = ("crossattention", "encoder_attn", "ln_cross_attn")


@dataclass(frozen=True)
class SideWeights:
    """The weights of one side of a model.

    Args:
        name: ``encoder`` or ``decoder``.
        model: What it is a side of.
        anatomy: Of that model.
    """

    name: str
    model: PreTrainedModel
    anatomy: Anatomy

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
        config = getattr(self.module, "config", self.model.config)
        return str(config.model_type)

    @property
    def pretrained(self) -> bool:
        """Whether it came with weights: the model's, or its own below a warm-started one."""
        configs = (self.model.config, getattr(self.module, "config", None))
        return any(getattr(config, "name_or_path", "") for config in configs)

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


def sides_of(backbone: Backbone) -> Mapping[str, SideWeights]:
    """Return the sides of a backbone by name."""
    anatomy = find_anatomy(backbone.model)
    return {name: SideWeights(name, backbone.model, anatomy) for name in anatomy.sides}


def token_tables(sides: Mapping[str, SideWeights]) -> dict[str, list[SideWeights]]:
    """Return what each table of tokens is called, and the sides that have it, or have it in common.

    Args:
        sides: Of one model.
    """
    tables: dict[int, list[SideWeights]] = {}
    for side in sides.values():
        if side.tokens is not None:
            tables.setdefault(id(side.tokens.weight), []).append(side)
    alone = len(tables) == 1
    return {
        "token embeddings" if alone else f"{held[0].name} token embeddings": held
        for held in tables.values()
    }


def is_cross_attention(name: str) -> bool:
    """Whether a parameter of a layer is part of what reads an encoder."""
    return any(part in _CROSS for part in name.split("."))
