"""ACLSum: papers of computational linguistics with summaries and the sentences that carry them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import TargetColumns
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.table_files import ROW, Row, read_batches
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokenization.tokens import Tokens

SECTIONS = ("abstract", "introduction", "conclusion")
"""The parts of a paper that are in ACLSum, in the order in which they are read."""

ASPECTS = ("challenge", "approach", "outcome")
"""What the three summaries of a paper are about."""

_FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}


@dataclass(frozen=True)
class Paper:
    """One paper of ACLSum.

    Args:
        identity: Its id in the ACL Anthology.
        title: Its title.
        sentences: Section (one of ``SECTIONS``) to the section's sentences, in order.
        summaries: Aspect (one of ``ASPECTS``) to a summary of it in one sentence.
        highlights: Aspect to section to whether each sentence was marked as being about it.
        place: Where it was read, for messages.
    """

    identity: str
    title: str
    sentences: Mapping[str, tuple[str, ...]]
    summaries: Mapping[str, str]
    highlights: Mapping[str, Mapping[str, tuple[bool, ...]]]
    place: str

    @property
    def abstract(self) -> str:
        """The abstract as one text."""
        return " ".join(self.sentences["abstract"])


def read_aclsum(split: str, *, folder: str | Path | None = None) -> list[Paper]:
    """Return the papers of a split, as the authors of ACLSum cut it: 100, 50 and 100 papers.

    The words are separated by spaces, punctuation included, as in the published files.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.

    Args:
        split: ``train``, ``validation`` or ``test``.
        folder: Holds ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; None: the packaged ones.

    Raises:
        FileNotFoundError: If the folder lacks the file.
        ValueError: If there is no such split, or a line is no paper; the message names the line.
    """
    check_split_name(split)
    path = (Path(folder).expanduser() if folder else fetch("aclsum")) / _FILES[split]
    return [_paper(row) for batch in read_batches(path, encoding="utf-8") for row in batch]


def _paper(row: Row) -> Paper:
    place = row[ROW]
    sentences = {
        section: _sentences(_at(row, place, "sentences", section), place, section)
        for section in SECTIONS
    }
    highlights = {
        aspect: {
            section: _marks(_at(row, place, "highlights", aspect, section), place, len(texts))
            for section, texts in sentences.items()
        }
        for aspect in ASPECTS
    }
    return Paper(
        identity=_text(_at(row, place, "id"), place, "id"),
        title=_text(_at(row, place, "title"), place, "title"),
        sentences=sentences,
        summaries={a: _text(_at(row, place, "summary", a), place, a) for a in ASPECTS},
        highlights=highlights,
        place=place,
    )


def _at(row: Mapping[str, Any], place: str, *keys: str) -> Any:
    found: Any = row
    for depth, key in enumerate(keys):
        if not isinstance(found, Mapping) or key not in found:
            path = ".".join(keys[: depth + 1])
            raise ValueError(f"{place}: no {path!r}; a line of ACLSum has {', '.join(keys)}")
        found = found[key]
    return found


def _text(found: Any, place: str, name: str) -> str:
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{place}: {name} must be a text, got {found!r}")
    return found


def _sentences(found: Any, place: str, section: str) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise ValueError(f"{place}: sentences.{section} must be a list of texts, got {found!r}")
    return tuple(_text(text, place, f"sentences.{section}") for text in found)


def _marks(found: Any, place: str, count: int) -> tuple[bool, ...]:
    """Return whether each of ``count`` sentences is marked."""
    if not isinstance(found, list) or len(found) != count or set(found) - {0, 1}:
        raise ValueError(f"{place}: {count} sentences need as many marks 0 or 1, got {found!r}")
    return tuple(map(bool, found))


class PaperTitles(TextToText):
    """Abstracts of 250 papers of ACLSum, each with the paper's title; split by ACLSum's authors.

    Columns: ``title``, ``abstract``, ``introduction``, ``conclusion``, ``document`` (these three),
    and the summaries ``challenge``, ``approach`` and ``outcome``, of one sentence each. ``source``
    is a folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; None: the packaged one.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.
    """

    default_columns = TargetColumns("abstract", "title")
    default_tokens = Tokens(max_length=256)
    default_target_tokens = Tokens(max_length=48)

    def load_rows(self) -> Table:
        """Return one row for each paper."""
        names = ("title", *SECTIONS, "document", *ASPECTS, "row", "split")
        table: dict[str, list[Any]] = {name: [] for name in names}
        for split in SPLITS:
            for paper in read_aclsum(split, folder=self.source_path):
                sections = {name: " ".join(paper.sentences[name]) for name in SECTIONS}
                whole = "\n".join(sections.values())
                row = {"title": paper.title, **sections, "document": whole, **paper.summaries}
                for name, cell in {**row, "row": paper.place, "split": split}.items():
                    table[name].append(cell)
        named = self.columns.pick(table, self.where)
        return {**named, "row": table["row"], "split": table["split"]}


class PaperSummaries(PaperTitles):
    """The same papers, each with a summary of its outcome; see :class:`PaperTitles`."""

    default_columns = TargetColumns("abstract", "outcome")
    default_target_tokens = Tokens(max_length=64)
