"""Atomic writing of rows to csv, tsv, jsonl or parquet in chunks."""

import contextlib
import csv
import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from lightning_transfer.utils.atomic_files import atomic_path

TableFormat = Literal["csv", "tsv", "jsonl", "parquet"]
SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


class RowWriter:
    """Writes rows to a file completely or not at all.

    Rows are written to a temporary file beside the target. At the end of the ``with`` block it
    replaces the target. After an exception, Ctrl-C included, it is deleted and the old target is
    unchanged. Standard output is written and flushed chunk by chunk.

    Args:
        path: Output file with the extension of its format (``.csv``, ``.tsv``, ``.jsonl``,
            ``.json`` with one object per line, ``.parquet``), or ``-`` for standard output.
        columns: Keys of the rows to write, in this order. Other keys are ignored; a missing key is
            written as an empty field or null.
        stdout_format: Format of standard output: ``csv`` (default), ``tsv`` or ``jsonl``.

    Raises:
        ValueError: If the extension or ``stdout_format`` is unknown, ``stdout_format`` is given for
            a file, or ``columns`` is empty or has duplicates.
        FileNotFoundError: If the folder of the file does not exist.
        IsADirectoryError: If ``path`` is a folder.
        PermissionError: If the folder of the file is read-only.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> with RowWriter(file, ["text", "label"]) as output:
        ...     output.write([{"text": "good, really", "label": "positive"}])
        >>> print(file.read_text())
        text,label
        "good, really",positive
        <BLANKLINE>
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        *,
        stdout_format: TableFormat | None = None,
    ) -> None:
        """See the class."""
        self.columns = list(columns)
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns must be one or more unique names, got {self.columns}")
        # Symbolic links are resolved, so that the rename replaces the file and not the link.
        self._target = None if str(path) == "-" else Path(os.path.realpath(Path(path).expanduser()))
        if self._target is not None:
            self._format = _format_of(self._target, stdout_format)
        elif stdout_format in (None, "csv", "tsv", "jsonl"):
            self._format = stdout_format or "csv"
        else:
            raise ValueError(f"stdout_format must be one of csv, tsv, jsonl, got {stdout_format!r}")
        self._open_files = contextlib.ExitStack()
        self._stream: Any = None
        self._writer: _FormatWriter | None = None

    def __enter__(self) -> "RowWriter":
        """Open the temporary file."""
        if self._target is None:
            self._stream = _Stdout()
        else:
            temporary = self._open_files.enter_context(atomic_path(self._target))
            self._stream = self._open_files.enter_context(temporary.open("xb"))
        try:
            self._writer = _WRITERS[self._format](self._stream, self.columns)
        except BaseException as error:
            # Python does not call `__exit__` if `__enter__` raises.
            self._open_files.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a chunk of rows.

        Args:
            rows: Rows to append. The first chunk defines the column types of a parquet file.

        Raises:
            ValueError: If called outside the ``with`` block, or if a value does not fit the type of
                its parquet column.
        """
        if self._writer is None:
            raise ValueError(
                "write() must be called inside the with block: with RowWriter(...) as output"
            )
        if rows:
            self._writer.write(rows)
        # The next program of a pipe gets each chunk at once.
        if self._target is None:
            self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Replace the target by the finished file, or delete the file after an exception."""
        writer, self._writer = self._writer, None
        if kind is not None:
            # An error on closing must not hide the first one.
            with contextlib.suppress(Exception):
                if writer is not None:
                    writer.close()
            self._open_files.__exit__(kind, error, trace)
            return
        # An error within this block leaves the target unchanged.
        with self._open_files:
            if writer is not None:
                writer.close()
                self._stream.flush()


class _FormatWriter(Protocol):
    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


class _Stdout:
    """Standard output in UTF-8, independent of the locale."""

    def write(self, data: bytes) -> None:
        # In a notebook or under a test runner standard output may be a text stream without bytes.
        if hasattr(sys.stdout, "buffer"):
            sys.stdout.flush()  # keeps the order with text printed before
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.write(data.decode())

    def flush(self) -> None:
        sys.stdout.flush()


class _Csv:
    def __init__(self, stream: Any, columns: Sequence[str], delimiter: str = ",") -> None:
        self._stream = stream
        self._columns = columns
        self._delimiter = delimiter
        self._put([columns])

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._put([[_cell(row.get(column)) for column in self._columns] for row in rows])

    def _put(self, rows: Sequence[Sequence[Any]]) -> None:
        chunk = _UnixLines(newline="")
        # The csv module quotes a field with a single \r only if its line terminator contains one.
        # It therefore gets \r\n, shortened to \n afterwards.
        csv.writer(chunk, delimiter=self._delimiter, lineterminator="\r\n").writerows(rows)
        self._stream.write(chunk.getvalue().encode())

    def close(self) -> None:
        """Do nothing, because nothing is buffered."""


class _Tsv(_Csv):
    def __init__(self, stream: Any, columns: Sequence[str]) -> None:
        super().__init__(stream, columns, "\t")


class _UnixLines(io.StringIO):
    def write(self, record: str) -> int:
        return super().write(record.removesuffix("\r\n") + "\n")


class _Jsonl:
    def __init__(self, stream: Any, columns: Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = [
            json.dumps({key: _plain(row.get(key)) for key in self._columns}, ensure_ascii=False)
            for row in rows
        ]
        self._stream.write(("\n".join(lines) + "\n").encode())

    def close(self) -> None:
        """Do nothing, because nothing is buffered."""


class _Parquet:
    def __init__(self, stream: Any, columns: Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns
        self._writer: Any = None
        self._types: dict[str, Any] = {}

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # pyarrow is imported in functions, because the other formats do not need it.
        import pyarrow as pa

        arrays = {column: self._array(column, rows) for column in self._columns}
        self._types = self._types or {column: array.type for column, array in arrays.items()}
        self._write(pa.table(arrays))

    def _array(self, column: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        import pyarrow as pa

        values = [_python_value(row.get(column)) for row in rows]
        first_type = self._types.get(column)
        try:
            array = pa.array(values, type=first_type)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(
                f"column {column!r} has values of several types, but a parquet column has one"
                f"{f' ({first_type} in the first rows)' if first_type else ''}: {error}; "
                "write .jsonl or .csv"
            ) from None
        # The type of a column with only nulls in the first chunk is unknown. Text is most likely.
        return array.cast(pa.string()) if array.type == pa.null() else array

    def _write(self, table: Any) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        import pyarrow as pa

        # A file without rows needs its columns too.
        if self._writer is None:
            self._write(pa.table({column: pa.array([], pa.string()) for column in self._columns}))
        self._writer.close()


_WRITERS: dict[str, Any] = {"csv": _Csv, "tsv": _Tsv, "jsonl": _Jsonl, "parquet": _Parquet}


def _format_of(target: Path, stdout_format: str | None) -> TableFormat:
    # All checks are made before the first row is computed.
    if stdout_format is not None:
        raise ValueError(
            f"stdout_format={stdout_format!r} applies to standard output only; the format of a "
            "file follows from its extension"
        )
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file in it, such as labels.csv")
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{target.name}: unknown extension {target.suffix!r}; allowed: {', '.join(SUFFIXES)}, "
            "or - for standard output"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target}: the folder is read-only")
    return SUFFIXES[target.suffix.lower()]


def _python_value(value: Any) -> Any:
    """Return a numpy scalar as a Python number, other values unchanged."""
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value


def _plain(value: Any) -> Any:
    """Return a value as types of JSON; NaN and infinity become null."""
    value = _python_value(value)
    # Python's json would write NaN and Infinity, which are not valid JSON.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def _cell(value: Any) -> Any:
    """Return a value as a csv field, lists and mappings as JSON."""
    value = _python_value(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_plain(value), ensure_ascii=False)
    return value
