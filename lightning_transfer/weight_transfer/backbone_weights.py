"""Weight transfer into a backbone: as a whole, or stack by stack (encoder, decoder)."""

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
    copy_positions,
    copy_tokens,
)
from lightning_transfer.weight_transfer.layer_weights import LayerMatch
from lightning_transfer.weight_transfer.stack_weights import StackWeights, stacks_of, token_tables
from lightning_transfer.weight_transfer.vocabularies import Tokenizers
from lightning_transfer.weight_transfer.weight_transfer_report import (
    ADAPTER,
    PartStatus,
    TransferredPart,
    count,
)
from lightning_transfer.weight_transfer.weight_transfer_spec import WeightTransferSpec

_NOT_REQUESTED = "not requested"


def fill_backbone(
    start: Weights,
    backbone: nn.Module,
    *,
    old_adapter: Adapter | None,
    new_adapter: Adapter | None,
    spec: WeightTransferSpec,
    tokenizers: Tokenizers,
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    """Transfer weights into a backbone.

    Args:
        start: Weights to transfer.
        backbone: Filled in place. It contains no adapter yet.
        old_adapter: Adapter of the weights, or None.
        new_adapter: Adapter of the stage, or None. It is only checked here, not applied.
        spec: Parts to transfer.
        tokenizers: Tokenizers of the weights and of the stage.

    Returns:
        The parts of the backbone with their status, and the old adapter with its status (empty
        without an adapter).

    Raises:
        ValueError: If a requested part does not fit, if parts are requested of a backbone that is
            not a :class:`Backbone`, or if the old adapter can be neither merged nor continued.
    """
    skipped = []
    if old_adapter is not None:
        skipped.append(TransferredPart(ADAPTER + name_of(old_adapter), "skipped", 0))
    if not spec.any_of_backbone:
        size = sum(value.numel() for value in start.part("backbone").values())
        unused = TransferredPart("backbone of the weights", "skipped", size, _NOT_REQUESTED)
        return [*untransferred_parts(backbone, _NOT_REQUESTED), unused], skipped
    check_adapter_transfer(old_adapter, new_adapter)
    # A module of the user's own has no layer layout, so its encoder and decoder are unknown.
    if not isinstance(backbone, Backbone) or start.description["backbone"] is None:
        if not spec.whole_backbone:
            raise ValueError(
                "parts of a backbone can only be transferred between Hugging Face models (class "
                f"Backbone), got a {type(backbone).__name__}; set weight_transfer=null for the "
                "whole backbone or weight_transfer=[head] for no backbone"
            )
        return _fill_whole(start, backbone, old_adapter)
    # Loading the whole state dict of the same model also keeps an adapter that cannot be merged.
    if spec.whole_backbone and tokenizers.same and _same_model(start, backbone, old_adapter):
        return _fill_whole(start, backbone, old_adapter)
    if old_adapter is not None and not old_adapter.mergeable:
        raise ValueError(
            f"the weights in {start.where} were trained with {name_of(old_adapter)}, which cannot "
            "be merged, and this stage has another backbone or tokenizer; use lora or ia3 in the "
            "previous stage, or the backbone and tokenizer of the previous stage with "
            "weight_transfer=null in this one"
        )
    return _fill_stacks(start, backbone, old_adapter, spec, tokenizers)


def untransferred_parts(backbone: nn.Module, why: str) -> list[TransferredPart]:
    """Return the parts of a backbone as ``kept`` or ``reinitialised``, without any transfer."""
    return _all_parts(backbone, None, why)


def _fill_whole(
    start: Weights, backbone: nn.Module, old_adapter: Adapter | None
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    """Load the state dict of the weights; merge their adapter, or keep it in the backbone."""
    parts = _all_parts(backbone, "transferred", "")
    if old_adapter is None:
        start.fill(backbone, "backbone")
        return parts, []
    before = count(backbone.parameters())  # the report lists only the size of the adapter
    # The state dict has the parameter names of an adapted backbone, so the adapter comes first.
    old_adapter.apply(backbone)
    size = count(backbone.parameters()) - before
    start.fill(backbone, "backbone")
    if old_adapter.mergeable:
        merge(backbone)
    status: PartStatus = "merged" if old_adapter.mergeable else "transferred"
    return parts, [TransferredPart(ADAPTER + name_of(old_adapter), status, size)]


def _fill_stacks(
    start: Weights,
    backbone: Backbone,
    old_adapter: Adapter | None,
    spec: WeightTransferSpec,
    tokenizers: Tokenizers,
) -> tuple[list[TransferredPart], list[TransferredPart]]:
    """Fill the encoder, the decoder or both from the stacks of the weights."""
    # A temporary model of the weights: the same code finds the layers and tables of both models,
    # and the adapter is merged before its base weights are compared.
    source = Backbone.from_config(start.description["backbone"])
    _, merged = _fill_whole(start, source, old_adapter)
    transfer = _StackTransfer(stacks_of(source), stacks_of(backbone), spec, tokenizers)
    parts, errors = transfer.run()
    if not any(part.status in ("transferred", "resized") for part in parts):
        errors.append("no part of the weights fits")
    # The parts that fit are copied by now. With on_mismatch=new that is the result.
    if errors and spec.on_mismatch == "error":
        raise ValueError(
            f"the weights in {start.where} do not fit the backbone, a "
            f"{type(backbone.model).__name__}: {'; '.join(errors)}. Set on_mismatch=new to "
            "transfer only the parts that fit, list the parts to transfer in weight_transfer, or "
            "choose a backbone of the same sizes"
        )
    return parts, merged


class _StackTransfer:
    """Transfer from the stacks of one model to those of another.

    Args:
        old: Stacks of the weights by name.
        new: Stacks of the backbone by name, filled in place.
        spec: Parts to transfer.
        tokenizers: Tokenizers of the weights and of the stage.
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
        self.errors: list[str] = []

    def run(self) -> tuple[list[TransferredPart], list[str]]:
        """Fill the stacks; return all parts with their status, and a message per mismatch."""
        for part, stacks in token_tables(self.new).items():
            self._fill_tokens(part, stacks)
        for name, stack in self.new.items():
            self._fill_layers(stack, self.old.get(self.spec.source_stack(name)))
        # With `decoder: encoder` the encoder of the weights fills both stacks, and the decoder of
        # the weights is not used.
        used = {
            self.spec.source_stack(name) for name in self.new if self.spec.transfers_layers(name)
        }
        for name, stack in self.old.items():
            if name not in used:
                why = _NOT_REQUESTED if name in self.new else f"the backbone has no {name}"
                size = count(stack.layers.values())
                self.parts.append(TransferredPart(name, "skipped", size, why))
        return self.parts, self.errors

    def _fill_tokens(self, part: str, stacks: Sequence[StackWeights]) -> None:
        """Fill a table of tokens, once for all stacks that share it."""
        requested = [stack for stack in stacks if self.spec.transfers_tokens(stack.name)]
        stack = (requested or stacks)[0]  # any of them: they share the table
        assert stack.tokens is not None
        table = stack.tokens
        # Two sources if encoder and decoder share the table here, but not in the weights.
        sources = [source for one in requested if (source := self._source_of(one)) is not None]
        if not requested:
            self._leave(part, stack, [table.weight], _NOT_REQUESTED)
        elif not sources:
            self._leave_missing(part, stack, [table.weight])
        elif why := self._token_difference(stack):
            self._leave(part, stack, [table.weight], why)
            self.errors.append(f"the {part} are used differently: {why}")
        else:
            found, error = copy_tokens(sources, table, part, stack.status_of(table))
            self._add([found], error)

    def _token_difference(self, stack: StackWeights) -> str:
        """Return the config fields that change the use of token embeddings; empty if none do."""
        source = self.old.get(self.spec.source_stack(stack.name))
        # The config fields of two architectures are not comparable.
        if source is None or source.model_type != stack.model_type:
            return ""
        return ", ".join(token_differences(source, stack).values())

    def _source_of(self, stack: StackWeights) -> TokenSource | None:
        """Return the table of tokens to fill a stack from, or None without one."""
        source = self.old.get(self.spec.source_stack(stack.name))
        if source is None or source.tokens is None:
            return None
        vocabularies = self.tokenizers.vocabularies(
            old_is_target=source.has_cross_attention, new_is_target=stack.has_cross_attention
        )
        return TokenSource(source.tokens, vocabularies)

    def _fill_layers(self, stack: StackWeights, source: StackWeights | None) -> None:
        table = stack.positions
        own = [*stack.layers.values(), *([] if table is None else [table.weight])]
        if not self.spec.transfers_layers(stack.name):
            self._leave(stack.name, stack, own, _NOT_REQUESTED)
        elif source is None:
            self._leave_missing(stack.name, stack, own)
        else:
            match = LayerMatch(source, stack)
            self._fill_positions(stack, source, match)
            match.copy_layers()
            self._add(match.parts(), "; ".join(match.mismatches()))

    def _fill_positions(self, stack: StackWeights, source: StackWeights, match: LayerMatch) -> None:
        table = stack.positions
        if table is None:
            return
        # Layers that compute something else read their positions differently too. Between two
        # architectures only the layers are refused; a position table of the same width is copied.
        if match.incompatible and source.model_type == stack.model_type:
            self._leave(stack.positions_name, stack, [table.weight], match.incompatible)
            return
        status = stack.status_of(table)
        self._add(*copy_positions(source.positions, table, stack.positions_name, status))

    def _add(self, parts: list[TransferredPart], error: str) -> None:
        self.parts += parts
        if error:
            self.errors.append(error)

    def _leave(self, part: str, stack: StackWeights, own: Iterable[Tensor], why: str) -> None:
        self.parts += stack.untransferred_parts(part, own, why)

    def _leave_missing(self, part: str, stack: StackWeights, own: Iterable[Tensor]) -> None:
        """Leave a part unchanged because the weights have no such stack."""
        source = self.spec.source_stack(stack.name)
        self._leave(part, stack, own, f"the weights have no {source}")
        # By default an encoder may fill one half of an encoder-decoder. A stack that the user
        # named has to exist.
        if self.spec.is_named(stack.name):
            self.errors.append(f"weight_transfer names the {source}, but the weights have none")


def _all_parts(backbone: nn.Module, status: PartStatus | None, why: str) -> list[TransferredPart]:
    """Return all parts of a backbone.

    Args:
        backbone: Any module.
        status: Status of each part; None: ``kept`` or ``reinitialised``, depending on the tensors.
        why: Reason of the status.
    """
    if not isinstance(backbone, Backbone):
        return [TransferredPart("backbone", status or "kept", count(backbone.parameters()), why)]
    stacks = stacks_of(backbone)
    found: list[tuple[str, StackWeights, list[Tensor]]] = []
    for part, sharing in token_tables(stacks).items():
        assert sharing[0].tokens is not None
        found.append((part, sharing[0], [sharing[0].tokens.weight]))
    for name, stack in stacks.items():
        if stack.positions is not None:
            found.append((stack.positions_name, stack, [stack.positions.weight]))
        found.append((name, stack, list(stack.layers.values())))
    if status is not None:
        return [TransferredPart(part, status, count(own), why) for part, _, own in found]
    return [
        entry for part, stack, own in found for entry in stack.untransferred_parts(part, own, why)
    ]


def _same_model(start: Weights, backbone: Backbone, old_adapter: Adapter | None) -> bool:
    """Return True if the weights are of a model with the same shapes and the same function."""
    config = start.description["backbone"]
    own_config = config_to_dict(backbone.config)
    if config["model_type"] != own_config["model_type"]:
        return False
    if not compute_alike(config, own_config):
        return False
    # Compared without the adapter: the backbone does not contain it yet.
    stored = start.part("backbone")
    if old_adapter is not None:
        stored = {
            old_adapter.base_name(name): value
            for name, value in stored.items()
            if not old_adapter.owns(name)
        }
    own = backbone.state_dict()
    return set(own) == set(stored) and all(own[k].shape == stored[k].shape for k in own)
