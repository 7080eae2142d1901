"""Input and output files of predictions: text columns, output path and added columns."""

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
    """Text columns of an input file, with checks of its rows.

    Args:
        path: Input file, or ``-`` for standard input.
        text: Column of the texts.
        pair: Column of the second texts; None for single texts.
        fault: Returns the reason why a cell is not a valid text, or None for a valid one.
        skip: Count rows without text instead of raising an error.
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
        self._bad_rows = 0
        self._first_fault = ""

    def read_columns(self, batches: Iterable[Sequence[Row]]) -> list[str]:
        """Return all columns in order of their first occurrence, and check all rows.

        Raises:
            ValueError: If a text column is missing, or a row is bad and not to be skipped.
        """
        columns: dict[str, None] = {}
        for rows in batches:
            # Rows of jsonl may differ in their keys. ROW is the place of a row, not a column.
            columns |= dict.fromkeys(key for row in rows for key in row if key != ROW)
            self._check_columns(list(columns))
            for row in rows if not self._skip else ():
                self.check(row)
        return list(columns)

    def _check_columns(self, columns: Sequence[str]) -> None:
        for option, wanted in (("text", self.text), ("text_pair", self.pair)):
            if wanted is not None and wanted not in columns:
                # All columns, sorted by similarity.
                close = closest(wanted, columns, count=len(columns), cutoff=0.0)
                raise ValueError(
                    f"{self.name} has no column {wanted!r}; set {option}=… (data.{option}=… on the "
                    f"command line) to one of its columns, the closest first: {', '.join(close)}"
                )

    def check_no_new_columns(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Raise if a row has a column that is not among the columns of the output.

        Raises:
            ValueError: If there is such a column.
        """
        # Possible if the input is read only once: the header of the output is already written.
        known = {ROW, *columns}
        for row in rows:
            if new := [key for key in row if key not in known]:
                raise ValueError(
                    f"{row[ROW]}: the key {new[0]!r} is not in the first rows, which define the "
                    "columns of the output; add it to the first row with the value null"
                )

    def check(self, row: Row) -> bool:
        """Return True if a row has valid texts.

        Raises:
            ValueError: If a text is not valid and the row is not to be skipped.
        """
        for column in (self.text, self.pair):
            if column is not None and (fault := self._fault(row.get(column))):
                self._add_bad_row(row, column, fault)
                return False
        return True

    def _add_bad_row(self, row: Row, column: str, fault: str) -> None:
        found = f"{row[ROW]}, column {column!r}: {fault}"
        if not self._skip:
            raise ValueError(f"{found}; correct the data or set on_bad_row=skip")
        self._bad_rows += 1
        self._first_fault = self._first_fault or found

    def report(self, added: Sequence[str]) -> None:
        """Log a warning with the number of rows without prediction.

        Args:
            added: Columns of the predictions.
        """
        if self._bad_rows:
            message = "%s: %d row(s) without text have an empty %s; the first: %s"
            columns = " and ".join(added)
            log.warning(message, self.name, self._bad_rows, columns, self._first_fault)


def resolve_output(
    path: str | Path, out: str | Path | None, delimiter: str | None
) -> tuple[str | Path, table_writer.TableFormat | None]:
    """Return the output path, and the format if it is standard output.

    Args:
        path: Input file, or ``-``.
        out: Output file, or ``-``; None for a file beside the input, or for standard output if the
            input is standard input.
        delimiter: Delimiter of the input.

    Raises:
        ValueError: If the output file is the input file.
    """
    if out is None and str(path) != "-":
        source = Path(path).expanduser()
        # A .txt may be read as csv or jsonl, but is not an output format.
        known = source.suffix.lower() in table_writer.SUFFIXES
        out = source.with_name(f"{source.stem}.predictions{source.suffix if known else '.csv'}")
    if out is None or str(out) == "-":
        return "-", _stdout_format(path, delimiter)
    source, target = (Path(name).expanduser() for name in (path, out))
    # Resolved, because the output may be a symbolic link to the input.
    if source.resolve() == target.resolve():
        name = f"{target.stem}.predictions{target.suffix}"
        raise ValueError(f"{out} is the input file; set another file, such as out={name}")
    return out, None


def _stdout_format(path: str | Path, delimiter: str | None) -> table_writer.TableFormat:
    """Return jsonl if the input is jsonl or parquet, else csv."""
    if str(path) != "-":
        return (
            "jsonl"
            if table_files.SUFFIXES.get(Path(path).suffix.lower()) in ("jsonl", "parquet")
            else "csv"
        )
    # Peeked, because standard input can be read only once.
    peek = getattr(getattr(sys.stdin, "buffer", None), "peek", None)
    head = peek() if peek and delimiter is None else b""
    # As in `read_batches`: jsonl begins with a brace. Byte order marks and, in UTF-16, zeros may
    # precede it.
    return "jsonl" if head.lstrip(b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n").startswith(b"{") else "csv"


def added_column_names(columns: Sequence[str], name: str, added: Sequence[str]) -> Sequence[str]:
    """Return the names of the added columns, with the prefix ``predicted_`` if one already exists.

    Args:
        columns: Columns of the input.
        name: Name of the input, for the message.
        added: Names without the prefix.

    Raises:
        ValueError: If a name with the prefix exists too.
    """
    longer = [f"predicted_{column}" for column in added]
    for names in (added, longer):
        if not set(names) & set(columns):
            return names
    raise ValueError(
        f"{name} already has columns for {' and '.join(added)}: {', '.join(columns)}; rename or "
        f"remove {' and '.join(longer)}"
    )
