"""Tagged sentences in CoNLL's form: a word a line, a blank line between sentences."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import name_of, split_files
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

    A line holds a word and its columns, divided by tabs, if most lines have one, or by spaces; a
    blank line ends a sentence. ``-DOCSTART-`` begins a document. ``source`` is one file; or a
    folder that holds ``train.conll`` and, if they exist, ``validation.conll`` (``valid``, ``val``,
    ``dev``) and ``test.conll`` (also ``.conllu``, ``.iob``, ``.iob2``, ``.bio``, ``.txt``,
    ``.tsv``); or a mapping of ``train``, ``validation``, ``test`` to files, in UTF-8.

    A line that begins with ``#`` is a comment before a sentence, if it has another number of
    columns than the others, or is ``# …`` with a tag that no other line has; inside of one, if it
    is ``# …`` and its spaces are not those between columns. Else it is a word.

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
            ValueError: If a file is not UTF-8 or has no such columns, words and tags would be one
                column, or ``columns`` asks for what CoNLL files do not have.
        """
        if self.columns.group not in (None, "document") or self.columns.text_pair is not None:
            raise ValueError(
                "columns.group of a CoNLL file is document or null, and columns.text_pair null; "
                f"got {self.columns.group!r} and {self.columns.text_pair!r}"
            )
        names = ("text", "label", "row", "lines", "split", "fault", "group")
        table: dict[str, list[Any]] = {name: [] for name in names}
        for split, path in split_files(self.source, SUFFIXES).items():
            word, tag, sentences = _read(path, self.columns)
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


@dataclass(frozen=True)
class _Form:
    """How the lines of a file are written."""

    tab: bool
    width: int

    @classmethod
    def of(cls, path: Path, lines: Sequence[str]) -> "_Form":
        words = [line for line in lines if line.strip() and not line.startswith(("#", _DOCUMENT))]
        if not words:
            raise ValueError(f"{path.name} holds no sentence")
        tab = 2 * sum("\t" in line for line in words) > len(words)
        widths = Counter(len(cls(tab, 0).fields(line)) for line in words)
        return cls(tab, widths.most_common(1)[0][0])

    def fields(self, line: str) -> list[str]:
        """Return the columns of a line."""
        if self.tab:
            return [field.strip(" ") for field in line.split("\t")]
        return [field for field in line.split(" ") if field]

    def column(self, name: str, where: str) -> int:
        """Return the place of a column from 0, given its number from either end.

        Raises:
            ValueError: If it is no number or there is no such column.
        """
        try:
            number = int(name)
        except ValueError:
            number = self.width
        if not -self.width <= number < self.width:
            raise ValueError(
                f"{where} must be the number of a column, 0 to {self.width - 1} or -1 to "
                f"-{self.width}, got {name!r}"
            )
        return number % self.width

    def fault(self, fields: Sequence[str], number: int) -> str | None:
        """Return what is wrong with the columns of a line, or None."""
        if len(fields) == self.width:
            return None
        by = "tabs" if self.tab else "spaces"
        return f"line {number} has {len(fields)} column(s) between {by}, the file {self.width}"

    def is_remark(self, line: str, fields: Sequence[str]) -> bool:
        """Whether a line inside of a sentence is a comment."""
        apart = len(fields) == 1 if self.tab else len(fields) > self.width
        return line.startswith("# ") and apart


def _read(path: Path, columns: Columns) -> tuple[int, int, list[_Sentence]]:
    """Return the columns of words and tags of a file, and its sentences."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; set source to a CoNLL file or a folder of them")
    lines = _lines(path)
    form = _Form.of(path, lines)
    word = form.column(columns.text, f"{path.name}: columns.text")
    tag = form.column(columns.label, f"{path.name}: columns.label")
    if word == tag:
        raise ValueError(
            f"{path.name}: columns.text={columns.text} and columns.label={columns.label} are one "
            f"column of {form.width}; set columns.label to the column of the tags"
        )
    return word, tag, list(_sentences(lines, form, tag))


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


def _sentences(lines: Sequence[str], form: _Form, tag: int) -> Iterator[_Sentence]:
    document = 0
    found = _Sentence(document)
    rows = [form.fields(line) for line in lines]
    tags = _tags(lines, rows, form, tag)
    for number, (line, fields) in enumerate(zip(lines, rows, strict=True), start=1):
        begins = fields[:1] == [_DOCUMENT]
        if begins or not line.strip():
            if found.lines:
                yield found
            document += begins
            found = _Sentence(document)
            continue
        fault = form.fault(fields, number)
        if line.startswith("#"):
            before = fault or (fields[0] == "#" and fields[tag] not in tags)
            if form.is_remark(line, fields) if found.lines else before:
                continue
        if form.width == _CONLL_U and _NO_WORD.fullmatch(fields[0]):
            continue
        found.fields.append(fields)
        found.lines.append(number)
        found.fault = found.fault or fault
    if found.lines:
        yield found


def _tags(
    lines: Sequence[str], rows: Sequence[Sequence[str]], form: _Form, tag: int
) -> frozenset[str]:
    """Return the tags of the lines that are words for sure, not comments before a sentence."""
    behind = ["", *lines]  # the line before each
    return frozenset(
        fields[tag]
        for before, fields in zip(behind, rows, strict=False)
        if len(fields) == form.width
        and (fields[0] != "#" or not (before.startswith("#") or not before.strip()))
    )
