"""Documents for pretraining: the protocol of a source, and a reader of files."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from lightning_transfer.data.readers.rows import group_name, text_fault
from lightning_transfer.data.readers.table_files import (
    ROW,
    SUFFIXES,
    column_names,
    read_batches,
)
from lightning_transfer.data.splits.split_spec import normalize

Unit = Literal["blank_line", "line", "file"]

_MAX_CHARS = 1 << 22  # a longer document is divided here, so that it fits into memory


@dataclass(frozen=True)
class Document:
    """A coherent text: a review, an article, a chapter.

    Args:
        text: The text, not empty.
        group: Documents of a group stay in one split; ``None``: the document is a group by itself.
    """

    text: str
    group: str | None = None

    @property
    def key(self) -> int:
        """Hash of the normalised text, in [0, 2^64). Duplicates have the same key."""
        return _hash(normalize(self.text))

    @property
    def group_key(self) -> int:
        """Hash of the group, in [0, 2^64)."""
        return self.key if self.group is None else _hash(f"group:{self.group}")


@runtime_checkable
class Documents(Protocol):
    """Source of documents, iterable more than once."""

    @property
    def where(self) -> str:
        """Name of the source in messages."""
        ...

    def digest(self) -> str:
        """Return a hash of the documents. Sources with equal digests have equal documents."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents, in the same order each time."""
        ...


class FileDocuments:
    r"""Documents from ``.txt``, ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` files.

    Memory holds one document of a text file, or one batch of rows of a table, at a time. A document
    of more than 4 million characters is divided into several ones.

    Args:
        source: A file, or a folder. Files of these formats in a folder are read in alphabetical
            order.
        column: For tables: column with the text.
        group: For tables: column with the group of a document; ``None``: no groups.
        unit: For ``.txt``: end of a document, a ``blank_line``, the end of each ``line``, or the
            end of the ``file``.
        encoding: Encoding of the files; ``None``: UTF-8 for ``.txt``, detected for tables.
        on_bad_row: ``error``, or ``skip`` to leave out the rows of a table without text.

    Raises:
        ValueError: If ``unit`` or ``on_bad_row`` is unknown.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "book.txt"
        >>> _ = path.write_text("One.\nStill one.\n\nTwo.\n")
        >>> [document.text for document in FileDocuments(path)]
        ['One.\nStill one.', 'Two.']
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        column: str = "text",
        group: str | None = None,
        unit: Unit = "blank_line",
        encoding: str | None = None,
        on_bad_row: str = "error",
    ) -> None:
        """See the class."""
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row must be error or skip, got {on_bad_row!r}")
        self.source = source
        self.column = column
        self.group = group
        self.unit: Unit = unit
        self.encoding = encoding
        self.on_bad_row = on_bad_row

    @property
    def where(self) -> str:
        """Name of the file or folder."""
        return "no file" if self.source is None else Path(self.source).name

    def digest(self) -> str:
        """Return a hash of the content of the files and of all options."""
        options = (self.column, self.group, self.unit, self.encoding, self.on_bad_row)
        state = hashlib.sha256(repr(options).encode())
        for path in self._paths():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            # The extension selects the reader, so the same bytes may give other documents.
            state.update(path.suffix.lower().encode() + content)
        return state.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents of all files.

        Raises:
            FileNotFoundError: If there is no source, the file does not exist, or the folder has no
                file of a known format.
            ValueError: If a file has another encoding, a column is missing, or a row is bad.
        """
        for path in self._paths():
            if path.suffix.lower() == ".txt":
                yield from self._text_documents(path)
            else:
                yield from self._table_documents(path)

    def _paths(self) -> list[Path]:
        formats = ", ".join(SUFFIXES)
        if self.source is None:
            raise FileNotFoundError(
                f"no file given; set data.documents.source to a file ({formats}) or a folder of "
                "files"
            )
        path = Path(self.source).expanduser()
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise FileNotFoundError(
                f"no file or folder {path}; set data.documents.source to a file ({formats}) or a "
                "folder"
            )
        found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not found:
            raise FileNotFoundError(f"the folder {path} has no file of the formats {formats}")
        return found

    def _text_documents(self, path: Path) -> Iterator[Document]:
        lines: list[str] = []
        size, begins = 0, True  # characters in lines; beginning of the file
        with path.open(encoding=self.encoding or "utf-8-sig") as file:
            try:
                # The limit also bounds a single line, in a file without line ends.
                while line := file.readline(_MAX_CHARS):
                    # Only utf-8-sig removes the byte order mark; a given utf-8 keeps it.
                    if begins:
                        line, begins = line.removeprefix("\ufeff"), False
                    ends = self.unit == "line" or (self.unit == "blank_line" and not line.strip())
                    lines.append(line)
                    size += len(line)
                    if ends or size >= _MAX_CHARS:
                        yield from _document(lines)
                        lines, size = [], 0
            # Not UnicodeDecodeError: UTF-16 without a byte order mark raises a plain UnicodeError.
            except UnicodeError as error:
                raise ValueError(
                    f"{path.name}: {error}; set data.documents.encoding to the encoding of the file"
                ) from None
        yield from _document(lines)

    def _table_documents(self, path: Path) -> Iterator[Document]:
        batches = read_batches(path, encoding=self.encoding, on_bad_row=self.on_bad_row)
        # Columns are checked once, on the first batch.
        first = next(batches, [])
        available = column_names(first)
        for option, column in (("column", self.column), ("group", self.group)):
            if column is not None and column not in available:
                raise ValueError(
                    f"{path.name}: no column {column!r}; set data.documents.{option} to one of "
                    f"{', '.join(available)}"
                )
        for row in itertools.chain(first, itertools.chain.from_iterable(batches)):
            text = row.get(self.column)
            if fault := text_fault(text):
                if self.on_bad_row == "error":
                    raise ValueError(
                        f"{row[ROW]}, column {self.column!r}: {fault}; correct the data or set "
                        "data.documents.on_bad_row=skip"
                    )
                continue
            group = None if self.group is None else group_name(row.get(self.group))
            yield Document(str(text), group)


def _document(lines: list[str]) -> Iterator[Document]:
    """Yield a document of these lines, or nothing if they have no text."""
    text = "".join(lines).strip()
    if text_fault(text) is None:
        yield Document(text)


def _hash(text: str) -> int:
    # Not hash(): Python randomises the hash of a string in each process.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
