"""Names of the columns that a DataModule reads from a table."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from itertools import combinations
from typing import TypeVar

from lightning_transfer.utils.suggestions import closest, did_you_mean

Cells = TypeVar("Cells")  # all values of one column


@dataclass(frozen=True)
class _ColumnNames:
    """Base of the column specifications: each field holds the name of a column, or ``None``."""

    @property
    def named(self) -> dict[str, str]:
        """Field -> name in the table, for the columns in use."""
        pairs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {ours: theirs for ours, theirs in pairs.items() if theirs is not None}

    def check(self, available: Collection[str], where: str) -> None:
        """Check that the table has every column in use.

        Args:
            available: Names of the columns of the table.
            where: Name of the table in the message.

        Raises:
            ValueError: If a column is missing. The message lists the columns of the table.
        """
        for ours, theirs in self.named.items():
            if theirs in available:
                continue
            names = ", ".join(sorted(available))
            fix = f"set data.columns.{ours} to one of {names}" if names else "the table is empty"
            near = did_you_mean(closest(theirs, available, count=1))
            raise ValueError(f"{where}: no column {theirs!r} for the {ours}; {fix}{near}")

    def pick(self, table: Mapping[str, Cells], where: str) -> dict[str, Cells]:
        """Return the columns in use, renamed to the fields.

        Args:
            table: Name in the table -> values, for all columns of the table.
            where: Name of the table in the message.

        Raises:
            ValueError: If a column is missing. The message lists the columns of the table.
        """
        self.check(table.keys(), where)
        return {ours: table[theirs] for ours, theirs in self.named.items()}


@dataclass(frozen=True)
class Columns(_ColumnNames):
    """Columns of a table with labelled texts.

    Args:
        text: Column with the text.
        label: Column with the label: a number, a class name, or several class names.
        text_pair: Column with the second text of a pair, for tasks on sentence pairs.
        group: Column with the group of a row, such as an article or an author. The rows of a group
            are never in two splits. ``None``: every text is a group by itself.

    Raises:
        ValueError: If two of text, label and text_pair are the same column.

    Example:
        >>> Columns(text="review", label="stars").named
        {'text': 'review', 'label': 'stars'}
    """

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        """Convert the names to strings, and check that they differ."""
        # Columns of files without a header are named by numbers, which a config reads as int.
        for name in ("text", "label", "text_pair", "group"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        # The group is not compared: it is no input of the model, so rows may be grouped by label.
        for one, other in combinations(("text", "label", "text_pair"), 2):
            if getattr(self, one) == getattr(self, other):
                raise ValueError(
                    f"columns.{one} and columns.{other} must be different columns, got "
                    f"{getattr(self, one)!r} for both"
                )


@dataclass(frozen=True)
class TargetColumns(_ColumnNames):
    """Columns of a table with texts and target texts.

    Args:
        text: Column with the input text.
        target: Column with the target text: a translation, a summary, a headline.
        group: Column with the group of a row, such as an article or a project. The rows of a group
            are never in two splits. ``None``: only rows with a common text belong together.

    Example:
        >>> TargetColumns(text="en", target="de").named
        {'text': 'en', 'target': 'de'}
    """

    text: str = "text"
    target: str = "target"
    group: str | None = None
