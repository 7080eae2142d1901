"""Sentences with tagged words from CoNLL files: one word per line, blank lines in between."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import source_name, split_files
from lightning_transfer.data.tagged_text import TaggedText

SUFFIXES = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".txt", ".tsv")
_DOCUMENT = "-DOCSTART-"
# Ids of CoNLL-U for contractions (1-2) and for omitted words (2.1); their lines are not words.
_SKIPPED_ID = re.compile(r"\d+[-.]\d+")
_CONLL_U_COLUMNS = 10


@dataclass
class _Sentence:
    """Lines of one sentence."""

    document: int  # number of the document, from 0
    fields: list[list[str]] = field(default_factory=list)  # columns of each word
    lines: list[int] = field(default_factory=list)  # line number of each word
    fault: str | None = None  # first fault


class Conll(TaggedText):
    r"""Sentences of CoNLL files.

    Each line has a word and its columns, separated by tabs if most lines have one, else by spaces.
    A blank line ends a sentence, and ``-DOCSTART-`` starts a document.

    ``source`` is one of the following, in UTF-8:

    - a file;
    - a folder with ``train.conll`` and optionally ``validation.conll`` (also ``valid``, ``val``,
      ``dev``) and ``test.conll``. Other extensions are ``.conllu``, ``.iob``, ``.iob2``, ``.bio``,
      ``.txt`` and ``.tsv``;
    - a mapping of ``train``, ``validation`` and ``test`` to files.

    Columns are given by their number, counted from 0, or from -1 at the end.
    ``columns.group=document`` keeps the sentences of a document in one split.

    A line with ``#`` at the beginning may be a comment or a word. Before a sentence, it is a
    comment if it has another number of columns than the other lines, or if it is ``# …`` with a tag
    of no other line. Within a sentence, it is a comment if it is ``# …`` and has no tab in a file
    with tabs, or more columns than the other lines in a file with spaces. Otherwise it is a word.

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
            FileNotFoundError: If there is no source, or a folder has no file named after a split.
            ValueError: If a file is not UTF-8, a column does not exist, words and tags are the same
                column, or ``columns`` has an unsupported group or a ``text_pair``.
        """
        if self.columns.group not in (None, "document") or self.columns.text_pair is not None:
            raise ValueError(
                "for CoNLL files, columns.group must be document or null, and columns.text_pair "
                f"must be null, got {self.columns.group!r} and {self.columns.text_pair!r}"
            )
        names = ("text", "label", "row", "lines", "split", "fault", "group")
        table: dict[str, list[Any]] = {name: [] for name in names}
        for split, path in split_files(self.source, SUFFIXES).items():
            word, tag, sentences = _read(path, self.columns)
            for found in sentences:
                # Lines of a faulty sentence may lack the columns.
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
        """Name of the data in messages: the name of the file."""
        return source_name(self.source)


@dataclass(frozen=True)
class _LineFormat:
    """Separator and number of the columns of a file."""

    tab: bool
    width: int

    @classmethod
    def detect(cls, path: Path, lines: Sequence[str]) -> "_LineFormat":
        """Return the format of most lines of a file."""
        words = [line for line in lines if line.strip() and not line.startswith(("#", _DOCUMENT))]
        if not words:
            raise ValueError(f"{path.name} has no sentences")
        # By majority, so that a single wrong line does not change the format of all others.
        tab = 2 * sum("\t" in line for line in words) > len(words)
        widths = Counter(len(cls(tab, 0).fields(line)) for line in words)
        return cls(tab, widths.most_common(1)[0][0])

    def fields(self, line: str) -> list[str]:
        """Return the columns of a line, one str each."""
        if self.tab:
            return [field.strip(" ") for field in line.split("\t")]
        return [field for field in line.split(" ") if field]

    def column(self, name: str, where: str) -> int:
        """Return the position of a column from 0.

        Args:
            name: Number of the column, from 0 or from -1 at the end.
            where: Name of the option in the message.

        Raises:
            ValueError: If the name is not a number, or the column does not exist.
        """
        try:
            number = int(name)
        except ValueError:
            number = self.width  # out of range, raises below
        if not -self.width <= number < self.width:
            raise ValueError(
                f"{where} must be a column number from 0 to {self.width - 1}, or from -1 to "
                f"-{self.width}, got {name!r}"
            )
        return number % self.width

    def fault(self, fields: Sequence[str], number: int) -> str | None:
        """Return the fault of a line with another number of columns, or None."""
        if len(fields) == self.width:
            return None
        separator = "tabs" if self.tab else "spaces"
        return (
            f"line {number} has {len(fields)} column(s) separated by {separator}, most lines have "
            f"{self.width}"
        )

    def is_comment(self, line: str, fields: Sequence[str]) -> bool:
        """Return True if a line within a sentence is a comment."""
        is_text = len(fields) == 1 if self.tab else len(fields) > self.width
        return line.startswith("# ") and is_text


def _read(path: Path, columns: Columns) -> tuple[int, int, list[_Sentence]]:
    """Return the positions of the word and tag columns of a file, and its sentences."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; set data.source to a CoNLL file or a folder of CoNLL files"
        )
    lines = _lines(path)
    form = _LineFormat.detect(path, lines)
    word = form.column(columns.text, f"{path.name}: columns.text")
    tag = form.column(columns.label, f"{path.name}: columns.label")
    if word == tag:
        raise ValueError(
            f"{path.name}: columns.text={columns.text} and columns.label={columns.label} are the "
            f"same column of {form.width}; set data.columns.label to the column of the tags"
        )
    return word, tag, list(_sentences(lines, form, tag))


def _lines(path: Path) -> list[str]:
    found = []
    # Not splitlines: it also splits at characters that occur in words, such as U+2028.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            found.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r"))
        except UnicodeDecodeError as error:
            message = f"{path.name}, line {number}: {error}; save the file as UTF-8"
            raise ValueError(message) from None
    return found


def _sentences(lines: Sequence[str], form: _LineFormat, tag: int) -> Iterator[_Sentence]:
    """Yield the sentences of a file.

    Args:
        lines: All lines of the file.
        form: Format of the lines.
        tag: Position of the tag column.
    """
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
            # Before a sentence, a comment may have as many columns as a word by chance.
            before = fault or (fields[0] == "#" and fields[tag] not in tags)
            if form.is_comment(line, fields) if found.lines else before:
                continue
        if form.width == _CONLL_U_COLUMNS and _SKIPPED_ID.fullmatch(fields[0]):
            continue
        found.fields.append(fields)
        found.lines.append(number)
        found.fault = found.fault or fault
    if found.lines:  # without a blank line at the end of the file
        yield found


def _tags(
    lines: Sequence[str], rows: Sequence[Sequence[str]], form: _LineFormat, tag: int
) -> frozenset[str]:
    """Return the tags of all lines except those that may be comments before a sentence."""
    preceding = ["", *lines]  # the line before each line
    return frozenset(
        fields[tag]
        for before, fields in zip(preceding, rows, strict=False)
        if len(fields) == form.width
        and (fields[0] != "#" or not (before.startswith("#") or not before.strip()))
    )
