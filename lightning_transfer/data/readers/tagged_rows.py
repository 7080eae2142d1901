"""Check tagged sentences one by one, before anything is learned from them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import Rows, Table, read_columns, report_bad, text_fault
from lightning_transfer.data.splits.splitter import SPLITS
from lightning_transfer.data.tag_spec import TagSpec, detect_scheme, fault, stray_entity, to_bio
from lightning_transfer.utils import Labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedRows(Rows):
    """The good sentences of a table; ``texts`` are their words joined, ``targets`` their tags.

    Args:
        words: Words of each row.
    """

    words: list[list[str]]


def check_tagged_rows(
    table: Table, spec: TagSpec, columns: Columns, *, where: str, on_bad_row: str
) -> TaggedRows:
    """Return the good sentences of ``table``.

    Args:
        table: Columns ``text`` (a list of words) and ``label`` (a list of tags); optionally
            ``group``, ``split``, ``row`` (where the sentence is), ``lines`` (the line of each word)
            and ``fault`` (what is known to be wrong with a sentence, or None).
        spec: What the tags are.
        columns: What the columns are called where they came from, for messages.
        where: What the table is called in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, a row is bad and ``on_bad_row`` is ``error``, or no good
            row or fewer than two tags are left. A row is bad if it has no words or not as many
            tags, a word is empty, a tag unknown, or the tags break the rules of their scheme.
    """
    data = read_columns(table, where)
    count = len(data["text"])
    places = data.get("row") or [f"{where}, row {row}" for row in range(1, count + 1)]
    bad = _BadTaggedRows(data, places)
    written = _read(data, spec, columns, bad)
    scheme = _scheme(written, spec, where)
    read = _in_bio(written, scheme, bad, detected=spec.scheme is None)
    try:
        labels = spec.found(read.values())
    except ValueError as error:
        report_bad(bad.told, count, where, on_bad_row)
        raise ValueError(f"{where}, column {columns.label!r}: {error}") from None
    targets = _targets(read, spec, labels, bad)
    report_bad(bad.told, count, where, on_bad_row)
    words = [list(data["text"][row]) for row in targets]
    return TaggedRows(
        labels=labels,
        texts=[" ".join(sentence) for sentence in words],
        targets=list(targets.values()),
        places=[places[row] for row in targets],
        pairs=None,
        groups=_groups(data, list(targets)),
        given=[data["split"][row] for row in targets] if "split" in data else None,
        words=words,
    )


class _BadTaggedRows:
    """What is wrong with which row, and where that is."""

    def __init__(self, data: Mapping[str, Sequence[Any]], places: Sequence[str]) -> None:
        self._data = data
        self._places = places
        self._found: dict[int, str] = {}

    @property
    def told(self) -> list[str]:
        """Place and fault of each bad row, in order."""
        return [self._found[row] for row in sorted(self._found)]

    def add(self, row: int, what: str, *, word: int | None = None) -> None:
        """Note a fault of a row, or of one of its words."""
        place = self._places[row]
        if word is not None:
            what = f"word {word + 1}, {self._data['text'][row][word]!r}: {what}"
            if "lines" in self._data:
                place = f"{place.rpartition(', line ')[0]}, line {self._data['lines'][row][word]}"
        self._found[row] = f"{place}, {what}"


def _read(
    data: Mapping[str, Sequence[Any]], spec: TagSpec, columns: Columns, bad: _BadTaggedRows
) -> dict[int, list[str]]:
    """Return row -> its tags as they are written, of rows that are whole."""
    found = {}
    for row in range(len(data["text"])):
        try:
            found[row] = _tags(data, row, spec, columns)
        except ValueError as error:
            bad.add(row, str(error))
    return found


def _scheme(written: Mapping[int, Sequence[str]], spec: TagSpec, where: str) -> str:
    scheme = spec.scheme or detect_scheme(list(written.values()))
    if spec.scheme is None and scheme != "bio":
        learned = "as they are" if scheme == "plain" else "as bio"
        said = "%s: the tags are read as %s, and learned %s; set label.scheme if they are not"
        rank_zero_only(log.info)(said, where, scheme, learned)
    return scheme


def _in_bio(
    written: Mapping[int, Sequence[str]], scheme: str, bad: _BadTaggedRows, *, detected: bool
) -> dict[int, list[str]]:
    """Return row -> its tags in BIO, of rows that keep to the scheme."""
    found = {}
    for row, tags in written.items():
        broken = fault(tags, scheme)
        if scheme == "plain" and detected:
            broken = stray_entity(tags)
        if broken:
            bad.add(row, broken[1], word=broken[0])
        else:
            found[row] = to_bio(tags, scheme)
    return found


def _targets(
    read: Mapping[int, Sequence[str]], spec: TagSpec, labels: Labels, bad: _BadTaggedRows
) -> dict[int, list[int]]:
    """Return row -> the output of each tag, of rows whose tags are all known."""
    found = {}
    for row, tags in read.items():
        targets: list[int] = []
        try:
            for tag in tags:
                targets.append(spec.position(tag, labels))
        except ValueError as error:
            bad.add(row, str(error), word=len(targets))
        else:
            found[row] = targets
    return found


def _groups(data: Mapping[str, Sequence[Any]], good: list[int]) -> list[str | None] | None:
    if "group" not in data:
        return None
    groups = [data["group"][row] for row in good]
    return [None if group in (None, "") else str(group) for group in groups]


def _tags(
    data: Mapping[str, Sequence[Any]], row: int, spec: TagSpec, columns: Columns
) -> list[str]:
    """Return the tags of one row, after ``values``.

    Raises:
        ValueError: If the row is bad.
    """
    if "fault" in data and data["fault"][row]:
        raise ValueError(data["fault"][row])
    words, tags = data["text"][row], data["label"][row]
    if found := words_fault(words):
        raise ValueError(f"column {columns.text!r}: {found}")
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ValueError(f"column {columns.label!r}: a list of tags is needed, got {tags!r}")
    if len(tags) != len(words):
        raise ValueError(f"{len(words)} words have {len(tags)} tags")
    if "split" in data and data["split"][row] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {data['split'][row]!r}")
    values = spec.values or {}
    return [str(values.get(tag, tag)) for tag in tags]


def words_fault(words: object) -> str | None:
    """Return what makes a cell unfit to be the words of a sentence, or None."""
    if not isinstance(words, list):
        return f"a list of words is needed, got {words!r}"
    if not words:
        return "no words"
    for number, word in enumerate(words, start=1):
        if found := text_fault(word):
            return f"word {number}: {found}"
    return None
