"""Report of a weight transfer: the status of each part of the model."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning_transfer.utils.tables import ColumnKind, make_table

if TYPE_CHECKING:
    from rich.table import Table

PartStatus = Literal["transferred", "resized", "kept", "reinitialised", "merged", "skipped"]
ADAPTER = "adapter "
"""Prefix of the names of adapters in a report."""


@dataclass(frozen=True)
class TransferredPart:
    """Status of one part of a model, or of the weights that it starts from.

    Args:
        part: Name of the part: ``encoder``, ``token embeddings``, ``head``, ``adapter LoRA`` …
        status: Status of the part:

            - ``transferred``: copied from the weights without change;
            - ``resized``: partly copied, with rows matched by name and the other rows new;
            - ``kept``: pretrained values of the stage's own backbone;
            - ``reinitialised``: random values;
            - ``merged``: an adapter of the weights, added to the base weights;
            - ``skipped``: a part of the weights without use in this stage.
        parameters: Number of parameters.
        why: Reason of the status, or the matched names; may be empty.
    """

    part: str
    status: PartStatus
    parameters: int
    why: str = ""


@dataclass(frozen=True)
class WeightTransferReport:
    """Report of :func:`transfer_weights`. Its text is one line about the head and the adapters.

    Args:
        parts: All parts, from the input to the top, then the head, then the adapters.

    Example:
        >>> report = WeightTransferReport((
        ...     TransferredPart("encoder", "transferred", 512),
        ...     TransferredPart("head", "reinitialised", 34, "the labels a, b become c, d")))
        >>> print(report)
        new head: the labels a, b become c, d
    """

    parts: tuple[TransferredPart, ...]

    def __post_init__(self) -> None:
        """Convert the parts to a tuple."""
        object.__setattr__(self, "parts", tuple(self.parts))  # the instance is frozen

    @property
    def has_transferred(self) -> bool:
        """True if any part of the weights is used."""
        return any(part.status in ("transferred", "resized", "merged") for part in self.parts)

    def __str__(self) -> str:
        """Return the status of the head, then of the adapters."""
        return "; ".join(filter(None, map(_line, self.parts)))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the parts as plain values, for ``results.json``."""
        return [asdict(part) for part in self.parts]

    def to_table(self, title: str = "") -> "Table":
        """Return the parts as a table of ``rich``.

        Args:
            title: Line above the table.
        """
        columns: list[tuple[str, ColumnKind]]
        columns = [("part", "name"), ("status", "word"), ("parameters", "number"), ("why", "text")]
        rows = [(p.part, p.status, f"{p.parameters:,}", p.why) for p in self.parts]
        return make_table(columns, rows, title=title, title_left=True, padding=1)

    def to_text(self, title: str = "", *, width: int = 100) -> str:
        """Return the table in plain characters, for a log file.

        Args:
            title: Line above the table.
            width: Width of a line in characters.
        """
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=width, color_system=None).print(self.to_table(title))
        # rich pads each line to the full width.
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def count(tensors: Iterable[Any]) -> int:
    """Return the number of elements in all tensors; a tensor that occurs twice counts once."""
    # By identity, since tied weights occur under several names.
    return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _line(part: TransferredPart) -> str:
    """Return a text for the head or an adapter, and an empty one for any other part."""
    why = f": {part.why}" if part.why else ""
    if part.part == "head":
        is_kept = part.status in ("transferred", "resized", "kept")
        return f"{'head kept' if is_kept else 'new head'}{why}"
    if not part.part.startswith(ADAPTER):
        return ""
    name = part.part.removeprefix(ADAPTER)
    texts = {
        "transferred": f"{name} continues training",
        "merged": f"{name} merged into the base weights",
        "reinitialised": f"new {name}",
        "skipped": f"{name} skipped",
    }
    return texts[part.status]
