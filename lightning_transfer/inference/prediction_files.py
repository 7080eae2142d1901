"""Files of texts to predict of: which columns are read, and where the predictions go."""

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lightning_transfer.data.readers import table_files
from lightning_transfer.data.readers.table_files import ROW, Row
from lightning_transfer.inference import table_writer
from lightning_transfer.utils.suggestions import closest

log = logging.getLogger(__name__)


class TextColumns:
    """Finds the texts in the rows of a file, and counts the rows that have none.

    Args:
        path: The file, or ``-``.
        text: Column of the texts.
        pair: Column of the second texts; None: there is none.
        fault: Says what makes a cell unfit to be a text, or None.
        skip: Whether rows without text are counted, and no error.
    """

    def __init__(
        self,
        path: str | Path,
        text: str,
        pair: str | None,
        fault: Callable[[object], str | None],
        *,
        skip: bool,
    ) -> None:
        """See the class."""
        self.name = "stdin" if str(path) == "-" else Path(path).name
        self.text = text
        self.pair = pair
        self._fault = fault
        self._skip = skip
        self._bad = 0
        self._first = ""

    def survey(self, batches: Iterable[Sequence[Row]]) -> list[str]:
        """Return all columns, as first seen; raise if one of texts is missing, or a row is bad."""
        columns: dict[str, None] = {}
        for rows in batches:
            columns |= dict.fromkeys(key for row in rows for key in row if key != ROW)
            self._check_columns(list(columns))
            for row in rows if not self._skip else ():
                self.check(row)
        return list(columns)

    def _check_columns(self, columns: Sequence[str]) -> None:
        for option, wanted in (("text", self.text), ("text_pair", self.pair)):
            if wanted is not None and wanted not in columns:
                close = closest(wanted, columns, count=len(columns), cutoff=0.0)
                raise ValueError(
                    f"{self.name} has no column {wanted!r}; its columns, the closest first: "
                    f"{', '.join(close)}; name the right one with {option}="
                )

    def check_late(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Check that no row has a column that the output has no place for any more."""
        known = {ROW, *columns}
        for row in rows:
            if late := [key for key in row if key not in known]:
                raise ValueError(
                    f"{row[ROW]}: the key {late[0]!r} is not in the first rows, which settle the "
                    "columns of the output; give it to the first row too (null will do)"
                )

    def check(self, row: Row) -> bool:
        """Tell whether a row has its texts; raise if not, unless bad rows are skipped."""
        for column in (self.text, self.pair):
            if column is not None and (fault := self._fault(row.get(column))):
                self.add_bad(row, column, fault)
                return False
        return True

    def add_bad(self, row: Row, column: str, fault: str) -> None:
        """Count a bad row, or raise."""
        found = f"{row[ROW]}, column {column!r}: {fault}"
        if not self._skip:
            raise ValueError(f"{found}; mend the data or set on_bad_row=skip")
        self._bad += 1
        self._first = self._first or found

    def report(self, added: Sequence[str]) -> None:
        """Say how many rows have no prediction, in the columns that were added."""
        if self._bad:
            said = "%s: %d row(s) without text have an empty %s; the first: %s"
            log.warning(said, self.name, self._bad, " and ".join(added), self._first)


def choose_target(
    path: str | Path, out: str | Path | None, delimiter: str | None
) -> tuple[str | Path, table_writer.Form | None]:
    """Return where to write to, and the format if that is standard output.

    Args:
        path: The input.
        out: As asked for; None: beside the input.
        delimiter: Of the input.

    Raises:
        ValueError: If the output is the input itself.
    """
    if out is None and str(path) != "-":
        source = Path(path).expanduser()
        known = source.suffix.lower() in table_writer.SUFFIXES
        out = source.with_name(f"{source.stem}.predictions{source.suffix if known else '.csv'}")
    if out is None or str(out) == "-":
        return "-", _stdout_form(path, delimiter)
    one, other = (Path(name).expanduser() for name in (path, out))
    if one.resolve() == other.resolve():
        raise ValueError(f"{out} is the input itself; name another file with out=")
    return out, None


def _stdout_form(path: str | Path, delimiter: str | None) -> table_writer.Form:
    """Return the format of the input, as far as standard output can have it."""
    if str(path) != "-":
        return (
            "jsonl"
            if table_files.SUFFIXES.get(Path(path).suffix.lower()) in ("jsonl", "parquet")
            else "csv"
        )
    peek = getattr(getattr(sys.stdin, "buffer", None), "peek", None)
    head = peek() if peek and delimiter is None else b""
    # By the reader's rule, through a byte order mark and the zeros of utf-16.
    return "jsonl" if head.lstrip(b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n").startswith(b"{") else "csv"


def new_columns(columns: Sequence[str], name: str, added: Sequence[str]) -> Sequence[str]:
    """Return what the new columns are called: ``added``, or longer names if these are taken.

    Raises:
        ValueError: If those are taken too.
    """
    longer = [f"predicted_{column}" for column in added]
    for names in (added, longer):
        if not set(names) & set(columns):
            return names
    raise ValueError(
        f"{name} has columns for our {' and '.join(added)} already: {', '.join(columns)}; rename "
        f"{' and '.join(longer)} in it, or take them out"
    )
