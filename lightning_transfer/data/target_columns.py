"""Which column of a table of pairs is what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lightning_transfer.data.columns import Cells, check_columns


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
