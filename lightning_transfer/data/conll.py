"""Tagged sentences in CoNLL's form: a word a line, a blank line between sentences."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.rows import Table
from lightning_transfer.data.split_files import name_of, split_files
from lightning_transfer.data.tagged_text import TaggedText

SUFFIXES = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".txt", ".tsv")
_DOCUMENT = "-DOCSTART-"
_NO_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U's ids of contractions and of words left out
_CONLL_U = 10  # columns


@dataclass
class _Sentence:
    """A sentence as it is read: fields of each line, where they are, and what is wrong."""

    document: int
    fields: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    fault: str | None = None


class Conll(TaggedText):
    r"""Sentences from CoNLL files.

    A line holds a word and its columns, divided by tabs or, in a file without tabs, by spaces; a
    blank line ends a sentence. ``-DOCSTART-`` begins a document. A line that begins with ``#`` and
    has another number of columns than the others is a comment. ``source`` is one file; or a folder
    that holds ``train.conll`` and, if they exist, ``validation.conll`` (``valid``, ``val``,
    ``dev``) and ``test.conll`` (also ``.conllu``, ``.iob``, ``.iob2``, ``.bio``, ``.txt``,
    ``.tsv``); or a mapping of ``train``, ``validation``, ``test`` to files, in UTF-8.

    The columns are named by their number, from 0, or from -1 at the end; ``columns.group=document``
    keeps the sentences of a document in one split.

    Example:
        >>> import tempfile
        >>> from lightning_transfer.data import Splits
        >>> path = Path(tempfile.mkdtemp()) / "news.conll"
        >>> _ = path.write_text("Ada B-PER\nwrote O\n\nIn O\nParis B-LOC\n\nIt O\nrained O\n")
        >>> data = Conll(str(path), splits=Splits(val=0, test=1))
        >>> data.setup("test")
        >>> data.n_test, data.labels.names
        (1, ('O', 'B-LOC', 'B-PER'))
    """

    default_columns = Columns(text="0", label="-1")

    def load_rows(self) -> Table:
        """Return the sentences of all files.

        Raises:
            FileNotFoundError: If there is no source, or a folder holds no file of a known name.
            ValueError: If a file is not UTF-8 or has no such column, or ``columns`` asks for what
                CoNLL files do not have.
        """
        if self.columns.group not in (None, "document") or self.columns.text_pair is not None:
            raise ValueError(
                "columns.group of a CoNLL file is document or null, and columns.text_pair null; "
                f"got {self.columns.group!r} and {self.columns.text_pair!r}"
            )
        names = ("text", "label", "row", "lines", "split", "fault", "group")
        table: dict[str, list[Any]] = {name: [] for name in names}
        for split, path in split_files(self.source, SUFFIXES).items():
            width, sentences = _read(path)
            word, tag = (
                _column(getattr(self.columns, name), width, f"{path.name}: columns.{name}")
                for name in ("text", "label")
            )
            for found in sentences:
                good = [] if found.fault else found.fields
                table["text"].append([fields[word] for fields in good])
                table["label"].append([fields[tag] for fields in good])
                table["row"].append(f"{path.name}, line {found.lines[0]}")
                table["lines"].append(found.lines)
                table["split"].append(split)
                table["fault"].append(found.fault)
                table["group"].append(f"{path.name} {found.document}")
        if self.columns.group is None:
            del table["group"]
        return table

    @property
    def where(self) -> str:
        """Name of the data in messages: the file's name."""
        return name_of(self.source)


def _column(name: str, width: int, where: str) -> int:
    try:
        number = int(name)
    except ValueError:
        number = width
    if not -width <= number < width:
        raise ValueError(
            f"{where} must be the number of a column, 0 to {width - 1} or -1 to -{width}, got "
            f"{name!r}"
        )
    return number


def _read(path: Path) -> tuple[int, list[_Sentence]]:
    """Return the number of columns of a file and its sentences."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; set source to a CoNLL file or a folder of them")
    lines = _lines(path)
    tab = any("\t" in line for line in lines)
    rows = [line.split("\t") if tab else [f for f in line.split(" ") if f] for line in lines]
    widths = Counter(
        len(fields)
        for fields, line in zip(rows, lines, strict=True)
        if line.strip() and not line.startswith(("#", _DOCUMENT))
    )
    if not widths:
        raise ValueError(f"{path.name} holds no sentence")
    width = widths.most_common(1)[0][0]
    return width, list(_sentences(lines, rows, width))


def _lines(path: Path) -> list[str]:
    found = []
    # Only a newline ends a line: some words hold what else Python takes for one.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            found.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r"))
        except UnicodeDecodeError as error:
            message = f"{path.name}, line {number}: {error}; the file must be UTF-8"
            raise ValueError(message) from None
    return found


def _sentences(lines: Sequence[str], rows: Sequence[list[str]], width: int) -> Iterator[_Sentence]:
    document = 0
    found = _Sentence(document)
    for number, (line, fields) in enumerate(zip(lines, rows, strict=True), start=1):
        if line.startswith("#") and len(fields) != width:
            continue
        if width == _CONLL_U and _NO_WORD.fullmatch(fields[0] if fields else ""):
            continue
        begins = line.startswith(_DOCUMENT)
        if begins or not line.strip():
            if found.lines:
                yield found
            document += begins
            found = _Sentence(document)
            continue
        found.fields.append(fields)
        found.lines.append(number)
        if len(fields) != width and found.fault is None:
            found.fault = f"line {number} has {len(fields)} column(s), the file {width}"
    if found.lines:
        yield found
