"""Where raw text comes from: documents, one after another, never all at once."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from lightning_transfer.data.readers.rows import text_fault
from lightning_transfer.data.readers.table_files import ROW, SUFFIXES, read_batches
from lightning_transfer.data.splits.split_spec import normalize


@dataclass(frozen=True)
class Document:
    """A text that belongs together: a review, an article, a chapter.

    Args:
        text: The text, not empty.
        group: Documents of one group stay in one split; ``None``: its own text is its group.
    """

    text: str
    group: str | None = None

    @property
    def key(self) -> int:
        """A number that texts share if they differ in case, spaces or signs only, in [0, 2^64)."""
        return _number(normalize(self.text))

    @property
    def group_key(self) -> int:
        """A number of the group, in [0, 2^64)."""
        return self.key if self.group is None else _number(f"group:{self.group}")


@runtime_checkable
class Documents(Protocol):
    """A source of documents that can be gone through more than once."""

    @property
    def where(self) -> str:
        """Name of the source in messages."""
        ...

    def digest(self) -> str:
        """Return a hash of all that the documents follow from; equal digests, equal documents."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents, in the same order each time."""
        ...


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


Unit = Literal["blank_line", "line", "file"]
_MAX_CHARS = 1 << 22  # a longer document is cut here, or it would have to fit into memory


class FileDocuments:
    r"""Documents from ``.txt``, ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` files.

    Never more than one document of a text file, or one batch of rows of a table, is in memory. A
    document of more than 4 million characters goes on as another one.

    Args:
        source: A file, or a folder whose files of these formats are taken in the order of their
            names.
        column: Of a table: the column of the text.
        group: Of a table: the column that says which documents belong together; ``None``: none.
        unit: Where a document of a ``.txt`` ends: at a ``blank_line``, at the end of each ``line``
            or at the end of the ``file``.
        encoding: Of the files; ``None``: UTF-8 for ``.txt``, detected for tables.
        on_bad_row: ``error``, or ``skip`` to leave out rows of a table without a text.

    Raises:
        ValueError: If ``unit`` or ``on_bad_row`` is not one of those allowed.

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
        """Return a hash of the files' bytes and of how they are read."""
        options = (self.column, self.group, self.unit, self.encoding, self.on_bad_row)
        state = hashlib.sha256(repr(options).encode())
        for path in self._paths():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            state.update(path.suffix.lower().encode() + content)
        return state.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents of all files.

        Raises:
            FileNotFoundError: If there is no source or no such file, or the folder is empty.
            ValueError: If a file is of another encoding, a column is missing or a row is bad.
        """
        for path in self._paths():
            if path.suffix.lower() == ".txt":
                yield from self._of_text(path)
            else:
                yield from self._of_table(path)

    def _paths(self) -> list[Path]:
        allowed = ", ".join(SUFFIXES)
        if self.source is None:
            raise FileNotFoundError(
                f"no file given; set documents.source to a file ({allowed}) or a folder of files"
            )
        path = Path(self.source).expanduser()
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise FileNotFoundError(
                f"no file or folder {path}; set documents.source to a file ({allowed}) or a folder"
            )
        found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not found:
            raise FileNotFoundError(f"the folder {path} holds none of {allowed}")
        return found

    def _of_text(self, path: Path) -> Iterator[Document]:
        lines: list[str] = []
        size, begins = 0, True
        with path.open(encoding=self.encoding or "utf-8-sig") as file:
            try:
                while line := file.readline(_MAX_CHARS):
                    if begins:  # a byte order mark stays in it where the encoding is stated
                        line, begins = line.removeprefix("\ufeff"), False
                    ends = self.unit == "line" or (self.unit == "blank_line" and not line.strip())
                    lines.append(line)
                    size += len(line)
                    if ends or size >= _MAX_CHARS:
                        yield from _document(lines)
                        lines, size = [], 0
            except UnicodeError as error:  # of a UTF-16 without its mark it is no DecodeError
                raise ValueError(f"{path.name}: {error}; set documents.encoding") from None
        yield from _document(lines)

    def _of_table(self, path: Path) -> Iterator[Document]:
        batches = read_batches(path, encoding=self.encoding, on_bad_row=self.on_bad_row)
        first = next(batches, [])
        there = dict.fromkeys(itertools.chain.from_iterable(first))
        for column in (self.column, self.group):
            if column is not None and column not in there:
                names = ", ".join(name for name in there if name != ROW)
                raise ValueError(
                    f"{path.name}: no column {column!r}, it has {names}; set documents.column or "
                    "documents.group"
                )
        for row in itertools.chain(first, itertools.chain.from_iterable(batches)):
            text = row.get(self.column)
            if fault := text_fault(text):
                if self.on_bad_row == "error":
                    raise ValueError(
                        f"{row[ROW]}, column {self.column!r}: {fault}; mend the data or set "
                        "documents.on_bad_row=skip"
                    )
                continue
            group = None if self.group is None else row.get(self.group)
            yield Document(str(text), None if group in (None, "") else str(group))


def _document(lines: list[str]) -> Iterator[Document]:
    text = "".join(lines).strip()
    if text_fault(text) is None:
        yield Document(text)
