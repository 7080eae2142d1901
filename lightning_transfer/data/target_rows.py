"""Check a table of texts and target texts row by row, before anything is learned from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_transfer.data.rows import Table, read_columns, report_bad, split_fault, text_fault
from lightning_transfer.data.target_columns import TargetColumns


@dataclass(frozen=True)
class TargetRows:
    """The good rows of a table.

    Args:
        texts: Text of each row.
        targets: Text that is to be written, of each row.
        places: Where each row came from, for messages ("train.en, line 12").
        groups: Group of each row, if the table has groups.
        given: Split of each row, if the table comes split.
        keys: What alone decides in which split each row lies, if the table has such keys.
    """

    texts: list[str]
    targets: list[str]
    places: list[str]
    groups: list[str | None] | None
    given: list[str] | None
    keys: list[str] | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)


def check_target_rows(
    table: Table, columns: TargetColumns, *, where: str, on_bad_row: str
) -> TargetRows:
    """Return the good rows of ``table``.

    Args:
        table: Columns ``text`` and ``target``; optionally ``group``, ``split``, ``key`` and
            ``row``.
        columns: What the columns are called where they came from, for messages.
        where: What the table is called in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, no good row is left, or a row is bad and ``on_bad_row``
            is ``error``. A row is bad if one of its texts is empty or no text.
    """
    data = read_columns(table, where, needed=("text", "target"))
    places = data.get("row") or [f"{where}, row {row}" for row in range(1, len(data["text"]) + 1)]
    faults = [_fault(data, row, columns) for row in range(len(places))]
    bad = [f"{place}, {fault}" for place, fault in zip(places, faults, strict=True) if fault]
    report_bad(bad, len(places), where, on_bad_row)
    good = [row for row, fault in enumerate(faults) if not fault]
    kept = {name: [data[name][row] for row in good] for name in data}
    groups = kept.get("group")
    return TargetRows(
        texts=kept["text"],
        targets=kept["target"],
        places=[places[row] for row in good],
        groups=groups and [None if group in (None, "") else str(group) for group in groups],
        given=kept.get("split"),
        keys=kept.get("key"),
    )


def _fault(data: Mapping[str, Sequence[Any]], row: int, columns: TargetColumns) -> str | None:
    """Return what makes a row bad, beginning with the column, or None."""
    for name in ("text", "target"):
        if fault := text_fault(data[name][row]):
            return f"column {getattr(columns, name)!r}: {fault}"
    return split_fault(data["split"][row]) if "split" in data else None
