"""Checks of the rows of a table, before they are split or tokenized."""

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
"""Rows as returned by ``load_rows``: column name -> values, as a mapping or a data set."""


@dataclass(frozen=True)
class Rows:
    """Good rows of a table with labels.

    Args:
        labels: Labels of the rows.
        texts: Text of each row.
        targets: Target of each row, see :meth:`LabelSpec.parse`.
        places: Place of each row in its source, for messages ("reviews.csv, line 12").
        pairs: Second text of each row, if the table has pairs.
        groups: Group of each row, if the table has groups.
        given: Split of each row, if the table comes with splits.
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
        """Return the targets in the form for the loss.

        Returns:
            For numbers, float32 ``(rows,)``. For one label per row, int64 ``(rows,)``. For several
            labels per row, float32 ``(rows, num_labels)``: 1 for the labels of the row, else 0.
        """
        if self.labels.kind != "multi_label":
            kind = np.float32 if self.labels.kind == "regression" else np.int64
            return np.array(self.targets, dtype=kind)  # (rows,)
        hot = np.zeros((len(self), self.labels.num_outputs), dtype=np.float32)
        for row, positions in enumerate(self.targets):
            hot[row, positions] = 1
        return hot  # (rows, num_labels)


@dataclass(frozen=True)
class TargetRows:
    """Good rows of a table with target texts.

    Args:
        texts: Text of each row.
        targets: Target text of each row.
        places: Place of each row in its source, for messages ("train.en, line 12").
        groups: Group of each row, if the table has groups.
        given: Split of each row, if the table comes with splits.
        keys: Key of each row, if the table has keys. The key alone determines the split.
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


def check_rows(
    table: Table, spec: LabelSpec, columns: Columns, *, where: str, on_bad_row: str
) -> Rows:
    """Return the good rows of a table with labels.

    A row is bad if a text is missing, empty or not a str, or its label is missing, unknown or not a
    finite number.

    Args:
        table: Columns ``text`` and ``label``; optional columns ``text_pair``, ``group``, ``split``
            and ``row``.
        spec: Content of the label column.
        columns: Column names in the source, for messages.
        where: Name of the table in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, a row is bad and ``on_bad_row`` is ``error``, no good
            row is left, or all good rows have the same label.
    """
    data = read_columns(table, where)
    places = row_places(data, where)
    label_column = f"{where}, column {columns.label!r}"
    try:
        labels = spec.infer_labels(data["label"])
    except ValueError as error:
        raise ValueError(f"{label_column}: {error}") from None
    targets: list[Any] = []
    good: list[int] = []
    bad: list[str] = []
    # All rows are checked before an error is raised, so that it can report the number of bad rows.
    for row, place in enumerate(places):
        try:
            target = _check_row(data, row, spec, labels, columns)
        except ValueError as error:
            bad.append(f"{place}, {error}")
        else:
            good.append(row)
            targets.append(target)
    report_bad(bad, len(places), where, on_bad_row)
    _check_classes(targets, labels, label_column)
    return Rows(
        labels=labels,
        texts=[data["text"][row] for row in good],
        targets=targets,
        places=[places[row] for row in good],
        pairs=_optional(data, "text_pair", good),
        groups=row_groups(data, good),
        given=_optional(data, "split", good),
    )


def check_target_rows(
    table: Table, columns: TargetColumns, *, where: str, on_bad_row: str
) -> TargetRows:
    """Return the good rows of a table with target texts.

    A row is bad if one of its texts is missing, empty or not a str.

    Args:
        table: Columns ``text`` and ``target``; optional columns ``group``, ``split``, ``key`` and
            ``row``.
        columns: Column names in the source, for messages.
        where: Name of the table in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, a row is bad and ``on_bad_row`` is ``error``, or no good
            row is left.
    """
    data = read_columns(table, where, needed=("text", "target"))
    places = row_places(data, where)
    faults = [_target_row_fault(data, row, columns) for row in range(len(places))]
    bad = [f"{place}, {fault}" for place, fault in zip(places, faults, strict=True) if fault]
    report_bad(bad, len(places), where, on_bad_row)
    good = [row for row, fault in enumerate(faults) if not fault]
    return TargetRows(
        texts=[data["text"][row] for row in good],
        targets=[data["target"][row] for row in good],
        places=[places[row] for row in good],
        groups=row_groups(data, good),
        given=_optional(data, "split", good),
        keys=_optional(data, "key", good),
    )


def read_columns(
    table: Table, where: str, *, needed: Sequence[str] = ("text", "label")
) -> dict[str, Sequence[Any]]:
    """Return the columns of a table as sequences of equal length.

    Args:
        table: Rows as returned by ``load_rows``.
        where: Name of the table in messages.
        needed: Required columns, ``text`` among them.

    Raises:
        ValueError: If a required column is missing, the lengths differ, or there are no rows.
    """
    names = list(table) if isinstance(table, Mapping) else table.column_names
    if {*needed} - {*names}:
        raise ValueError(
            f"{where}: load_rows() must return the columns {' and '.join(needed)}, got "
            f"{', '.join(names) or 'none'}"
        )
    # [:] converts the column of a data set to a list. Reading single cells of a list is many times
    # faster.
    data = {name: table[name][:] for name in names}
    lengths = {name: len(column) for name, column in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{where}: load_rows() must return columns of equal length, got "
            f"{', '.join(f'{length} x {name}' for name, length in lengths.items())}"
        )
    if not lengths["text"]:
        raise ValueError(f"{where} has no rows")
    return data


def row_places(data: Mapping[str, Sequence[Any]], where: str) -> Sequence[str]:
    """Return the place of each row for messages: the column ``row``, or else row numbers from 1.

    Args:
        data: Columns of a table.
        where: Name of the table.
    """
    count = len(data["text"])
    return data.get("row") or [f"{where}, row {row}" for row in range(1, count + 1)]


def row_groups(data: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> list[str | None] | None:
    """Return the group of some rows, or ``None`` if the table has no column ``group``.

    Args:
        data: Columns of a table.
        rows: Positions of the rows.
    """
    return [group_name(data["group"][row]) for row in rows] if "group" in data else None


def group_name(cell: object) -> str | None:
    """Return the group in a cell. An empty cell is a row without a group."""
    # str, because the splits hash the group, and ids may be numbers.
    return None if cell in (None, "") else str(cell)


def text_fault(text: object) -> str | None:
    """Return the reason for rejecting a cell as a text, or ``None`` for a good text.

    Training and prediction share this rule.
    """
    if text is None or text != text:  # NaN, a missing value in pandas, is not equal to itself
        return "no text"
    if not isinstance(text, str):
        return f"{text!r} is not text"
    if not text.strip():
        return "empty text"
    # Files, hashes and tokenizers cannot encode an unpaired surrogate, and would fail later.
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"unpaired surrogate (half a character) in {text[:40]!r}"
    return None


def split_fault(split: object) -> str | None:
    """Return the reason for rejecting a cell as a split, or ``None`` for a good one."""
    return None if split in SPLITS else f"split must be one of {', '.join(SPLITS)}, got {split!r}"


def report_bad(bad: Sequence[str], total: int, where: str, on_bad_row: str) -> None:
    """Raise an error for bad rows, or log their number.

    Args:
        bad: Place and fault of each bad row.
        total: Number of rows in the table.
        where: Name of the table in messages.
        on_bad_row: ``error``, or ``skip`` to log a warning.

    Raises:
        ValueError: If all rows are bad, or one is bad and ``on_bad_row`` is ``error``.
    """
    if not bad:
        return
    if len(bad) == total:
        raise ValueError(f"{where}: no good row of {total}; the first: {bad[0]}")
    if on_bad_row == "error":
        more = f" (and {len(bad) - 1} more bad rows of {total})" if len(bad) > 1 else ""
        found = f"{bad[0].removesuffix('.')}{more}"
        fix = "correct the data or set data.on_bad_row=skip"
        # A fault may end with a question: "did you mean spam?".
        raise ValueError(f"{found} {fix.capitalize()}" if found[-1] == "?" else f"{found}; {fix}")
    # All ranks read the same rows, so one of them logs.
    rank_zero_only(log.warning)(
        "%s: skipped %d bad rows of %d; the first: %s", where, len(bad), total, bad[0]
    )


def _check_row(
    data: Mapping[str, Sequence[Any]], row: int, spec: LabelSpec, labels: Labels, columns: Columns
) -> Any:
    """Return the target of a row.

    Raises:
        ValueError: If the row is bad. The message begins with the column.
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


def _target_row_fault(
    data: Mapping[str, Sequence[Any]], row: int, columns: TargetColumns
) -> str | None:
    """Return the reason for rejecting a row, beginning with the column, or None."""
    for name in ("text", "target"):
        if fault := text_fault(data[name][row]):
            return f"column {getattr(columns, name)!r}: {fault}"
    return split_fault(data["split"][row]) if "split" in data else None


def _optional(
    data: Mapping[str, Sequence[Any]], name: str, rows: Sequence[int]
) -> list[Any] | None:
    """Return the cells of some rows in a column, or None if the table has no such column."""
    return [data[name][row] for row in rows] if name in data else None


def _check_classes(targets: list[Any], labels: Labels, where: str) -> None:
    """Check that not all rows have the same label."""
    # There would be nothing to learn, and correlations would be undefined.
    if any(target != targets[0] for target in targets):
        return
    only = targets[0]
    if labels.kind == "single_label":
        found = f"the label {labels.names[only]!r}"
    elif labels.kind == "multi_label":
        found = f"the labels {[labels.names[position] for position in only]}"
    else:
        found = f"the value {only}"
    raise ValueError(f"{where}: every row has {found}; at least 2 different labels are needed")
