"""Check a table row by row, before anything is learned from it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.columns import Columns, TargetColumns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.splits.splitter import SPLITS
from lightning_transfer.utils import Labels

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Table: TypeAlias = Union[Mapping[str, Sequence[Any]], "Dataset"]
"""Rows as a domain reads them: column name -> values, as a plain mapping or a data set."""


@dataclass(frozen=True)
class Rows:
    """The good rows of a table.

    Args:
        labels: The label contract.
        texts: Text of each row.
        targets: Target of each row, as :meth:`LabelSpec.parse` gives it.
        places: Where each row came from, for messages ("reviews.csv, line 12").
        pairs: Second text of each row, if the table has one.
        groups: Group of each row, if the table has groups.
        given: Split of each row, if the table comes split.
    """

    labels: Labels
    texts: list[str]
    targets: list[Any]
    places: list[str]
    pairs: list[str] | None
    groups: list[str | None] | None
    given: list[str] | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def tensor_targets(self) -> np.ndarray:
        """Return the targets as the loss takes them.

        Returns:
            Rating: float32 ``(rows,)``. One label: int64 ``(rows,)``. Several labels: float32
            ``(rows, num_labels)``, 1 where the row has the label.
        """
        if self.labels.kind != "multi_label":
            kind = np.float32 if self.labels.kind == "regression" else np.int64
            return np.array(self.targets, dtype=kind)
        hot = np.zeros((len(self), self.labels.num_outputs), dtype=np.float32)
        for row, positions in enumerate(self.targets):
            hot[row, positions] = 1
        return hot  # (rows, num_labels)


def check_rows(
    table: Table, spec: LabelSpec, columns: Columns, *, where: str, on_bad_row: str
) -> Rows:
    """Return the good rows of ``table``.

    Args:
        table: Columns ``text`` and ``label``; optionally ``text_pair``, ``group``, ``split`` and
            ``row``.
        spec: What the label column holds.
        columns: What the columns are called where they came from, for messages.
        where: What the table is called in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, a row is bad and ``on_bad_row`` is ``error``, or no
            good row or one class only is left. A row is bad if its text is empty or no text, its
            label is no number, no known label or none.
    """
    data = read_columns(table, where)
    places = data.get("row") or [f"{where}, row {row}" for row in range(1, len(data["text"]) + 1)]
    labels = _labels(data["label"], spec, f"{where}, column {columns.label!r}")
    targets: list[Any] = []
    good: list[int] = []
    bad: list[str] = []
    for row, place in enumerate(places):
        try:
            target = _check_row(data, row, spec, labels, columns)
        except ValueError as error:
            bad.append(f"{place}, {error}")
        else:
            good.append(row)
            targets.append(target)
    report_bad(bad, len(places), where, on_bad_row)
    _check_classes(targets, labels, f"{where}, column {columns.label!r}")
    optional = {
        name: [data[name][row] for row in good] if name in data else None
        for name in ("text_pair", "group", "split")
    }
    groups = optional["group"]
    return Rows(
        labels=labels,
        texts=[data["text"][row] for row in good],
        targets=targets,
        places=[places[row] for row in good],
        pairs=optional["text_pair"],
        groups=[None if group in (None, "") else str(group) for group in groups]
        if groups
        else None,
        given=optional["split"],
    )


def read_columns(
    table: Table, where: str, *, needed: Sequence[str] = ("text", "label")
) -> dict[str, Sequence[Any]]:
    """Return the columns of a table as sequences of one length.

    Args:
        table: What a domain has read.
        where: What the table is called in messages.
        needed: Columns that it must have, ``text`` among them.

    Raises:
        ValueError: If a needed column or any row is missing, or lengths differ.
    """
    names = list(table) if isinstance(table, Mapping) else table.column_names
    if {*needed} - {*names}:
        raise ValueError(
            f"{where}: load_rows() must return the columns {' and '.join(needed)}, it returned "
            f"{', '.join(names) or 'none'}"
        )
    # Of a data set [:] makes a list, which is read many times faster.
    data = {name: table[name][:] for name in names}
    lengths = {name: len(column) for name, column in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{where}: load_rows() must return columns of one length, it returned "
            f"{', '.join(f'{length} x {name}' for name, length in lengths.items())}"
        )
    if not lengths["text"]:
        raise ValueError(f"{where} has no rows")
    return data


def _labels(raws: Sequence[Any], spec: LabelSpec, where: str) -> Labels:
    try:
        return spec.found(raws)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_row(
    data: Mapping[str, Sequence[Any]], row: int, spec: LabelSpec, labels: Labels, columns: Columns
) -> Any:
    """Return the row's target.

    Raises:
        ValueError: If the row is bad; the message begins with the column.
    """
    for name in ("text", "text_pair"):
        if name in data and (fault := text_fault(data[name][row])):
            raise ValueError(f"column {getattr(columns, name) or name!r}: {fault}")
    if "split" in data and (fault := split_fault(data["split"][row])):
        raise ValueError(fault)
    try:
        return spec.parse(data["label"][row], labels)
    except ValueError as error:
        raise ValueError(f"column {columns.label!r}: {error}") from None


def text_fault(text: object) -> str | None:
    """Return what makes a cell unfit to be a text, or None; the rule of training and prediction."""
    if text is None or text != text:  # NaN is how some writers say "none"
        return "no text"
    if not isinstance(text, str):
        return f"{text!r} is not text"
    if not text.strip():
        return "empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"half a surrogate pair in {text[:40]!r}"
    return None


def split_fault(split: object) -> str | None:
    """Return what makes a cell unfit to name a split, or None."""
    return None if split in SPLITS else f"split must be one of {', '.join(SPLITS)}, got {split!r}"


def report_bad(bad: Sequence[str], total: int, where: str, on_bad_row: str) -> None:
    """Say how many rows are bad.

    Args:
        bad: Place and fault of each bad row.
        total: Rows of the table.
        where: What the table is called in messages.
        on_bad_row: ``error``, or ``skip`` for a warning.

    Raises:
        ValueError: If no row is good, or one is bad and ``on_bad_row`` is ``error``.
    """
    if not bad:
        return
    more = f" (and {len(bad) - 1} more bad rows of {total})" if len(bad) > 1 else ""
    if len(bad) == total:
        raise ValueError(f"{where}: no good row of {total}; the first: {bad[0]}")
    if on_bad_row == "error":
        raise ValueError(f"{bad[0]}{more}; mend the data or set on_bad_row=skip")
    rank_zero_only(log.warning)(
        "%s: skipped %d bad rows of %d; the first: %s", where, len(bad), total, bad[0]
    )


def _check_classes(targets: list[Any], labels: Labels, where: str) -> None:
    """Check that there is something to tell apart."""
    if any(target != targets[0] for target in targets):
        return
    only = targets[0]
    if labels.kind == "single_label":
        what = f"the label {labels.names[only]!r}"
    elif labels.kind == "multi_label":
        what = f"the labels {[labels.names[position] for position in only]}"
    else:
        what = f"the rating {only}"
    raise ValueError(f"{where}: every row has {what}; at least 2 different ones are needed")


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
