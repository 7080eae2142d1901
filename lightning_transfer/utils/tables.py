"""Tables for the terminal and for logs, all in one style."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ColumnKind = Literal["name", "word", "text", "score", "number"]
_STYLES: dict[ColumnKind, dict[str, Any]] = {
    "name": {"no_wrap": True, "style": "bold"},
    "word": {"no_wrap": True},
    "text": {"overflow": "fold"},
    # Wide enough for "[0.123,"; in a narrower terminal digits go on below, and none is cut.
    "score": {"justify": "right", "min_width": 7, "overflow": "fold"},
    "number": {"justify": "right", "no_wrap": True},
}
_WIDEST = 10_000  # a console measures no more than its own width


def make_table(
    columns: Sequence[tuple[str, ColumnKind]],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    title_left: bool = False,
    caption: str = "",
    padding: int = 0,
) -> "Table":
    """Build a table for ``rich``; cells are plain text, never markup.

    Args:
        columns: Heading and kind of each column.
        rows: Cells of each row, as many as there are columns.
        title: Above the table.
        title_left: Whether the title stands at the left; it is centred otherwise.
        caption: Below the table.
        padding: Spaces at both sides of each cell.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, box=box.SIMPLE_HEAD, padding=(0, padding))
    table.title = Text(title) if title else None
    table.caption = Text(caption) if caption else None
    table.title_justify = "left" if title_left else "center"
    table.min_width = len(title)  # the title on one line, where there is room for it
    for heading, kind in columns:
        table.add_column(Text(heading), **_STYLES[kind])
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def console_for(table: "Table") -> "Console":
    """Return a console on standard output that is as wide as a table needs.

    A terminal keeps its width. Piped into a file or another program, lines are as long as the
    table, so that no number is cut.
    """
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        return console
    needed = Console(width=_WIDEST).measure(table).maximum
    return Console(width=max(console.width, needed))
