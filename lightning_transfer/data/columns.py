"""Which column of a table is what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from lightning_transfer.utils.suggestions import closest, did_you_mean

Cells = TypeVar("Cells")  # of a column


@dataclass(frozen=True)
class Columns:
    """Names of the columns that a domain reads from its table.

    Args:
        text: Column of the text.
        label: Column of the label: a number, a name, or several names.
        text_pair: Column of a second text, for tasks on pairs of sentences.
        group: Column that says which rows belong together (an article, an author). Rows of one
            group never lie in two splits. ``None``: every text is a group of its own.

    Raises:
        ValueError: If two of text, label and text_pair are one column.

    Example:
        >>> Columns(text="review", label="stars").named
        {'text': 'review', 'label': 'stars'}
    """

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        """Take a number for a name, as columns without a header have them, and check the names."""
        for name in ("text", "label", "text_pair", "group"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        for one, other in combinations(("text", "label", "text_pair"), 2):
            if getattr(self, one) == getattr(self, other):
                raise ValueError(
                    f"columns.{one} and columns.{other} are both {getattr(self, one)!r}; name a "
                    "column of its own for each"
                )

    @property
    def named(self) -> dict[str, str]:
        """Return our name -> the table's name, for the columns that are in use."""
        pairs = {
            "text": self.text,
            "label": self.label,
            "text_pair": self.text_pair,
            "group": self.group,
        }
        return {ours: theirs for ours, theirs in pairs.items() if theirs is not None}

    def check(self, there: Collection[str], where: str) -> None:
        """Check that the table has every column in use.

        Args:
            there: Names of the table's columns.
            where: What the table is called in the message.

        Raises:
            ValueError: If one is missing; the message lists those that are there.
        """
        check_columns(self.named, there, where)

    def pick(self, table: Mapping[str, Cells], where: str) -> dict[str, Cells]:
        """Return the columns in use, by our names.

        Args:
            table: All of its columns, by the table's names.
            where: What the table is called in the message.

        Raises:
            ValueError: If one is missing; the message lists those that are there.
        """
        self.check(table.keys(), where)
        return {ours: table[theirs] for ours, theirs in self.named.items()}


def check_columns(named: Mapping[str, str], there: Collection[str], where: str) -> None:
    """Check that a table has every column in use.

    Args:
        named: Our name -> the table's name.
        there: Names of the table's columns.
        where: What the table is called in the message.

    Raises:
        ValueError: If one is missing; the message lists those that are there.
    """
    for ours, theirs in named.items():
        if theirs in there:
            continue
        near = closest(theirs, there, count=1)
        hint = did_you_mean(near) if near else ""
        raise ValueError(
            f"{where}: no column {theirs!r} for the {ours}; it has "
            f"{', '.join(sorted(there)) or 'none'}{hint}; set columns.{ours}"
        )


@dataclass(frozen=True)
class TargetColumns:
    """Names of the columns that a domain of texts and target texts reads from its table.

    Args:
        text: Column of the text that is read.
        target: Column of the text that is to be written: a translation, a summary, a headline.
        group: Column that says which rows belong together (an article, a project). Rows of one
            group never lie in two splits. ``None``: only rows that share a text belong together.

    Example:
        >>> TargetColumns(text="en", target="de").named
        {'text': 'en', 'target': 'de'}
    """

    text: str = "text"
    target: str = "target"
    group: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Return our name -> the table's name, for the columns that are in use."""
        pairs = {"text": self.text, "target": self.target, "group": self.group}
        return {ours: theirs for ours, theirs in pairs.items() if theirs is not None}

    def check(self, there: Collection[str], where: str) -> None:
        """Check that the table has every column in use.

        Args:
            there: Names of the table's columns.
            where: What the table is called in the message.

        Raises:
            ValueError: If one is missing; the message lists those that are there.
        """
        check_columns(self.named, there, where)

    def pick(self, table: Mapping[str, Cells], where: str) -> dict[str, Cells]:
        """Return the columns in use, by our names.

        Args:
            table: All of its columns, by the table's names.
            where: What the table is called in the message.

        Raises:
            ValueError: If one is missing; the message lists those that are there.
        """
        self.check(table.keys(), where)
        return {ours: table[theirs] for ours, theirs in self.named.items()}
