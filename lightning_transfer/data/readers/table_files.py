"""Streams rows out of csv, tsv, jsonl and parquet files, whoever wrote them, in constant memory."""

import csv
import io
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

from lightning_transfer.utils.suggestions import closest

log = logging.getLogger(__name__)

Row = dict[str, Any]
ROW = "__row__"  # the key under which a row says where it came from

SUFFIXES = {f".{form}": form for form in ("csv", "tsv", "jsonl", "parquet")}
SUFFIXES |= {".json": "jsonl", ".txt": "detect"}
DELIMITERS = ",;\t|"

_NO_DELIMITER = "\x1f"  # the unit separator never occurs in text: a file of one column
_SAMPLE_BYTES = 1 << 18
_MAX_CHARS = 1 << 24  # a longer line or field is an accident, and would fill the memory
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that surrogateescape could not decode
_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CODE_PAGES = "cp1252 cp1250 cp1251 cp1253 cp1254 koi8_r cp932 euc_jp gb18030 big5 cp949".split()
_WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøœùúûüšßÀÁÂÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖØÙÚÛÜŠ‘’“”–—…«»¡¿°£\xa0")
_BINARY = {b"PK\x03\x04": "an Excel workbook or a zip", b"\x1f\x8b": "gzip", b"PAR1": "parquet"}


def read_batches(
    path: str | Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    on_bad_row: str = "error",
    batch_rows: int = 2048,
) -> Iterator[list[Row]]:
    r"""Read a file as batches of rows, never more than one batch at a time.

    The extension says the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` (one object a line),
    ``.parquet``. Standard input and ``.txt`` are jsonl if they begin with ``{``, else csv. Blank
    lines are no rows.

    The *header* of a csv settles its delimiter, one of ``, ; tab |``: of those that split it, the
    one with whose width most rows agree (a ``.tsv`` prefers its tab). A header that none of them
    splits is a file of one column, and its lines are taken whole, commas and all. Double quotes
    mean what they do in csv, unless most fields that begin with one turn out not to be quoted.

    The encoding is that of a byte order mark, else UTF-8 if the first 256 KiB are that or damaged
    UTF-8. Other bytes are guessed at, with a warning, if they are enough to guess from; a few stray
    bytes are not, and make a bad row.

    Args:
        path: The file, or ``-`` for standard input (never parquet).
        delimiter: The character between the fields of a csv; detected by default.
        encoding: Name of the file's encoding; detected by default.
        on_bad_row: ``error``, or ``skip`` to leave out what cannot be read (a byte that is not of
            the encoding, NUL, too many or too few fields, broken JSON), with one warning last.
        batch_rows: Rows in a batch, at least 1.

    Returns:
        Lists of rows. A row maps column to value (csv: ``str``; jsonl: the keys of its line) and
        ``__row__`` to its place: ``"reviews.csv, line 12"``, the physical line on which it begins,
        the first being 1, or ``"reviews.parquet, row 12"``.

    Raises:
        FileNotFoundError: If there is no such file; the message names the close ones.
        IsADirectoryError: If ``path`` is a folder.
        ValueError: If an argument or the extension is not one of those allowed, a row is bad,
            column names repeat, a quote is never closed, or no row is left.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = file.write_text('text;score\n"good; really";0,9\n')
        >>> next(read_batches(file))
        [{'text': 'good; really', 'score': '0,9', '__row__': 'reviews.csv, line 2'}]
    """
    if on_bad_row not in ("error", "skip") or batch_rows < 1:
        given = f"on_bad_row={on_bad_row!r} and batch_rows={batch_rows}"
        raise ValueError(f"on_bad_row must be error or skip, batch_rows at least 1; got {given}")
    path = Path(path).expanduser()
    form = "detect" if str(path) == "-" else _format_of(path)
    _check_options(form, delimiter, encoding)
    bad = _BadRows("stdin" if str(path) == "-" else path.name, skip=on_bad_row == "skip")
    if form == "parquet":
        rows = _parquet_rows(path, batch_rows, bad.name)
    else:
        rows = _text_rows(path, form, delimiter, encoding, bad)
    return _batches(rows, batch_rows, bad)


class _BadRows:
    """Raises the first bad row, or counts them all for one warning."""

    def __init__(self, name: str, *, skip: bool) -> None:
        self.name = name
        self._skip = skip
        self.count = 0
        self.first = ""

    def add(self, where: str, what: str, mend: str) -> None:
        if not self._skip:
            raise ValueError(f"{self.name}, {where}: {what}; {mend}, or pass on_bad_row=skip")
        self.count += 1
        self.first = self.first or f"{where}: {what}"


class _Lines:
    """Physical lines of a text, with their number and the first fault in the current record."""

    def __init__(self, text: TextIO, name: str, encoding: str) -> None:
        self._text = text
        self._name = name
        self._encoding = encoding
        self.number = 0  # of the line read last
        self.cut = False  # the text ended inside a record
        self.begin()

    def begin(self) -> None:
        """Start a record."""
        self._taken = 0
        self.fault: tuple[str, str] | None = None  # where, what

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(_MAX_CHARS)
        except UnicodeDecodeError as error:  # utf-16's decoder cannot go on
            where = f"{self._name}, near line {self.number + 1}"
            raise ValueError(f"{where}: {error}; pass the right encoding=") from None
        if not line:
            self.cut = self._taken > 0
            raise StopIteration
        self.number += 1
        self._taken += 1
        if len(line) == _MAX_CHARS:
            raise ValueError(f"{self._name}, line {self.number}: over {_MAX_CHARS} characters")
        if self.number == 1:
            line = line.removeprefix("\ufeff")
        if "\0" in line:
            self.fault = self.fault or (f"line {self.number}", "a NUL byte (0x00)")
        elif not line.isascii() and (found := _ESCAPED.search(line)):
            what = f"the byte 0x{ord(found.group()) - 0xDC00:02x} is not valid {self._encoding}"
            self.fault = self.fault or (f"line {self.number}", what)
        return line


def _batches(rows: Iterator[Row], size: int, bad: _BadRows) -> Iterator[list[Row]]:
    total = 0
    while batch := list(islice(rows, size)):
        total += len(batch)
        yield batch
    skipped = f"skipped {bad.count} bad row(s), the first at {bad.first}"
    if total == 0:
        raise ValueError(f"{bad.name} has no rows{f'; {skipped}' if bad.count else ''}")
    if bad.count:
        log.warning("%s: %s", bad.name, skipped)


def _format_of(path: Path) -> str:
    folder, allowed = path.parent, ", ".join(SUFFIXES)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
        names = ", ".join(inside[:5]) or f"there is none with {allowed}"
        raise IsADirectoryError(f"{path} is a folder; give one file of it: {names}")
    if not path.exists():
        close = closest(path.name, os.listdir(folder) if folder.is_dir() else [])
        raise FileNotFoundError(
            f"no file {path.name!r} in {folder.absolute()}; close names: {close or 'none'}"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown extension {path.suffix!r}; allowed: {allowed}")
    return SUFFIXES[path.suffix.lower()]


def _check_options(form: str, delimiter: str | None, encoding: str | None) -> None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"delimiter must be one character, not a quote, got {delimiter!r}")
    if delimiter is not None and form in ("jsonl", "parquet"):
        raise ValueError(f"{form} has no delimiter, got {delimiter!r}; leave delimiter= out")
    if encoding is not None and form == "parquet":
        raise ValueError(f"parquet states its encoding, got {encoding!r}; leave encoding= out")
    try:
        b"a".decode(encoding or "utf-8", "replace")  # an empty one would not look it up
    except LookupError:
        close = closest(str(encoding), ["utf-8", "utf-16", "latin-1", *_CODE_PAGES])
        raise ValueError(f"unknown encoding {encoding!r}; close: {close or 'none'}") from None


@contextmanager
def _bytes_of(path: Path) -> Iterator[Any]:
    if str(path) != "-":
        with path.open("rb", buffering=_SAMPLE_BYTES) as stream:
            yield stream
        return
    if not hasattr(sys.stdin, "buffer"):
        raise ValueError("standard input is closed or holds no bytes; give a file")
    stream = io.BufferedReader(sys.stdin.buffer, _SAMPLE_BYTES)  # type: ignore[type-var]
    try:
        yield stream
    finally:
        stream.detach()  # or it would close standard input


def _text_rows(
    path: Path, form: str, delimiter: str | None, encoding: str | None, bad: _BadRows
) -> Iterator[Row]:
    with _bytes_of(path) as stream:
        head = stream.peek(_SAMPLE_BYTES)
        if len(head) >= _SAMPLE_BYTES:  # its last line is cut
            head = head[: head.rfind(b"\n") + 1] or head
        for magic, what in _BINARY.items():
            if head.startswith(magic):
                raise ValueError(f"{bad.name} is {what}, not text; save it as csv or name it so")
        encoding = encoding or _detect_encoding(head, bad.name)
        sample = head.decode(encoding, "replace").removeprefix("\ufeff")
        if form == "detect":
            form = "csv" if delimiter or not sample.lstrip().startswith("{") else "jsonl"
        text = io.TextIOWrapper(stream, encoding, "surrogateescape", newline="")
        lines = _Lines(text, bad.name, encoding)
        try:
            if form == "jsonl":
                yield from _json_rows(lines, bad)
            else:
                yield from _csv_rows(lines, sample, form == "tsv", delimiter, bad)
        finally:
            text.detach()


def _detect_encoding(head: bytes, name: str) -> str:
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    if head.count(0) > len(head) / 5:
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    text = head.decode("utf-8", "surrogateescape")
    stray = len(_ESCAPED.findall(text))
    # Text of another encoding seldom forms even one valid sequence of UTF-8.
    whole = stray <= sum(ord(char) > 127 for char in text) - stray
    guess = None if whole else _guess_encoding(head)
    if guess is None:
        return "utf-8"  # each stray byte is told with its line
    log.warning("%s is not UTF-8; read as %s by its bytes: pass encoding= if wrong", name, guess)
    return guess


def _guess_encoding(head: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(head, cp_isolation=_CODE_PAGES).best()
    if best is not None and len({char for char in str(best) if ord(char) > 127}) >= 6:
        return best.encoding
    # A few stray bytes decode in every code page: then only letters of Western text count.
    signs = {char for char in head.decode("cp1252", "replace") if ord(char) > 127}
    return "cp1252" if signs <= _WESTERN else None


def _json_rows(lines: _Lines, bad: _BadRows) -> Iterator[Row]:
    for where, line in _records(lines, lines, bad.name):
        row = None if lines.fault else _json_object(line)
        if lines.fault:
            bad.add(*lines.fault, "pass the right encoding=")
        elif isinstance(row, str):
            bad.add(where, row, "write one JSON object a line")
        elif row is not None:
            yield row | {ROW: f"{bad.name}, {where}"}


def _json_object(line: str) -> Row | str | None:
    """Return the object, what is wrong with the line, or None for a blank one."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
        if "\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half a character (an unpaired surrogate)"
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    if not isinstance(row, dict):
        return f"{type(row).__name__} where a JSON object is needed"
    return f"the key {ROW} is ours; rename it" if ROW in row else row


def _csv_rows(
    lines: _Lines, sample: str, is_tsv: bool, delimiter: str | None, bad: _BadRows
) -> Iterator[Row]:
    head = io.StringIO(sample, newline="").readlines()
    if csv.field_size_limit() < _MAX_CHARS:
        csv.field_size_limit(_MAX_CHARS)
    delimiter = delimiter or _detect_delimiter(head, prefer="\t" if is_tsv else "")
    by = "" if delimiter == _NO_DELIMITER else f" at delimiter {delimiter!r}"
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if _is_quoted(head, delimiter) else csv.QUOTE_NONE
    header: list[str] = []
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    for where, fields in _records(reader, lines, bad.name):
        if not fields:  # a blank line
            continue
        if lines.fault and not header:
            raise ValueError(f"{bad.name}, {': '.join(lines.fault)}; pass the right encoding=")
        if lines.fault:
            bad.add(*lines.fault, "pass the right encoding=")
        elif not header:
            header = _header(fields, bad.name)
        elif len(fields) != len(header):
            given = f"{len(fields)} field(s){by} where the header has {len(header)} column(s)"
            bad.add(where, given, "quote a text that holds the delimiter")
        else:
            yield dict(zip(header, fields, strict=True)) | {ROW: f"{bad.name}, {where}"}
    if not header:
        raise ValueError(f"{bad.name} is empty: there is no header")


def _records(reader: Iterator[Any], lines: _Lines, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what ``reader`` makes of the lines, each with the line on which it begins."""
    while True:
        lines.begin()
        where = f"line {lines.number + 1}"
        try:
            record = next(reader, None)
        except csv.Error:  # a field over the limit
            lines.cut = True
        if lines.cut:
            raise ValueError(
                f"{name}, {where}: a quote is opened and never closed; close it, or double it"
            )
        if record is None:
            return
        yield where, record


def _header(fields: Sequence[str], name: str) -> list[str]:
    header = [field.strip() for field in fields]
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"{name}: column names repeat: {twice} of {header}; rename them")
    if ROW in header:
        raise ValueError(f"{name}: the column name {ROW} is ours; rename it")
    return header


def _detect_delimiter(head: Sequence[str], *, prefer: str) -> str:
    fits: dict[str, tuple[bool, float, int]] = {}
    for delimiter in DELIMITERS:
        widths = [len(fields) for fields in csv.reader(head, delimiter=delimiter) if fields]
        if widths and widths[0] > 1:
            agree = widths.count(widths[0]) / len(widths)
            fits[delimiter] = (delimiter == prefer, agree, widths[0])
    return max(fits, key=lambda delimiter: fits[delimiter], default=_NO_DELIMITER)


def _is_quoted(head: Sequence[str], delimiter: str) -> bool:
    """Tell whether fields that begin with a quote are quoted, or just begin with a quote."""
    reader = csv.reader(head, delimiter=delimiter, strict=True)
    width, proper, stray = 0, 0, 0
    while True:
        start = reader.line_num
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = []
        if fields is None:
            return proper >= stray
        width = width or len(fields)
        used = head[start : reader.line_num]
        if any(line.startswith('"') or f'{delimiter}"' in line for line in used):
            proper, stray = proper + (len(fields) == width), stray + (len(fields) != width)


def _parquet_rows(path: Path, batch_rows: int, name: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # By default whole row groups are read at once, and a file may be one row group.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            _header(file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=batch_rows):
                for row in batch.to_pylist():
                    number += 1
                    yield row | {ROW: f"{name}, row {number}"}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not valid parquet after row {number}: {error}") from error
