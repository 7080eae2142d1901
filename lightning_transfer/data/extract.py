"""What is chosen for a summary, and what is known of a sentence."""

from dataclasses import dataclass

from lightning_transfer.data.aclsum import ASPECTS

CONTEXTS = ("none", "position", "neighbours", "both")


@dataclass(frozen=True)
class Extract:
    """How papers are summed up by their own sentences.

    Args:
        sentences: Sentences of a summary, at least 1.
        context: What a sentence is read with: ``none``, ``position`` (its section, and its number
            among how many), ``neighbours`` (the sentences before and behind it) or ``both``.
        aspect: ``challenge``, ``approach`` or ``outcome``: what the summary is about; None: all
            three, with the three summaries of a paper as one reference.

    Raises:
        ValueError: If a value is not one of those allowed.
    """

    sentences: int = 3
    context: str = "position"
    aspect: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.sentences < 1:
            raise ValueError(f"extract.sentences must be >= 1, got {self.sentences}")
        if self.context not in CONTEXTS:
            raise ValueError(
                f"extract.context must be one of {', '.join(CONTEXTS)}, got {self.context!r}"
            )
        if self.aspect is not None and self.aspect not in ASPECTS:
            raise ValueError(
                f"extract.aspect must be one of {', '.join(ASPECTS)} or null, got {self.aspect!r}"
            )

    @property
    def aspects(self) -> tuple[str, ...]:
        """The aspects that count."""
        return ASPECTS if self.aspect is None else (self.aspect,)
