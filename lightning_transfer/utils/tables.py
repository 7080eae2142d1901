"""Tables for terminals and logs, in one common style."""

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
    # Wide enough for "[0.123,". In a narrow terminal an interval is folded into two lines, never
    # cut: a number without its last digits would be wrong.
    "score": {"justify": "right", "min_width": 7, "overflow": "fold"},
    "number": {"justify": "right", "no_wrap": True},
}
_WIDEST = 10_000  # characters; a console measures a table up to its own width only


def make_table(
    columns: Sequence[tuple[str, ColumnKind]],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    title_left: bool = False,
    caption: str = "",
    padding: int = 0,
) -> "Table":
    """Build a ``rich`` table.

    Args:
        columns: Heading and kind of each column.
        rows: Cells of each row, one per column.
        title: Text above the table.
        title_left: True to align the title to the left, False to centre it.
        caption: Text below the table.
        padding: Number of spaces on both sides of each cell.
    """
    # Imported on use: most commands print no table.
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, box=box.SIMPLE_HEAD, padding=(0, padding))
    table.title = Text(title) if title else None
    table.caption = Text(caption) if caption else None
    table.title_justify = "left" if title_left else "center"
    table.min_width = len(title)  # keeps the title on one line, if the terminal is wide enough
    # Text, not str: rich would read "[0.1, 0.3]" and labels with brackets as markup.
    for heading, kind in columns:
        table.add_column(Text(heading), **_STYLES[kind])
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def console_for(table: "Table") -> "Console":
    """Return a console on standard output, wide enough for a table.

    Args:
        table: The table to print.

    Returns:
        A console of the terminal's width. If the output goes to a file or another program, the
        console is at least as wide as the table, so that no cell is cut or folded.
    """
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        return console
    needed = Console(width=_WIDEST).measure(table).maximum
    return Console(width=max(console.width, needed))
