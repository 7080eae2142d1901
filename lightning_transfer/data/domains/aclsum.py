"""ACLSum: papers of computational linguistics with summaries and highlighted sentences."""

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
"""Sections of a paper in ACLSum, in the order of the paper."""

ASPECTS = ("challenge", "approach", "outcome")
"""Aspects of a paper, with one summary each."""

# Split -> published file.
_FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}


@dataclass(frozen=True)
class Paper:
    """One paper of ACLSum.

    Args:
        identity: Id in the ACL Anthology.
        title: Title of the paper.
        sentences: Section (one of ``SECTIONS``) -> its sentences, in order.
        summaries: Aspect (one of ``ASPECTS``) -> its summary in one sentence.
        highlights: Aspect -> section -> True for each sentence marked as relevant for the aspect.
        place: File and line, for messages.
    """

    identity: str
    title: str
    sentences: Mapping[str, tuple[str, ...]]
    summaries: Mapping[str, str]
    highlights: Mapping[str, Mapping[str, tuple[bool, ...]]]
    place: str

    @property
    def abstract(self) -> str:
        """Abstract as one text."""
        return " ".join(self.sentences["abstract"])


def read_aclsum(split: str, *, folder: str | Path | None = None) -> list[Paper]:
    """Return the papers of a split of the authors: 100, 50 and 100 papers.

    Words and punctuation are separated by spaces, as in the published files.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.

    Args:
        split: ``train``, ``validation`` or ``test``.
        folder: Folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; ``None``: the
            packaged files.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If the split is unknown, or a line is not a paper. The message has the line.
    """
    check_split_name(split)
    path = (Path(folder).expanduser() if folder else fetch("aclsum")) / _FILES[split]
    # The encoding is known, so it is not detected from a sample.
    return [_paper(row) for batch in read_batches(path, encoding="utf-8") for row in batch]


def _paper(row: Row) -> Paper:
    place = row[ROW]
    sentences = {
        section: _sentences(_at(row, place, "sentences", section), place, section)
        for section in SECTIONS
    }
    highlights = {
        aspect: {
            section: _flags(_at(row, place, "highlights", aspect, section), place, len(texts))
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
    """Return the value at nested keys."""
    found: Any = row
    for depth, key in enumerate(keys):
        if not isinstance(found, Mapping) or key not in found:
            path = ".".join(keys[: depth + 1])
            raise ValueError(f"{place}: key {path!r} is missing; each line of ACLSum has it")
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


def _flags(found: Any, place: str, count: int) -> tuple[bool, ...]:
    """Return the highlights of ``count`` sentences."""
    # True equals 1, so booleans pass too.
    if not isinstance(found, list) or len(found) != count or set(found) - {0, 1}:
        raise ValueError(
            f"{place}: highlights must be a list of {count} values 0 or 1, one per sentence, got "
            f"{found!r}"
        )
    return tuple(map(bool, found))


class PaperTitles(TextToText):
    """Abstracts of the 250 papers of ACLSum with the titles of the papers, in the authors' splits.

    ``source`` is a folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; ``None`` selects
    the packaged files. Columns: ``title``, ``abstract``, ``introduction``, ``conclusion``,
    ``document`` (all three sections), and the summaries ``challenge``, ``approach`` and
    ``outcome``, one sentence each.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.
    """

    default_columns = TargetColumns("abstract", "title")
    default_tokens = Tokens(max_length=256)
    default_target_tokens = Tokens(max_length=48)

    def load_rows(self) -> Table:
        """Return one row per paper."""
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
    """Abstracts of the 250 papers of ACLSum with summaries of their outcome.

    Source, columns and splits are those of :class:`PaperTitles`.
    """

    default_columns = TargetColumns("abstract", "outcome")
    default_target_tokens = Tokens(max_length=64)
