"""Where tables are printed: a terminal has an edge, a log has none."""

from rich.console import Console
from rich.table import Table

_WIDEST = 10_000  # a console measures no more than its own width


def console_for(table: Table) -> Console:
    """Return a console on standard output that a table fits on.

    Piped into a file or another program, lines are as long as the table needs, so that none of its
    numbers is cut; in a terminal they keep to its width.
    """
    console = Console()
    if console.is_terminal:
        return console
    needed = Console(width=_WIDEST).measure(table).maximum
    return Console(width=max(console.width, needed))
