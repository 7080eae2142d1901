"""What became of each part when one stage handed its weights to the next."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning_transfer.utils.tables import ColumnKind, make_table

if TYPE_CHECKING:
    from rich.table import Table

PartStatus = Literal["transferred", "resized", "kept", "reinitialised", "merged", "skipped"]


@dataclass(frozen=True)
class TransferredPart:
    """One part of a model, or of the weights that it starts from.

    Args:
        part: What it is: ``encoder``, ``token embeddings``, ``head``, the name of an adapter …
        status: ``transferred`` (as it is in the weights), ``resized`` (in part: rows matched by name,
            the others new), ``kept`` (pretrained weights that the stage's own backbone came with),
            ``reinitialised`` (random), ``merged`` (an adapter, into the base weights) or ``skipped``
            (in the weights, and of no use here).
        parameters: How many numbers it has.
        why: The reason, or which names were matched; may be empty.
    """

    part: str
    status: PartStatus
    parameters: int
    why: str = ""


@dataclass(frozen=True)
class WeightTransferReport:
    """All that :func:`transfer_weights` did; its text is one line on the head and the adapters.

    Args:
        parts: In the order of the model, from the input up; the head and the adapters last.

    Example:
        >>> handed = WeightTransferReport((TransferredPart("encoder", "transferred", 512),
        ...                    TransferredPart("head", "reinitialised", 34, "the labels a, b become c, d")))
        >>> print(handed)
        new head: the labels a, b become c, d
    """

    parts: tuple[TransferredPart, ...]

    def __post_init__(self) -> None:
        """Take any sequence of parts."""
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def taken(self) -> bool:
        """Whether anything of the weights lives on."""
        return any(part.status in ("transferred", "resized", "merged") for part in self.parts)

    def __str__(self) -> str:
        """Return what became of the head, then of adapters."""
        return "; ".join(filter(None, map(_line, self.parts)))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the parts as plain values, as ``results.json`` holds them."""
        return [asdict(part) for part in self.parts]

    def to_table(self, title: str = "") -> "Table":
        """Return the table for ``rich``."""
        columns: list[tuple[str, ColumnKind]]
        columns = [("part", "name"), ("status", "word"), ("parameters", "number"), ("why", "text")]
        rows = [(p.part, p.status, f"{p.parameters:,}", p.why) for p in self.parts]
        return make_table(columns, rows, title=title, title_left=True, padding=1)

    def to_text(self, title: str = "", *, width: int = 100) -> str:
        """Return the table for a log file, in plain characters.

        Args:
            title: Above it.
            width: Characters of a line.
        """
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=width, color_system=None).print(self.to_table(title))
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def count(tensors: Iterable[Any]) -> int:
    """Return how many numbers tensors hold; one that comes twice counts once."""
    return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors}.values())


ADAPTER = "adapter "  # begins the names of the parts that are adapters


def _line(part: TransferredPart) -> str:
    why = f": {part.why}" if part.why else ""
    if part.part == "head":
        if part.status == "resized":
            return f"head kept {part.why}"
        return f"{'head kept' if part.status in ('transferred', 'kept') else 'new head'}{why}"
    if not part.part.startswith(ADAPTER):
        return ""
    name = part.part.removeprefix(ADAPTER)
    told = {
        "transferred": f"{name} goes on training",
        "merged": f"{name} merged into the base weights",
        "reinitialised": f"new {name}",
        "skipped": f"{name} left behind",
    }
    return told[part.status]
