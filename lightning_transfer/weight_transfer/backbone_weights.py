"""A backbone filled from the weights before it: whole, or side by side."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lightning_transfer.adapters import Adapter, merge
from lightning_transfer.adapters.adapter import name_of
from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.adapter_files import check_adapter_transfer
from lightning_transfer.checkpoints.loading import Weights
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer.config_differences import compute_alike, token_differences
from lightning_transfer.weight_transfer.embedding_tables import (
    TokenSource,
    take_positions,
    take_tokens,
)
from lightning_transfer.weight_transfer.layer_weights import Fit
from lightning_transfer.weight_transfer.stack_weights import StackWeights, stacks_of, token_tables
from lightning_transfer.weight_transfer.vocabularies import Tokenizers
from lightning_transfer.weight_transfer.weight_transfer_report import (
    ADAPTER,
    PartStatus,
    TransferredPart,
    count,
)
from lightning_transfer.weight_transfer.weight_transfer_spec import WeightTransferSpec


def fill_backbone(
    start: Weights,
    backbone: nn.Module,
    *,
    old: Adapter | None,
    adapter: Adapter | None,
    spec: WeightTransferSpec,
    tokenizers: Tokenizers,
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    """Fill a backbone with what is taken of the weights, adapters aside.

    Args:
        start: The weights.
        backbone: Filled in place; holds no adapter yet.
        old: The adapter of the weights.
        adapter: The one that the backbone is going to have.
        take: What is taken.
        tokenizers: Of both.

    Returns:
        What became of the parts of the backbone; and what became of the old adapter.

    Raises:
        ValueError: If what is taken does not fit, or the old adapter could only be dropped.
    """
    gone = [] if old is None else [TransferredPart(ADAPTER + name_of(old), "skipped", 0)]
    if not spec.any_of_backbone:
        left = TransferredPart("backbone of the weights", "skipped", _size(start), "not asked for")
        return [*own_parts(backbone, "not asked for"), left], gone
    check_adapter_transfer(old, adapter)
    if not isinstance(backbone, Backbone) or start.described["backbone"] is None:
        if not spec.whole_backbone:
            raise ValueError(
                f"parts of a backbone can be told in our Backbone alone, and here it is a "
                f"{type(backbone).__name__}: take the backbone whole (weight_transfer=null) or not at all "
                "(weight_transfer=[head])"
            )
        return _fill_whole(start, backbone, old)
    if spec.whole_backbone and tokenizers.same and _alike(start, backbone, old):
        return _fill_whole(start, backbone, old)
    if old is not None and not old.mergeable:
        raise ValueError(
            f"{name_of(old)}, which the weights in {start.where} were trained with, cannot be "
            "merged into them, and they go into another backbone here: use lora or ia3 in the "
            "stage before, or let this stage take the backbone whole"
        )
    return _fill_sides(start, backbone, old, spec, tokenizers)


def own_parts(backbone: nn.Module, why: str) -> list[TransferredPart]:
    """Return the parts of a backbone that takes nothing."""
    return _all_parts(backbone, None, why)


def _fill_whole(
    start: Weights, backbone: nn.Module, old: Adapter | None
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    parts = _all_parts(backbone, "transferred", "")
    if old is None:
        start.fill(backbone, "backbone")
        return parts, []
    before = count(backbone.parameters())
    old.apply(backbone)
    size = count(backbone.parameters()) - before
    start.fill(backbone, "backbone")
    if old.mergeable:
        merge(backbone)
    status: PartStatus = "merged" if old.mergeable else "transferred"
    return parts, [TransferredPart(ADAPTER + name_of(old), status, size)]


def _fill_sides(
    start: Weights,
    backbone: Backbone,
    old: Adapter | None,
    spec: WeightTransferSpec,
    tokenizers: Tokenizers,
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    """Fill the encoder, the decoder or both, each from the same of the weights."""
    given = Backbone.from_config(start.described["backbone"])
    _, merged = _fill_whole(start, given, old)
    sides = _Sides(stacks_of(given), stacks_of(backbone), spec, tokenizers)
    parts, wrong = sides.fill()
    if not any(part.status in ("transferred", "resized") for part in parts):
        wrong.append("nothing of them has a place in it")
    if wrong and spec.on_mismatch == "error":
        raise ValueError(
            f"the weights in {start.where} do not fit the backbone, a "
            f"{type(backbone.model).__name__}: {'; '.join(wrong)}. Set on_mismatch=new to take "
            "what fits and keep the rest as the backbone has it, name in take what is to be taken, "
            "or choose a backbone of the same sizes"
        )
    return parts, merged


class _Sides:
    """Two models side by side: what is taken, and what does not fit.

    Args:
        old: Sides of the weights.
        new: Sides of the backbone, filled in place.
        take: What is taken.
        tokenizers: Of both.
    """

    def __init__(
        self,
        old: Mapping[str, StackWeights],
        new: Mapping[str, StackWeights],
        spec: WeightTransferSpec,
        tokenizers: Tokenizers,
    ) -> None:
        self.old, self.new = old, new
        self.spec, self.tokenizers = spec, tokenizers
        self.parts: list[TransferredPart] = []
        self.wrong: list[str] = []

    def fill(self) -> tuple[list[TransferredPart], list[str]]:
        """Fill the sides; return what became of the parts, and what does not fit, in words."""
        for part, sides in token_tables(self.new).items():
            self._fill_tokens(part, sides)
        for name, side in self.new.items():
            self._fill_layers(side, self.old.get(self.spec.source(name)))
        used = {self.spec.source(name) for name in self.new if self.spec.side(name)}
        for name, side in self.old.items():
            if name not in used:
                why = "not asked for" if name in self.new else f"the backbone has no {name}"
                self.parts.append(
                    TransferredPart(name, "skipped", count(side.layers.values()), why)
                )
        return self.parts, self.wrong

    def _fill_tokens(self, part: str, sides: Sequence[StackWeights]) -> None:
        asking = [side for side in sides if self.spec.tokens(side.name)]
        side = (asking or sides)[0]
        assert side.tokens is not None
        table = side.tokens
        sources = [source for one in asking if (source := self._source_of(one)) is not None]
        if not asking:
            self._keep(part, side, [table.weight], "not asked for")
        elif not sources:
            self._miss(part, side, [table.weight])
        elif wrong := self._read_otherwise(side):
            self._keep(part, side, [table.weight], wrong)
            self.wrong.append(f"the {part} are read in another way: {wrong}")
        else:
            found, wrong = take_tokens(sources, table, part, side.own_table(table))
            self._note([found], wrong)

    def _read_otherwise(self, side: StackWeights) -> str:
        """Return why rows of the weights would mean something else in a side's table."""
        source = self.old.get(self.spec.source(side.name))
        if source is None or source.model_type != side.model_type:
            return ""
        return ", ".join(token_differences(source, side).values())

    def _source_of(self, side: StackWeights) -> TokenSource | None:
        """Return the table that a side takes its tokens from, and what both tables hold."""
        source = self.old.get(self.spec.source(side.name))
        if source is None or source.tokens is None:
            return None
        words = self.tokenizers.words(old_writes=source.listens, new_writes=side.listens)
        return TokenSource(source.tokens, words)

    def _fill_layers(self, side: StackWeights, source: StackWeights | None) -> None:
        table = side.positions
        own = [*side.layers.values(), *([] if table is None else [table.weight])]
        if not self.spec.side(side.name):
            self._keep(side.name, side, own, "not asked for")
        elif source is None:
            self._miss(side.name, side, own)
        else:
            fit = Fit(source, side)
            self._fill_positions(side, source, fit)
            fit.take()
            self._note(fit.parts(), "; ".join(fit.mismatches()))

    def _fill_positions(self, side: StackWeights, source: StackWeights, fit: Fit) -> None:
        table = side.positions
        if table is None:
            return
        if fit.foreign and source.model_type == side.model_type:
            self._keep(side.positions_name, side, [table.weight], fit.foreign)
            return
        other = side.own_table(table)
        self._note(*take_positions(source.positions, table, side.positions_name, other))

    def _note(self, parts: list[TransferredPart], wrong: str) -> None:
        self.parts += parts
        if wrong:
            self.wrong.append(wrong)

    def _keep(self, part: str, side: StackWeights, own: Iterable[Tensor], why: str) -> None:
        self.parts += side.own_parts(part, own, why)

    def _miss(self, part: str, side: StackWeights, own: Iterable[Tensor]) -> None:
        """Note a part that the weights have not; a mistake only if it was named."""
        wanted = self.spec.source(side.name)
        self._keep(part, side, own, f"the weights have no {wanted}")
        if self.spec.asks_for(side.name):
            self.wrong.append(f"take names the {wanted}, and they have none")


def _all_parts(backbone: nn.Module, status: PartStatus | None, why: str) -> list[TransferredPart]:
    """Return the parts of a backbone, of which one thing is said, or of each what it came with."""
    if not isinstance(backbone, Backbone):
        return [TransferredPart("backbone", status or "kept", count(backbone.parameters()), why)]
    sides = stacks_of(backbone)
    found: list[tuple[str, StackWeights, list[Tensor]]] = []
    for part, held in token_tables(sides).items():
        assert held[0].tokens is not None
        found.append((part, held[0], [held[0].tokens.weight]))
    for name, side in sides.items():
        if side.positions is not None:
            found.append((side.positions_name, side, [side.positions.weight]))
        found.append((name, side, list(side.layers.values())))
    if status is not None:
        return [TransferredPart(part, status, count(own), why) for part, _, own in found]
    return [told for part, side, own in found for told in side.own_parts(part, own, why)]


def _alike(start: Weights, backbone: Backbone, old: Adapter | None) -> bool:
    """Whether the weights are those of a backbone of the very same form and function."""
    described = start.described["backbone"]
    own_config = config_to_dict(backbone.config)
    if described["model_type"] != own_config["model_type"]:
        return False
    if not compute_alike(described, own_config):
        return False
    stored = start.part("backbone")
    if old is not None:
        stored = {old.base_name(k): v for k, v in stored.items() if not old.owns(k)}
    own = backbone.state_dict()
    return set(own) == set(stored) and all(own[k].shape == stored[k].shape for k in own)


def _size(start: Weights) -> int:
    return sum(value.numel() for value in start.part("backbone").values())
