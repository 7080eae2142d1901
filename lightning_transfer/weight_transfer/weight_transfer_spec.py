"""Specification of a weight transfer: the parts to transfer to a stage."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from lightning_transfer.utils.suggestions import closest, did_you_mean

OnMismatch = Literal["error", "new"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTransferSpec:
    """Parts of the weights to transfer to a stage. By default all of them.

    Args:
        backbone: The whole backbone. The next three arguments override it for a part.
        encoder: Layers and embeddings of the encoder; None: as ``backbone``.
        decoder: Layers and embeddings of the decoder; None: as ``backbone``. ``encoder`` fills the
            decoder of an encoder-decoder from the *encoder* of the weights, with all layers except
            cross-attention, as in BERT2BERT (arXiv:1907.12461).
        embeddings: Token embeddings, matched by token string if the tokenizers differ; None: as
            the encoder or decoder that they belong to.
        head: The head, if its labels match.
        on_mismatch: Action if sizes or functions of weights and backbone differ. ``error`` raises.
            ``new`` skips the parts that do not fit; the stage keeps its own weights there.

    Raises:
        ValueError: If a value is not one of those above.

    Example:
        >>> spec = WeightTransferSpec.of(["encoder"])
        >>> spec.transfers_layers("encoder"), spec.transfers_tokens("encoder")
        (True, True)
        >>> spec.transfers_layers("decoder"), spec.head
        (False, False)
        >>> WeightTransferSpec.of({"head": False}).transfers_layers("decoder")
        True
    """

    backbone: bool = True
    encoder: bool | None = None
    decoder: bool | Literal["encoder"] | None = None
    embeddings: bool | None = None
    head: bool = True
    on_mismatch: OnMismatch = "error"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in PARTS:
            value = getattr(self, name)
            optional = name not in ("backbone", "head")
            known = isinstance(value, bool) or (optional and value is None)
            if not known and (name, value) != ("decoder", "encoder"):
                allowed = "true, false or encoder" if name == "decoder" else "true or false"
                raise ValueError(f"weight_transfer.{name} must be {allowed}, got {value!r}")
        if self.on_mismatch not in get_args(OnMismatch):
            raise ValueError(f"on_mismatch must be error or new, got {self.on_mismatch!r}")

    @classmethod
    def of(cls, parts: Any, *, on_mismatch: OnMismatch = "error") -> "WeightTransferSpec":
        """Build the specification from the value of a config.

        Args:
            parts: None: all parts. A list contains all parts to transfer: ``[backbone]``,
                ``[encoder, head]``, ``[]``. A mapping changes single parts of the default:
                ``{head: false}``, ``{decoder: encoder}``.
            on_mismatch: See the class.

        Raises:
            ValueError: If a part is unknown, or the value is neither a list nor a mapping.
        """
        if parts is None:
            return cls(on_mismatch=on_mismatch)
        is_list = isinstance(parts, Sequence) and not isinstance(parts, str)
        if not is_list and not isinstance(parts, Mapping):
            raise ValueError(
                "weight_transfer must be null, a list such as [backbone, head] or a mapping such "
                f"as {{head: false}}, got {parts!r}; parts: {', '.join(PARTS)}"
            )
        for name in parts:
            if name not in PARTS:
                suggestion = did_you_mean(closest(str(name), PARTS))
                raise ValueError(
                    f"unknown part {name!r} in weight_transfer{suggestion} "
                    f"Parts: {', '.join(PARTS)}"
                )
        if not is_list:
            return cls(**parts, on_mismatch=on_mismatch)
        # A list names everything to transfer, so the defaults of the other parts become False.
        named: dict[str, Any] = {name: True for name in parts}
        whole = {"backbone": False, "head": False}
        return cls(**{**whole, **named}, on_mismatch=on_mismatch)

    def transfers_layers(self, stack: str) -> bool:
        """Return True if the layers of a stack, ``encoder`` or ``decoder``, are transferred."""
        own = getattr(self, stack)
        return self.backbone if own is None else bool(own)

    def transfers_tokens(self, stack: str) -> bool:
        """Return True if the token embeddings of a stack are transferred."""
        return self.transfers_layers(stack) if self.embeddings is None else self.embeddings

    def source_stack(self, stack: str) -> str:
        """Return the stack of the weights that fills a stack of the backbone."""
        return "encoder" if stack == "decoder" and self.decoder == "encoder" else stack

    def is_named(self, stack: str) -> bool:
        """Return True if a stack is requested by its own name, so that the weights must have it."""
        return bool(getattr(self, stack))

    @property
    def whole_backbone(self) -> bool:
        """True if all of the backbone is transferred, each stack from the same stack."""
        stacks = ("encoder", "decoder")
        all_parts = all(self.transfers_layers(s) and self.transfers_tokens(s) for s in stacks)
        return all_parts and self.decoder != "encoder"

    @property
    def any_of_backbone(self) -> bool:
        """True if any part of the backbone is transferred."""
        stacks = ("encoder", "decoder")
        return any(self.transfers_layers(s) or self.transfers_tokens(s) for s in stacks)


PARTS = tuple(f.name for f in dataclasses.fields(WeightTransferSpec) if f.name != "on_mismatch")
"""Names of the parts in a config."""
