"""Check tagged sentences one by one, before anything is learned from them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.rows import Rows, Table, read_columns, report_bad, text_fault
from lightning_transfer.data.splitter import SPLITS
from lightning_transfer.data.tag_scheme import detect_scheme, fault, to_bio
from lightning_transfer.data.tag_spec import TagSpec

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
    places = data.get("row") or [f"{where}, row {row}" for row in range(1, len(data["text"]) + 1)]
    faults: dict[int, str] = {}
    read: dict[int, list[str]] = {}
    for row in range(len(places)):
        try:
            read[row] = _tags(data, row, spec, columns)
        except ValueError as error:
            faults[row] = _placed(data, places, row, None, str(error))
    scheme = spec.scheme or detect_scheme(list(read.values()))
    if spec.scheme is None and scheme in ("iob1", "iobes"):
        said = "%s: the tags are read as %s, and learned as bio; set label.scheme if they are not"
        rank_zero_only(log.info)(said, where, scheme)
    for row, tags in list(read.items()):
        if found := fault(tags, scheme):
            faults[row] = _placed(data, places, row, *found)
            del read[row]
    read = {row: to_bio(tags, scheme) for row, tags in read.items()}
    try:
        labels = spec.found(read.values())
    except ValueError as error:
        report_bad(list(faults.values()), len(places), where, on_bad_row)
        raise ValueError(f"{where}, column {columns.label!r}: {error}") from None
    targets: dict[int, list[int]] = {}
    for row, tags in read.items():
        for place, tag in enumerate(tags):
            try:
                targets.setdefault(row, []).append(spec.position(tag, labels))
            except ValueError as error:
                faults[row] = _placed(data, places, row, place, str(error))
                break
    report_bad([faults[row] for row in sorted(faults)], len(places), where, on_bad_row)
    good = [row for row in read if row not in faults]
    words = [list(data["text"][row]) for row in good]
    return TaggedRows(
        labels=labels,
        texts=[" ".join(sentence) for sentence in words],
        targets=[targets[row] for row in good],
        places=[places[row] for row in good],
        pairs=None,
        groups=_groups(data, good),
        given=[data["split"][row] for row in good] if "split" in data else None,
        words=words,
    )


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


def _placed(
    data: Mapping[str, Sequence[Any]],
    places: Sequence[str],
    row: int,
    word: int | None,
    what: str,
) -> str:
    """Return a fault with the place of the word, or of the sentence."""
    if word is None:
        return f"{places[row]}, {what}"
    told = f"word {word + 1}, {data['text'][row][word]!r}: {what}"
    if "lines" not in data:
        return f"{places[row]}, {told}"
    return f"{places[row].rpartition(', line ')[0]}, line {data['lines'][row][word]}, {told}"
