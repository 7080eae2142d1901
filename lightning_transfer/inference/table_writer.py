"""Writes rows to csv, tsv, jsonl or parquet, a chunk at a time and whole or not at all."""

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

Form = Literal["csv", "tsv", "jsonl", "parquet"]
SUFFIXES: dict[str, Form] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


class RowWriter:
    r"""Writes rows to a file that appears only when all of them are in it.

    The rows go to a temporary file beside the target, which takes the target's place on leaving
    the ``with`` block; an exception, Ctrl-C included, removes it and leaves an older target as it
    was. Standard output is written, and flushed, as the rows come.

    Args:
        path: The target, whose extension says the format (``.csv``, ``.tsv``, ``.jsonl``,
            ``.json`` with one object a line, ``.parquet``), or ``-`` for standard output.
        columns: Keys to write, in this order. Other keys of a row are left out; a key that a row
            lacks is an empty field, or null.
        form: Format of standard output: ``csv`` (default), ``tsv`` or ``jsonl``.

    Raises:
        ValueError: If the extension or ``form`` is not one of those allowed, or ``columns`` is
            empty or repeats a name.
        FileNotFoundError: If the target's folder does not exist.
        IsADirectoryError: If the target is a folder.
        PermissionError: If the target's folder cannot be written to.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> with RowWriter(file, ["text", "label"]) as writer:
        ...     writer.write([{"text": "good, really", "label": "positive"}])
        >>> file.read_text()
        'text,label\n"good, really",positive\n'
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str], *, form: Form | None = None
    ) -> None:
        """See the class."""
        self.columns = list(columns)
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns must be names that differ, got {self.columns}")
        self._target = None if str(path) == "-" else Path(os.path.realpath(Path(path).expanduser()))
        if self._target is not None:
            self._form = _form_of(self._target, form)
        elif form in (None, "csv", "tsv", "jsonl"):
            self._form = form or "csv"
        else:
            raise ValueError(f"standard output takes csv, tsv or jsonl, got form={form!r}")
        self._open = contextlib.ExitStack()
        self._stream: Any = None
        self._encoder: _Encoder | None = None

    def __enter__(self) -> "RowWriter":
        """Open the temporary file."""
        if self._target is None:
            self._stream = _Stdout()
        else:
            temporary = self._open.enter_context(atomic_path(self._target))
            self._stream = self._open.enter_context(temporary.open("xb"))
        try:
            self._encoder = _ENCODERS[self._form](self._stream, self.columns)
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a chunk of rows.

        Args:
            rows: Rows to append; their number bounds the memory that is used. The first chunk
                settles the column types of a parquet file.

        Raises:
            ValueError: If called outside the ``with`` block, or if a value does not fit the type
                that its parquet column began with.
        """
        if self._encoder is None:
            raise ValueError("rows are written inside the with block: with RowWriter(...) as w")
        if rows:
            self._encoder.write(rows)
        if self._target is None:
            self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or remove it if something went wrong."""
        encoder, self._encoder = self._encoder, None
        if kind is not None:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                if encoder is not None:
                    encoder.close()
            self._open.__exit__(kind, error, trace)
            return
        with self._open:  # what fails here leaves the target as it was
            if encoder is not None:
                encoder.close()
                self._stream.flush()


class _Encoder(Protocol):
    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


class _Stdout:
    """Standard output in UTF-8 whatever the locale, also where it is a mere text stream."""

    def write(self, data: bytes) -> None:
        if hasattr(sys.stdout, "buffer"):
            sys.stdout.flush()  # what was printed before comes before
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
        # csv quotes a lone \r only where its own line ends hold one, so the ends are cut after it.
        csv.writer(chunk, delimiter=self._delimiter, lineterminator="\r\n").writerows(rows)
        self._stream.write(chunk.getvalue().encode())

    def close(self) -> None:
        """Nothing is held back."""


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
        """Nothing is held back."""


class _Parquet:
    def __init__(self, stream: Any, columns: Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns
        self._writer: Any = None
        self._types: dict[str, Any] = {}

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        arrays = {column: self._array(column, rows) for column in self._columns}
        self._types = self._types or {column: array.type for column, array in arrays.items()}
        self._write(pa.table(arrays))

    def _array(self, column: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        import pyarrow as pa

        values = [_unboxed(row.get(column)) for row in rows]
        known = self._types.get(column)
        try:
            array = pa.array(values, type=known)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(
                f"column {column!r} mixes types, which parquet cannot hold"
                f"{f' (it began as {known})' if known else ''}: {error}; write .jsonl or .csv"
            ) from None
        # A chunk of nothing but nulls has no type yet; text is the likeliest to come.
        return array.cast(pa.string()) if array.type == pa.null() else array

    def _write(self, table: Any) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._write(pa.table({column: pa.array([], pa.string()) for column in self._columns}))
        self._writer.close()


_ENCODERS: dict[str, Any] = {"csv": _Csv, "tsv": _Tsv, "jsonl": _Jsonl, "parquet": _Parquet}


def _form_of(target: Path, form: str | None) -> Form:
    if form is not None:
        raise ValueError(
            f"form={form!r} is for standard output; a file's extension says its format"
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


def _unboxed(value: Any) -> Any:
    """Return a numpy scalar as the Python number that it stands for."""
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it; what is not a number is null."""
    value = _unboxed(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def _cell(value: Any) -> Any:
    """Return ``value`` as a csv field; lists and mappings as JSON."""
    value = _unboxed(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_plain(value), ensure_ascii=False)
    return value
