"""Fill a backbone and a head from the weights of another stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lightning_transfer.adapters import Adapter
from lightning_transfer.adapters.adapter import applied, name_of
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.masked_lm import MaskedLMHead
from lightning_transfer.checkpoints.adapter_files import stored_adapter
from lightning_transfer.checkpoints.loading import Weights
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer.backbone_weights import fill_backbone, own_parts
from lightning_transfer.weight_transfer.head_weights import fill_head
from lightning_transfer.weight_transfer.stack_weights import stacks_of
from lightning_transfer.weight_transfer.vocabularies import Tokenizers
from lightning_transfer.weight_transfer.weight_transfer_report import (
    ADAPTER,
    TransferredPart,
    WeightTransferReport,
    count,
)
from lightning_transfer.weight_transfer.weight_transfer_spec import WeightTransferSpec


@runtime_checkable
class AcceptsLMHead(Protocol):
    """A head that can start from what stood above a pretrained decoder."""

    def load_lm_head(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        ...


@runtime_checkable
class AcceptsMaskedLM(Protocol):
    """A head that can start from that of a pretrained masked language model."""

    def load_masked_lm(self, found: MaskedLMHead) -> tuple[bool, str]:
        """Take it over, if there is one; say whether it was, and what there is to be known."""
        ...


@runtime_checkable
class AcceptsPooler(Protocol):
    """A head that can start from a pretrained pooler's dense layer."""

    pooling: str

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Take over ``weight`` and ``bias``."""
        ...


def transfer_weights(
    start: Weights | None,
    backbone: nn.Module,
    head: nn.Module,
    labels: Labels,
    *,
    label_map: Mapping[str, str] | None = None,
    adapter: Adapter | None = None,
    before: Adapter | None = None,
    spec: WeightTransferSpec | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> WeightTransferReport:
    """Load into backbone and head what belongs to them, and say what became of each part.

    Everything is matched by name: sides and layers, tokens by their strings, outputs by their
    labels. An encoder goes to an encoder and a decoder to a decoder, also where the other model
    has one of them alone. The head's weights carry over if it is of the same form and the label
    names agree; rows of its output layer follow their label names, whatever their order. An adapter
    that the weights were trained with is merged into them, and a new one is put in. One that cannot
    be merged lives on if the stage has the very same.

    Args:
        start: Weights to start from; None starts from the backbone as it is. Where the layers below
            the head stay those that the backbone came with, what stood above them, a pretrained
            pooler, what guessed masked tokens or a decoder's output layer, goes to a head that can
            take it.
        backbone: Filled in place; tied weights stay tied, and each keeps its dtype.
        head: Filled in place.
        labels: Contract of the data to come.
        label_map: Old name to new name; see :func:`lightning_transfer.utils.labels.match_outputs`.
        adapter: Put into the backbone, on top of the weights to start from.
        before: The adapter that the weights were trained with, if it is of your own class.
        take: What is taken; None: all that fits, and an error if something does not.
        tokenizer: The one that the backbone is fed by; rows of the token embeddings follow the
            tokens' strings if it is another than that of the weights. None: the same.
        target_tokenizer: The one of the targets that a decoder writes. None: the same as
            ``tokenizer``.

    Returns:
        What became of each part; its text is a line on the head and the adapters.

    Raises:
        ImportError: If an adapter needs peft, and it is not installed.
        ValueError: If the weights or the adapter do not fit the backbone, if the adapter of the
            weights could only be dropped, if the labels agree only in part and no map says what
            belongs together, or if the rows of a head's output layer are to be matched and it
            shows none.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from lightning_transfer.backbones import Backbone
        >>> from lightning_transfer.heads import LinearHead
        >>> from lightning_transfer.tasks import SequenceRegression
        >>> def parts(layers):
        ...     config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=layers,
        ...                         num_attention_heads=2, intermediate_size=8)
        ...     return Backbone(BertModel(config)), LinearHead(8, 1)
        >>> labels = Labels("regression")
        >>> trained = SequenceRegression(*parts(3), labels=labels)
        >>> start = Weights.of(trained, tokenizer=None, where="above")  # or read_weights(folder)
        >>> backbone, head = parts(2)
        >>> handed = transfer_weights(start, backbone, head, labels, spec=WeightTransferSpec(on_mismatch="new"))
        >>> for part in handed.parts:
        ...     print(f"{part.part}: {part.status}")
        token embeddings: transferred
        positions: transferred
        encoder: transferred
        encoder: skipped
        head: transferred
        >>> handed.parts[3].why
        'layer 3: none in the backbone'
        >>> task = SequenceRegression(backbone, head, labels=labels)
    """
    spec = spec or WeightTransferSpec()
    gone: list[TransferredPart] = []
    if start is None:
        parts = own_parts(backbone, "")
        told = _begin(head, backbone)
    else:
        old = stored_adapter(start.described, own=before or adapter, where=start.where)
        tokenizers = _tokenizers(start, backbone, tokenizer, target_tokenizer)
        parts, gone = fill_backbone(
            start, backbone, old=old, adapter=adapter, spec=spec, tokenizers=tokenizers
        )
        begun = _begin(head, backbone) if _keeps_top(backbone, parts) else None
        words = tokenizers.words(old_writes=True, new_writes=True)
        told = fill_head(start, head, labels, label_map, spec=spec, words=words)
        if begun is not None and told.status == "reinitialised":
            told = replace(told, status=begun.status)
    return WeightTransferReport((*parts, told, *gone, *_adapt(backbone, adapter)))


def _tokenizers(
    start: Weights,
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    target_tokenizer: PreTrainedTokenizerBase | None,
) -> Tokenizers:
    """Return the tokenizers of both; those of targets only where there is a decoder to write."""
    wrote = bool((start.described["backbone"] or {}).get("is_encoder_decoder"))
    writes = bool(getattr(backbone, "is_encoder_decoder", False))
    return Tokenizers(
        start.tokenizer,
        tokenizer,
        start.target_tokenizer if wrote else None,
        target_tokenizer if writes else None,
    )


def _keeps_top(backbone: nn.Module, parts: Sequence[TransferredPart]) -> bool:
    """Whether the layers that a head stands on are those that the backbone came with.

    What it came with above them fits them, and no others.
    """
    if not isinstance(backbone, Backbone):
        return False
    *_, top = stacks_of(backbone)
    return not any(p.part == top and p.status in ("transferred", "resized") for p in parts)


def _begin(head: nn.Module, backbone: nn.Module) -> TransferredPart:
    """Let a head start from what a backbone came with and does not hold itself."""
    is_kept, why = False, ""
    pooler = getattr(backbone, "pooler_state", None)
    if pooler is not None and isinstance(head, AcceptsPooler) and head.pooling == "cls":
        head.load_pooler(pooler)
    lm_head = getattr(backbone, "lm_head_state", None)
    if lm_head is not None and isinstance(head, AcceptsLMHead):
        head.load_lm_head(lm_head)
        is_kept = bool(getattr(backbone, "has_own_lm_head", False))
    masked_lm = getattr(backbone, "masked_lm", None)
    if masked_lm is not None and isinstance(head, AcceptsMaskedLM):
        is_kept, why = head.load_masked_lm(masked_lm)
    return TransferredPart(
        "head", "kept" if is_kept else "reinitialised", count(head.parameters()), why
    )


def _adapt(backbone: nn.Module, adapter: Adapter | None) -> list[TransferredPart]:
    """Put in a new adapter, unless the one of the weights lives on."""
    if adapter is None or applied(backbone) is not None:
        return []
    before = count(backbone.parameters())
    adapter.apply(backbone)
    size = count(backbone.parameters()) - before
    return [TransferredPart(ADAPTER + name_of(adapter), "reinitialised", size)]
