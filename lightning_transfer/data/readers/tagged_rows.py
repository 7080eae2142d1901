"""Checks of sentences with tagged words, before they are split or tokenized."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import (
    Rows,
    Table,
    read_columns,
    report_bad,
    row_groups,
    row_places,
    split_fault,
    text_fault,
)
from lightning_transfer.data.tag_spec import (
    TagSpec,
    detect_scheme,
    find_stray_entity,
    find_violation,
    to_bio,
)
from lightning_transfer.utils import Labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedRows(Rows):
    """Good sentences of a table. ``texts`` are the joined words, ``targets`` the tags.

    Args:
        words: Words of each row.
    """

    words: list[list[str]]


def check_tagged_rows(
    table: Table, spec: TagSpec, columns: Columns, *, where: str, on_bad_row: str
) -> TaggedRows:
    """Return the good sentences of a table.

    A row is bad if it has no words, a word is empty, the numbers of words and tags differ, a tag is
    unknown, or the tags violate the rules of their scheme.

    Args:
        table: Columns ``text`` (list of words) and ``label`` (list of tags). Optional columns:
            ``group``, ``split``, ``row`` (place of the sentence), ``lines`` (line number of each
            word) and ``fault`` (fault found by the reader of the file, or ``None``).
        spec: Content of the tag column.
        columns: Column names in the source, for messages.
        where: Name of the table in messages.
        on_bad_row: ``error`` or ``skip``.

    Raises:
        ValueError: If a column is missing, a row is bad and ``on_bad_row`` is ``error``, no good
            row is left, or the good rows have fewer than two different tags.
    """
    data = read_columns(table, where)
    places = row_places(data, where)
    bad = _BadTaggedRows(data, places)
    original = _original_tags(data, spec, columns, bad)
    scheme = _scheme(original, spec, where)
    converted = _in_bio(original, scheme, bad, detected=spec.scheme is None)
    try:
        labels = spec.infer_labels(converted.values())
    except ValueError as error:
        # Too few tags may be a consequence of the bad rows, so these are reported first.
        report_bad(bad.messages, len(places), where, on_bad_row)
        raise ValueError(f"{where}, column {columns.label!r}: {error}") from None
    targets = _targets(converted, spec, labels, bad)
    report_bad(bad.messages, len(places), where, on_bad_row)
    words = [list(data["text"][row]) for row in targets]
    return TaggedRows(
        labels=labels,
        texts=[" ".join(sentence) for sentence in words],  # to find duplicate sentences
        targets=list(targets.values()),
        places=[places[row] for row in targets],
        pairs=None,
        groups=row_groups(data, list(targets)),
        given=[data["split"][row] for row in targets] if "split" in data else None,
        words=words,
    )


def words_fault(words: object) -> str | None:
    """Return the reason for rejecting a cell as a list of words, or ``None`` for a good one."""
    if not isinstance(words, list):
        return f"a list of words is needed, got {words!r}"
    if not words:
        return "no words"
    for number, word in enumerate(words, start=1):
        if found := text_fault(word):
            return f"word {number}: {found}"
    return None


class _BadTaggedRows:
    """Collects the faults of rows, found in several passes over the table."""

    def __init__(self, data: Mapping[str, Sequence[Any]], places: Sequence[str]) -> None:
        self._data = data
        self._places = places
        self._found: dict[int, str] = {}

    @property
    def messages(self) -> list[str]:
        """Place and fault of each bad row, in the order of the rows."""
        return [self._found[row] for row in sorted(self._found)]

    def add(self, row: int, fault: str, *, word: int | None = None) -> None:
        """Add the fault of a row, or of one of its words."""
        place = self._places[row]
        if word is not None:
            fault = f"word {word + 1}, {self._data['text'][row][word]!r}: {fault}"
            if "lines" in self._data:
                # The place of a sentence is its first line; the word may be on a later one.
                place = f"{place.rpartition(', line ')[0]}, line {self._data['lines'][row][word]}"
        self._found[row] = f"{place}, {fault}"


def _original_tags(
    data: Mapping[str, Sequence[Any]], spec: TagSpec, columns: Columns, bad: _BadTaggedRows
) -> dict[int, list[str]]:
    """Return row -> tags in the scheme of the data, without the bad rows."""
    found = {}
    for row in range(len(data["text"])):
        try:
            found[row] = _tags(data, row, spec, columns)
        except ValueError as error:
            bad.add(row, str(error))
    return found


def _tags(
    data: Mapping[str, Sequence[Any]], row: int, spec: TagSpec, columns: Columns
) -> list[str]:
    """Return the tags of one row, after replacement by ``TagSpec.values``.

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
        raise ValueError(f"{len(words)} words, but {len(tags)} tags")
    if "split" in data and (found := split_fault(data["split"][row])):
        raise ValueError(found)
    values = spec.values or {}
    return [str(values.get(tag, tag)) for tag in tags]


def _scheme(original: Mapping[int, Sequence[str]], spec: TagSpec, where: str) -> str:
    """Return the scheme of the tags. A detected scheme other than BIO is logged."""
    # Detected from all sentences: a single one often fits several schemes.
    scheme = spec.scheme or detect_scheme(list(original.values()))
    if spec.scheme is None and scheme != "bio":
        rank_zero_only(log.info)(
            "%s: detected tag scheme %s, tags are %s; if this is wrong, set data.label.scheme",
            where,
            scheme,
            "used unchanged" if scheme == "plain" else "converted to bio",
        )
    return scheme


def _in_bio(
    original: Mapping[int, Sequence[str]], scheme: str, bad: _BadTaggedRows, *, detected: bool
) -> dict[int, list[str]]:
    """Return row -> tags in BIO, without the rows that violate the scheme."""
    found = {}
    for row, tags in original.items():
        violation = find_violation(tags, scheme)
        # If the user chose plain, tags such as B-PER are intended.
        if scheme == "plain" and detected:
            violation = find_stray_entity(tags)
        if violation:
            bad.add(row, violation[1], word=violation[0])
        else:
            found[row] = to_bio(tags, scheme)
    return found


def _targets(
    converted: Mapping[int, Sequence[str]], spec: TagSpec, labels: Labels, bad: _BadTaggedRows
) -> dict[int, list[int]]:
    """Return row -> output position of each tag, without the rows with unknown tags."""
    found = {}
    for row, tags in converted.items():
        targets: list[int] = []
        try:
            # Not a comprehension: the position of the unknown tag is needed.
            for tag in tags:
                targets.append(spec.position(tag, labels))
        except ValueError as error:
            bad.add(row, str(error), word=len(targets))  # the first word without a target
        else:
            found[row] = targets
    return found
