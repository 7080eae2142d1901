"""Streaming reader of csv, tsv, jsonl and parquet files in constant memory."""

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
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO

from lightning_transfer.utils.suggestions import closest, did_you_mean

log = logging.getLogger(__name__)

Row = dict[str, Any]
ROW = "__row__"  # key of the place of a row in its file

SUFFIXES = {f".{form}": form for form in ("csv", "tsv", "jsonl", "parquet")}
SUFFIXES |= {".json": "jsonl", ".txt": "detect"}
DELIMITERS = ",;\t|"

_NO_DELIMITER = "\x1f"  # for files with one column: the unit separator does not occur in text
_SAMPLE_BYTES = 1 << 18  # bytes to detect encoding, delimiter and quoting from
_MAX_CHARS = 1 << 24  # a longer line or field is most likely an error, and would fill the memory
_ESCAPED = re.compile("[\udc80-\udcff]")  # undecodable bytes, as escaped by surrogateescape
_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CODE_PAGES = "cp1252 cp1250 cp1251 cp1253 cp1254 koi8_r cp932 euc_jp gb18030 big5 cp949".split()
# Letters and signs of Western text, to tell cp1252 from other code pages by a few bytes.
_WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøœùúûüšßÀÁÂÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖØÙÚÛÜŠ‘’“”–—…«»¡¿°£\xa0")
_ENCODING_FIX = "save the file as UTF-8 or set encoding"
_BINARY = {b"PK\x03\x04": "an Excel workbook or a zip", b"\x1f\x8b": "gzip", b"PAR1": "parquet"}


def read_batches(
    path: str | Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    on_bad_row: str = "error",
    batch_rows: int = 2048,
) -> Iterator[list[Row]]:
    r"""Read the rows of a file in batches. Only one batch is in memory at a time.

    The extension determines the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` (one object per
    line), ``.parquet``. Standard input and ``.txt`` are read as jsonl if they begin with ``{``,
    else as csv. Blank lines are ignored.

    The delimiter of a csv is one of ``, ; tab |``. Candidates are those that divide the header. The
    candidate with the most rows as wide as the header is chosen, for ``.tsv`` preferably the tab.
    If no candidate divides the header, the file has one column, and its lines are not divided.
    Double quotes are read as in csv, unless most fields with a quote at the beginning turn out to
    be unquoted texts.

    The encoding is given by the byte order mark, else it is UTF-8 if the first 256 KiB are UTF-8 or
    damaged UTF-8. Any other encoding is detected from its bytes, with a warning. If there are too
    few such bytes to detect it, their rows are bad.

    Args:
        path: The file, or ``-`` for standard input (not parquet).
        delimiter: Character between the fields of a csv; ``None``: detected.
        encoding: Encoding of the file; ``None``: detected.
        on_bad_row: ``error``, or ``skip`` to leave out unreadable rows and log their number in one
            warning. A row is unreadable if it has a byte outside of the encoding, a NUL byte, too
            many or too few fields, or invalid JSON.
        batch_rows: Rows per batch, >= 1.

    Returns:
        Iterator over lists of rows. A row maps each column to a value (csv: ``str``; jsonl: the
        keys and values of the line), and ``__row__`` to the place of the row:
        ``"reviews.csv, line 12"``, with the physical line of its beginning counted from 1, or
        ``"reviews.parquet, row 12"``.

    Raises:
        FileNotFoundError: If the file does not exist. The message has files of similar names.
        IsADirectoryError: If ``path`` is a folder.
        ValueError: If an argument or the extension is not allowed, a row is bad, column names
            repeat, a quote is never closed, or there are no good rows.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = file.write_text('text;score\n"good; really";0,9\n')
        >>> next(read_batches(file))
        [{'text': 'good; really', 'score': '0,9', '__row__': 'reviews.csv, line 2'}]
    """
    if on_bad_row not in ("error", "skip") or batch_rows < 1:
        given = f"on_bad_row={on_bad_row!r} and batch_rows={batch_rows}"
        raise ValueError(f"on_bad_row must be error or skip, and batch_rows >= 1, got {given}")
    path = Path(path).expanduser()
    form = "detect" if str(path) == "-" else _format_of(path)
    _check_options(form, delimiter, encoding)
    bad = _BadRows("stdin" if str(path) == "-" else path.name, skip=on_bad_row == "skip")
    if form == "parquet":
        rows = _parquet_rows(path, batch_rows, bad.name)
    else:
        rows = _text_rows(path, form, delimiter, encoding, bad)
    return _batches(rows, batch_rows, bad)


def column_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns of some rows, without ``__row__``.

    A row of a jsonl may omit empty columns, so a column exists if any row has it.
    """
    return [name for name in dict.fromkeys(chain.from_iterable(rows)) if name != ROW]


class _BadRows:
    """Raises an error at the first bad row, or counts the bad rows for one warning."""

    def __init__(self, name: str, *, skip: bool) -> None:
        self.name = name
        self._skip = skip
        self.count = 0
        self.first = ""

    def add(self, where: str, fault: str, fix: str) -> None:
        if not self._skip:
            raise ValueError(f"{self.name}, {where}: {fault}; {fix}, or set on_bad_row=skip")
        self.count += 1
        self.first = self.first or f"{where}: {fault}"


class _Lines:
    """Physical lines of a text, with line number and first fault of the current record.

    A record is a row of the table; in csv, a quoted field may extend it over several lines.
    """

    def __init__(self, text: TextIO, name: str, encoding: str) -> None:
        self._text = text
        self._name = name
        self._encoding = encoding
        self.number = 0  # number of the last line read
        self.cut = False  # True if the text ended inside a record
        self.begin()

    def begin(self) -> None:
        """Start a record."""
        self._taken = 0  # lines of the record so far
        self.fault: tuple[str, str] | None = None  # place and description

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(_MAX_CHARS)
        # surrogateescape covers bytes of most encodings, but not truncated UTF-16, and the decoder
        # cannot continue. The line is approximate because decoding is buffered.
        except UnicodeDecodeError as error:
            where = f"{self._name}, near line {self.number + 1}"
            raise ValueError(f"{where}: {error}; {_ENCODING_FIX}") from None
        if not line:
            self.cut = self._taken > 0
            raise StopIteration
        self.number += 1
        self._taken += 1
        if len(line) == _MAX_CHARS:
            raise ValueError(
                f"{self._name}, line {self.number}: longer than {_MAX_CHARS} characters"
            )
        if self.number == 1:
            # utf-8 and utf-16-le, if given, decode the byte order mark as a character.
            line = line.removeprefix("\ufeff")
        if "\0" in line:
            self.fault = self.fault or (f"line {self.number}", "a NUL byte (0x00)")
        elif not line.isascii() and (found := _ESCAPED.search(line)):
            # surrogateescape maps the byte 0xNN to U+DCNN.
            byte = f"the byte 0x{ord(found.group()) - 0xDC00:02x} is not valid {self._encoding}"
            self.fault = self.fault or (f"line {self.number}", byte)
        return line


def _batches(rows: Iterator[Row], size: int, bad: _BadRows) -> Iterator[list[Row]]:
    total = 0
    while batch := list(islice(rows, size)):
        total += len(batch)
        yield batch
    # The warning comes last, with the final number: the file is read only once.
    skipped = f"skipped {bad.count} bad row(s), the first at {bad.first}"
    if total == 0:
        raise ValueError(f"{bad.name} has no rows{f'; {skipped}' if bad.count else ''}")
    if bad.count:
        log.warning("%s: %s", bad.name, skipped)


def _format_of(path: Path) -> str:
    folder, allowed = path.parent, ", ".join(SUFFIXES)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
        choices = f"choose one of its files: {', '.join(inside[:5])}"
        if not inside:
            choices = f"it has no file with one of the extensions {allowed}"
        raise IsADirectoryError(f"{path} is a folder, not a file; {choices}")
    if not path.exists():
        near = did_you_mean(closest(path.name, os.listdir(folder) if folder.is_dir() else []))
        raise FileNotFoundError(f"no file {path.name!r} in {folder.absolute()}{near}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown extension {path.suffix!r}; allowed: {allowed}")
    return SUFFIXES[path.suffix.lower()]


def _check_options(form: str, delimiter: str | None, encoding: str | None) -> None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(
            f"delimiter must be one character other than quote and line end, got {delimiter!r}"
        )
    if delimiter is not None and form in ("jsonl", "parquet"):
        raise ValueError(f"{form} has no delimiter, got {delimiter!r}; remove delimiter")
    if encoding is not None and form == "parquet":
        raise ValueError(f"parquet has its own encoding, got {encoding!r}; remove encoding")
    try:
        # Not b"": Python decodes empty bytes without looking up the encoding. And not
        # codecs.lookup, which also knows encodings that are not of text, such as hex.
        b"a".decode(encoding or "utf-8", "replace")
    except LookupError:
        near = did_you_mean(closest(str(encoding), ["utf-8", "utf-16", "latin-1", *_CODE_PAGES]))
        raise ValueError(f"unknown encoding {encoding!r}{near}") from None


@contextmanager
def _bytes_of(path: Path) -> Iterator[Any]:
    if str(path) != "-":
        with path.open("rb", buffering=_SAMPLE_BYTES) as stream:
            yield stream
        return
    if not hasattr(sys.stdin, "buffer"):
        raise ValueError("standard input is closed or not binary; pass a file instead of -")
    stream = io.BufferedReader(sys.stdin.buffer, _SAMPLE_BYTES)  # type: ignore[type-var]
    try:
        yield stream
    finally:
        stream.detach()  # else the garbage collection of stream closes standard input


def _text_rows(
    path: Path, form: str, delimiter: str | None, encoding: str | None, bad: _BadRows
) -> Iterator[Row]:
    with _bytes_of(path) as stream:
        head = stream.peek(_SAMPLE_BYTES)
        if len(head) >= _SAMPLE_BYTES:  # the last line of the sample is incomplete
            head = head[: head.rfind(b"\n") + 1] or head
        for magic, kind in _BINARY.items():
            if head.startswith(magic):
                raise ValueError(
                    f"{bad.name} is {kind}, not text; save it as csv, or correct its extension"
                )
        encoding = encoding or _detect_encoding(head, bad.name)
        sample = head.decode(encoding, "replace").removeprefix("\ufeff")
        if form == "detect":
            form = "csv" if delimiter or not sample.lstrip().startswith("{") else "jsonl"
        # surrogateescape keeps undecodable bytes, so that they can be reported with their line.
        # newline="" leaves line ends to the csv module, as its documentation requires.
        text = io.TextIOWrapper(stream, encoding, "surrogateescape", newline="")
        lines = _Lines(text, bad.name, encoding)
        try:
            if form == "jsonl":
                yield from _json_rows(lines, bad)
            else:
                yield from _csv_rows(lines, sample, form == "tsv", delimiter, bad)
        finally:
            text.detach()  # closing the stream is left to _bytes_of


def _detect_encoding(head: bytes, name: str) -> str:
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    # Western text in UTF-16 has a zero in each pair of bytes; other encodings have none.
    if head.count(0) > len(head) / 5:
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    text = head.decode("utf-8", "surrogateescape")
    stray = len(_ESCAPED.findall(text))
    # Text in another encoding rarely has even one valid multi-byte sequence of UTF-8. If at least
    # half of the characters beyond ASCII are valid, the file is UTF-8 with damaged bytes.
    is_utf8 = stray <= sum(ord(char) > 127 for char in text) - stray
    detected = None if is_utf8 else _detect_code_page(head)
    if detected is None:
        return "utf-8"  # each stray byte is then a bad row, reported with its line
    log.warning(
        "%s is not UTF-8, reading it as %s; if this is wrong, %s", name, detected, _ENCODING_FIX
    )
    return detected


def _detect_code_page(head: bytes) -> str | None:
    from charset_normalizer import from_bytes  # imported late: most files are UTF-8

    best = from_bytes(head, cp_isolation=_CODE_PAGES).best()
    if best is not None and len({char for char in str(best) if ord(char) > 127}) >= 6:
        return best.encoding
    # Fewer different characters fit almost every code page. Then only Western text is accepted.
    signs = {char for char in head.decode("cp1252", "replace") if ord(char) > 127}
    return "cp1252" if signs <= _WESTERN else None


def _json_rows(lines: _Lines, bad: _BadRows) -> Iterator[Row]:
    for where, line in _records(lines, lines, bad.name):
        row = None if lines.fault else _json_object(line)
        if lines.fault:
            bad.add(*lines.fault, _ENCODING_FIX)
        elif isinstance(row, str):
            bad.add(where, row, "write one JSON object per line")
        elif row is not None:
            yield row | {ROW: f"{bad.name}, {where}"}


def _json_object(line: str) -> Row | str | None:
    """Return the object in a line, a str with the fault of the line, or None for a blank line."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
        # JSON may escape a single surrogate, which no encoding can write. Encoding every row again
        # would be slow, so only lines with such an escape are checked.
        if "\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "unpaired surrogate (half a character)"
    except (ValueError, RecursionError) as error:
        return f"invalid JSON ({error})"
    if not isinstance(row, dict):
        return f"a JSON object is needed, got {type(row).__name__}"
    return f"the key {ROW} is reserved; rename it" if ROW in row else row


def _csv_rows(
    lines: _Lines, sample: str, is_tsv: bool, delimiter: str | None, bad: _BadRows
) -> Iterator[Row]:
    head = io.StringIO(sample, newline="").readlines()
    if csv.field_size_limit() < _MAX_CHARS:
        csv.field_size_limit(_MAX_CHARS)  # the default of 131,072 is below the length of some texts
    delimiter = delimiter or _detect_delimiter(head, prefer="\t" if is_tsv else "")
    by = "" if delimiter == _NO_DELIMITER else f" at delimiter {delimiter!r}"
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if _is_quoted(head, delimiter) else csv.QUOTE_NONE
    header: list[str] = []
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    for where, fields in _records(reader, lines, bad.name):
        if not fields:  # a blank line
            continue
        if lines.fault and not header:
            # Without a header no row can be read, also with on_bad_row=skip.
            raise ValueError(f"{bad.name}, {': '.join(lines.fault)}; {_ENCODING_FIX}")
        if lines.fault:
            bad.add(*lines.fault, _ENCODING_FIX)
        elif not header:
            header = _header(fields, bad.name)
        elif len(fields) != len(header):
            given = f"{len(fields)} field(s){by}, but the header has {len(header)} column(s)"
            bad.add(where, given, "quote texts that contain the delimiter")
        else:
            yield dict(zip(header, fields, strict=True)) | {ROW: f"{bad.name}, {where}"}
    if not header:
        raise ValueError(f"{bad.name} is empty: it has no header")


def _records(reader: Iterator[Any], lines: _Lines, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the records of ``reader``, each with the place of its first line."""
    while True:
        lines.begin()
        where = f"line {lines.number + 1}"
        try:
            record = next(reader, None)
        except csv.Error:
            # A field over the size limit: an open quote has taken in the rest of the file.
            lines.cut = True
        if lines.cut:
            raise ValueError(
                f"{name}, {where}: a quote is opened and never closed; close it, or write it twice "
                "if it is part of the text"
            )
        if record is None:
            return
        yield where, record


def _header(fields: Sequence[str], name: str) -> list[str]:
    # Spaces after a delimiter, as in "text, label", are not part of a name.
    header = [field.strip() for field in fields]
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: column names repeat: {repeated} of {header}; rename them")
    if ROW in header:
        raise ValueError(f"{name}: the column name {ROW} is reserved; rename it")
    return header


def _detect_delimiter(head: Sequence[str], *, prefer: str) -> str:
    fits: dict[str, tuple[bool, float, int]] = {}
    for delimiter in DELIMITERS:
        widths = [len(fields) for fields in csv.reader(head, delimiter=delimiter) if fields]
        if widths and widths[0] > 1:
            agree = widths.count(widths[0]) / len(widths)  # fraction of rows as wide as the header
            fits[delimiter] = (delimiter == prefer, agree, widths[0])
    return max(fits, key=lambda delimiter: fits[delimiter], default=_NO_DELIMITER)


def _is_quoted(head: Sequence[str], delimiter: str) -> bool:
    """Return True if a quote at the beginning of a field quotes it, and is not part of the text."""
    # In strict mode, text after a closing quote is an error: '"Great" she said'.
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
        used = head[start : reader.line_num]  # lines of the record
        # A record with a quote at the beginning of a field counts as proper if it is as wide as
        # the header.
        if any(line.startswith('"') or f'{delimiter}"' in line for line in used):
            proper, stray = proper + (len(fields) == width), stray + (len(fields) != width)


def _parquet_rows(path: Path, batch_rows: int, name: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # By default, pyarrow reads whole row groups, and a file may be a single one.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            _header(file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=batch_rows):
                for row in batch.to_pylist():
                    number += 1
                    yield row | {ROW: f"{name}, row {number}"}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not valid parquet after row {number}: {error}") from error
