"""Which parts of the weights before it a stage asks for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from lightning_transfer.utils.suggestions import closest, did_you_mean

OnMismatch = Literal["error", "new"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTransferSpec:
    """What is taken of the weights that a stage starts from; by default all that fits.

    Args:
        backbone: All of the backbone; what follows is stronger.
        encoder: Its layers with what stands around them, and its embeddings; None: as the backbone.
        decoder: The same of a decoder. ``encoder``: a decoder behind an encoder takes what fits of
            the *encoder* of the weights, which is its self-attention and feed-forward layers, as in
            BERT2BERT (arXiv:1907.12461).
        embeddings: The token embeddings, matched by the tokens' strings where the tokenizer
            changes; None: as the encoder or decoder that they belong to.
        head: The head, as far as its labels are the same.
        on_mismatch: What follows when sizes differ, or what is computed with them: ``error``, or
            ``new``: what does not fit stays behind, and in its place the stage's own weights stay
            as they are built.

    Raises:
        ValueError: If a value is not one of those.

    Example:
        >>> spec = WeightTransferSpec.of(["encoder"])
        >>> spec.side("encoder"), spec.tokens("encoder"), spec.side("decoder"), spec.head
        (True, True, False, False)
        >>> WeightTransferSpec.of({"head": False}).side("decoder")
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
                more = ", or encoder" if name == "decoder" else ""
                raise ValueError(
                    f"weight_transfer.{name} must be true or false{more}, got {value!r}"
                )
        if self.on_mismatch not in get_args(OnMismatch):
            raise ValueError(f"on_mismatch must be error or new, got {self.on_mismatch!r}")

    @classmethod
    def of(cls, parts: Any, *, on_mismatch: OnMismatch = "error") -> "WeightTransferSpec":
        """Build it from the value of a config.

        Args:
            parts: None: all. A list names all that is taken: ``[backbone]``, ``[encoder, head]``,
                ``[]``. A mapping changes single parts of the whole: ``{head: false}``,
                ``{decoder: encoder}``.
            on_mismatch: See the class.

        Raises:
            ValueError: If a part is unknown, or the value is neither list nor mapping.
        """
        if parts is None:
            return cls(on_mismatch=on_mismatch)
        listed = isinstance(parts, Sequence) and not isinstance(parts, str)
        if not listed and not isinstance(parts, Mapping):
            raise ValueError(
                f"weight_transfer must be null, a list such as [backbone, head] or a mapping such as "
                f"{{head: false}}, got {parts!r}; parts: {', '.join(PARTS)}"
            )
        for name in parts:
            if name not in PARTS:
                near = did_you_mean(closest(str(name), PARTS))
                raise ValueError(f"weight_transfer names {name!r}; parts: {', '.join(PARTS)}{near}")
        if not listed:
            return cls(**parts, on_mismatch=on_mismatch)
        named: dict[str, Any] = {name: True for name in parts}
        whole = {"backbone": False, "head": False}
        return cls(**{**whole, **named}, on_mismatch=on_mismatch)

    def side(self, name: str) -> bool:
        """Whether the layers of ``encoder`` or ``decoder`` are taken."""
        own = getattr(self, name)
        return self.backbone if own is None else bool(own)

    def tokens(self, name: str) -> bool:
        """Whether the token embeddings of ``encoder`` or ``decoder`` are taken."""
        return self.side(name) if self.embeddings is None else self.embeddings

    def source(self, name: str) -> str:
        """Return the side of the weights that a side takes from."""
        return str(self.decoder) if name == "decoder" and self.decoder == "encoder" else name

    def asks_for(self, name: str) -> bool:
        """Whether a part was named, so that it must be there."""
        return bool(getattr(self, name))

    @property
    def whole_backbone(self) -> bool:
        """Whether all of the backbone is taken, side by side."""
        sides = [self.side(name) and self.tokens(name) for name in ("encoder", "decoder")]
        return all(sides) and self.decoder != "encoder"

    @property
    def any_of_backbone(self) -> bool:
        """Whether something of the backbone is taken."""
        return any(self.side(name) or self.tokens(name) for name in ("encoder", "decoder"))


PARTS = tuple(f.name for f in dataclasses.fields(WeightTransferSpec) if f.name != "on_mismatch")
