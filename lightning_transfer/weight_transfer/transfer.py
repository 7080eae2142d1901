"""Weight transfer from one stage to the backbone and the head of the next."""

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
from lightning_transfer.weight_transfer.backbone_weights import fill_backbone, untransferred_parts
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
    """Head that can load the language modelling head of a pretrained decoder."""

    def load_lm_head(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the pretrained head.

        Args:
            state: Weights by their names below the decoder.
        """
        ...


@runtime_checkable
class AcceptsMaskedLM(Protocol):
    """Head that can load the head of a pretrained masked language model."""

    def load_masked_lm(self, found: MaskedLMHead) -> tuple[bool, str]:
        """Load the weights of the pretrained head, if the checkpoint has one.

        Args:
            found: The pretrained head.

        Returns:
            True if it was loaded, and a note for the report (may be empty).
        """
        ...


@runtime_checkable
class AcceptsPooler(Protocol):
    """Head that can load the dense layer of a pretrained pooler."""

    pooling: str

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Load ``weight`` and ``bias`` of the dense layer."""
        ...


def transfer_weights(
    start: Weights | None,
    backbone: nn.Module,
    head: nn.Module,
    labels: Labels,
    *,
    label_map: Mapping[str, str] | None = None,
    adapter: Adapter | None = None,
    old_adapter: Adapter | None = None,
    spec: WeightTransferSpec | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> WeightTransferReport:
    """Transfer weights to a backbone and a head, and report the status of each part.

    Everything is matched by name: stacks and layers by parameter name, tokens by string, outputs by
    label. An encoder fills an encoder and a decoder fills a decoder, even if one of the models has
    only one of the two. The head is transferred if it has the same class, settings and labels; the
    rows of its output layer follow the label names in any order. An adapter of the weights is
    merged into them, and the adapter of the stage is applied on top. An adapter that cannot be
    merged continues if the stage has an equal one.

    Args:
        start: Weights to transfer; None: the backbone keeps its initial parameters. If its top
            layers keep them, a pretrained pooler or language modelling head above these layers is
            loaded into a head that accepts it.
        backbone: Filled in place. Tied weights stay tied, and each tensor keeps its dtype.
        head: Filled in place.
        labels: Labels of the stage.
        label_map: Old label name to new label name; see
            :func:`lightning_transfer.utils.labels.match_outputs`.
        adapter: Adapter of the stage, applied to the backbone after the transfer.
        old_adapter: Adapter that the weights were trained with; only needed for a class of your
            own.
        spec: Parts to transfer. None: all parts, with an error if one does not fit.
        tokenizer: Tokenizer of the stage. Token embeddings are matched by string if it differs from
            that of the weights. None: the same as that of the weights.
        target_tokenizer: Tokenizer of the target texts of a decoder. None: the same as
            ``tokenizer``.

    Returns:
        The status of each part. Its text is one line about the head and the adapters.

    Raises:
        ImportError: If an adapter needs peft and peft is not installed.
        ValueError: If the weights or the adapter do not fit the backbone, if the adapter of the
            weights can be neither merged nor continued, if the labels match only in part and there
            is no ``label_map``, or if outputs have to be reordered and the head has no output layer
            called ``out``.

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
        >>> start = Weights.of(trained, tokenizer=None, where="memory")  # or read_weights(folder)
        >>> backbone, head = parts(2)
        >>> spec = WeightTransferSpec(on_mismatch="new")
        >>> report = transfer_weights(start, backbone, head, labels, spec=spec)
        >>> for part in report.parts:
        ...     print(f"{part.part}: {part.status}")
        token embeddings: transferred
        positions: transferred
        encoder: transferred
        encoder: skipped
        head: transferred
        >>> report.parts[3].why
        'layer 3: not in the backbone'
        >>> task = SequenceRegression(backbone, head, labels=labels)
    """
    spec = spec or WeightTransferSpec()
    old_parts: list[TransferredPart] = []
    if start is None:
        parts = untransferred_parts(backbone, "")
        head_part = _load_pretrained_head(head, backbone)
    else:
        # Weights with an adapter class of the user's own may continue with the one of this stage.
        own_adapter = old_adapter or adapter
        old_adapter = stored_adapter(start.description, own=own_adapter, where=start.where)
        tokenizers = _tokenizers(start, backbone, tokenizer, target_tokenizer)
        parts, old_parts = fill_backbone(
            start,
            backbone,
            old_adapter=old_adapter,
            new_adapter=adapter,
            spec=spec,
            tokenizers=tokenizers,
        )
        # Before `fill_head`: a head of the weights replaces a pretrained one.
        keeps_top = _keeps_top_layers(backbone, parts)
        pretrained = _load_pretrained_head(head, backbone) if keeps_top else None
        vocabularies = tokenizers.vocabularies(old_is_target=True, new_is_target=True)
        head_part = fill_head(start, head, labels, label_map, spec=spec, vocabularies=vocabularies)
        # Nothing was transferred into the head, so its pretrained weights are still there.
        if pretrained is not None and head_part.status == "reinitialised":
            head_part = replace(head_part, status=pretrained.status)
    new_parts = _apply_adapter(backbone, adapter)
    return WeightTransferReport((*parts, head_part, *old_parts, *new_parts))


def _tokenizers(
    start: Weights,
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    target_tokenizer: PreTrainedTokenizerBase | None,
) -> Tokenizers:
    """Return the tokenizers of both models, with target tokenizers only for encoder-decoders."""
    old_has_targets = bool((start.description["backbone"] or {}).get("is_encoder_decoder"))
    new_has_targets = bool(getattr(backbone, "is_encoder_decoder", False))
    return Tokenizers(
        start.tokenizer,
        tokenizer,
        start.target_tokenizer if old_has_targets else None,
        target_tokenizer if new_has_targets else None,
    )


def _keeps_top_layers(backbone: nn.Module, parts: Sequence[TransferredPart]) -> bool:
    """Return True if nothing was transferred into the layers below the head.

    A pooler or language modelling head was pretrained together with these layers and fits no
    others.
    """
    if not isinstance(backbone, Backbone):
        return False
    *_, top = stacks_of(backbone)  # the decoder of an encoder-decoder
    return not any(p.part == top and p.status in ("transferred", "resized") for p in parts)


def _load_pretrained_head(head: nn.Module, backbone: nn.Module) -> TransferredPart:
    """Load the pooler or language modelling head of a pretrained model into a head.

    Args:
        head: Filled in place if it accepts one of them.
        backbone: Holds their weights outside of its parameters, if its checkpoint had any.

    Returns:
        The head with its status, ``kept`` or ``reinitialised``.
    """
    is_kept, why = False, ""
    pooler = getattr(backbone, "pooler_state", None)
    # A pooler reads the first token, so it fits no mean pooling. The output layer stays random,
    # and with it the status.
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


def _apply_adapter(backbone: nn.Module, adapter: Adapter | None) -> list[TransferredPart]:
    """Apply the adapter of the stage, unless the backbone continues with that of the weights."""
    if adapter is None or applied(backbone) is not None:
        return []
    before = count(backbone.parameters())  # the report lists only the size of the adapter
    adapter.apply(backbone)
    size = count(backbone.parameters()) - before
    return [TransferredPart(ADAPTER + name_of(adapter), "reinitialised", size)]
