"""Weights of an encoder or a decoder by name, with one interface for every architecture."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.layer_layout import (
    LayerLayout,
    StackLayout,
    find_layer_layout,
    table_of_positions,
)
from lightning_transfer.weight_transfer.weight_transfer_report import (
    PartStatus,
    TransferredPart,
    count,
)

# Prefixes of cross-attention modules, in this order: BERT and GPT-2; the norm before it in GPT-2;
# BART; ProphetNet and NLLB; T5, with a name set by `aligned_names` because T5 has only numbers.
_T5_ALIGNED = "cross_attention"
_CROSS = ("crossattention", "ln_cross_attn", "encoder_attn", "cross_attn", _T5_ALIGNED)
# T5 numbers the parts of a layer: an encoder layer has self-attention 0 and feed-forward 1, a
# decoder layer has self-attention 0, cross-attention 1 and feed-forward 2.
_T5_CROSS = re.compile(r"(?P<layer>.*\.layer)\.(?P<place>\d+)\.EncDecAttention\..*")
_T5_PART = re.compile(r"(?P<layer>.*\.layer)\.(?P<place>\d+)\.(?P<rest>.*)")


@dataclass(frozen=True)
class StackWeights:
    """Weights of one stack of a model.

    Args:
        name: ``encoder`` or ``decoder``.
        model: Model of the stack.
        layout: Layer layout of the model.
        newly_initialized: Names of the model's parameters with random, not pretrained values.
    """

    name: str
    model: PreTrainedModel
    layout: LayerLayout
    newly_initialized: frozenset[str]

    @property
    def _stack(self) -> StackLayout:
        return self.layout.stacks[self.name]

    @cached_property
    def module(self) -> nn.Module:
        """Module with the forward pass of the stack."""
        return self.model.get_submodule(self._stack.root)

    @property
    def model_type(self) -> str:
        """Architecture, such as ``bert``."""
        return str(self.config.model_type)

    @property
    def config(self) -> PretrainedConfig:
        """Config of the stack; that of the model if the stack has none."""
        # An EncoderDecoderModel of BERT and GPT-2 has one config for each.
        config: PretrainedConfig = getattr(self.module, "config", self.model.config)
        return config

    @cached_property
    def _random(self) -> set[int]:
        # By identity: a tied tensor has several names, and `layers` names it below the stack.
        state = self.model.state_dict(keep_vars=True)
        return {id(value) for name, value in state.items() if name in self.newly_initialized}

    def by_status(self, tensors: Iterable[Tensor]) -> dict[PartStatus, list[Tensor]]:
        """Return tensors without transfer by status: ``kept`` (pretrained) or ``reinitialised``."""
        found: dict[PartStatus, list[Tensor]] = {"kept": [], "reinitialised": []}
        for tensor in tensors:
            found["reinitialised" if id(tensor) in self._random else "kept"].append(tensor)
        return {status: group for status, group in found.items() if group}

    def untransferred_parts(
        self, part: str, tensors: Iterable[Tensor], why: str
    ) -> list[TransferredPart]:
        """Return the report entries of tensors without transfer, one per status."""
        groups = self.by_status(tensors)
        return [
            TransferredPart(part, status, count(group), why) for status, group in groups.items()
        ]

    def status_of(self, table: nn.Embedding) -> PartStatus:
        """Return the status of a table without transfer."""
        return next(iter(self.by_status([table.weight])))

    @property
    def depth(self) -> int:
        """Number of layers, without the embeddings."""
        return len(self.model.get_submodule(self._stack.layers))  # type: ignore[arg-type]

    @property
    def has_cross_attention(self) -> bool:
        """True for the decoder of an encoder-decoder."""
        return len(self.layout.stacks) == 2 and self.name == "decoder"

    @cached_property
    def tokens(self) -> nn.Embedding | None:
        """Table of token embeddings, (tokens, width); None if the model has none."""
        table = self.module.get_input_embeddings()  # type: ignore[operator]
        return table if isinstance(table, nn.Embedding) else None

    @cached_property
    def positions(self) -> nn.Embedding | None:
        """Table of position embeddings, (positions, width); None if the model has none."""
        return table_of_positions(self.module)

    @property
    def positions_name(self) -> str:
        """Name of the table of positions in reports."""
        return "positions" if len(self.layout.stacks) == 1 else f"{self.name} positions"

    @cached_property
    def layers(self) -> dict[str, Tensor]:
        """All other weights by name below the stack: layers, norms and small embeddings."""
        tables = {id(t.weight) for t in (self.tokens, self.positions) if t is not None}
        # `keep_vars` returns the module's own tensors, so that copying into them fills the module.
        state = self.module.state_dict(keep_vars=True)
        found = {k: v for k, v in state.items() if id(v) not in tables}
        # The projection from the encoder's width to the decoder's is outside of both stacks.
        if self.layout.bridge is not None and self.name == "decoder":
            bridge = self.model.get_submodule(self.layout.bridge)
            found |= bridge.state_dict(prefix=f"{self.layout.bridge}.", keep_vars=True)
        return found

    def layer_of(self, name: str) -> int | None:
        """Return the layer (from 0) of a parameter, or None for a parameter outside the layers."""
        path = self._stack.layers.removeprefix(f"{self._stack.root}.")
        if not name.startswith(f"{path}."):
            return None
        return int(name.removeprefix(f"{path}.").partition(".")[0])


def stacks_of(backbone: Backbone) -> Mapping[str, StackWeights]:
    """Return the stacks of a backbone by name: ``encoder``, ``decoder`` or both."""
    layout = find_layer_layout(backbone.model)
    return {
        name: StackWeights(name, backbone.model, layout, backbone.newly_initialized)
        for name in layout.stacks
    }


def token_tables(stacks: Mapping[str, StackWeights]) -> dict[str, list[StackWeights]]:
    """Return the tables of token embeddings of a model.

    Args:
        stacks: All stacks of the model by name.

    Returns:
        Name of each table in reports, to the stacks that share it.
    """
    tables: dict[int, list[StackWeights]] = {}
    for stack in stacks.values():
        if stack.tokens is not None:
            # BART has two modules with one weight, so the tensor identifies the table.
            tables.setdefault(id(stack.tokens.weight), []).append(stack)
    single = len(tables) == 1
    return {
        "token embeddings" if single else f"{sharing[0].name} token embeddings": sharing
        for sharing in tables.values()
    }


def aligned_names(stack: StackWeights, other: StackWeights) -> dict[str, Tensor]:
    """Return the layers of a stack with names comparable to those of another stack.

    In T5 the feed-forward part is number 1 of an encoder layer and number 2 of a decoder layer. If
    only one of the two stacks has cross-attention, its parts get the numbers of a layer without.

    Args:
        stack: Stack to return the layers of.
        other: Stack to compare with.
    """
    if stack.has_cross_attention == other.has_cross_attention:
        return stack.layers
    found = (_T5_CROSS.fullmatch(name) for name in stack.layers)
    cross = {match["layer"]: int(match["place"]) for match in found if match}
    return {_without_cross_number(name, cross): value for name, value in stack.layers.items()}


def _without_cross_number(name: str, cross: Mapping[str, int]) -> str:
    """Return a parameter name with T5's numbers of a layer without cross-attention.

    Args:
        name: Parameter name.
        cross: Path of each layer to the number of its cross-attention.
    """
    match = _T5_PART.fullmatch(name)
    if match is None or match["layer"] not in cross:
        return name
    place, cross_place = int(match["place"]), cross[match["layer"]]
    if place == cross_place:
        return f"{match['layer']}.{_T5_ALIGNED}.{match['rest']}"
    return f"{match['layer']}.{place - (place > cross_place)}.{match['rest']}"


def is_cross_attention(name: str) -> bool:
    """Return True if a parameter belongs to the cross-attention of a layer."""
    return any(part.startswith(_CROSS) for part in name.split("."))


def is_directional(name: str) -> bool:
    """Return True if a parameter has another meaning in an encoder than in a decoder.

    T5's relative positions of an encoder cover both directions, those of a decoder only earlier
    tokens, in a table of the same shape.
    """
    return "relative_attention_bias" in name.split(".")
