"""Sentences of ACLSum papers for extractive summarization."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_transfer.data.batching.tokenized_split import TokenizedSplit
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.domains.aclsum import ASPECTS, SECTIONS, Paper, read_aclsum
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.splits.splitter import SPLITS
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokenization.token_table import TokenTable
from lightning_transfer.data.tokenization.tokens import Tokens

CONTEXTS = ("none", "position", "neighbours", "both")
"""Contexts of a sentence."""

LABELS = ("other", "highlight")
"""Label names of the sentences, in output order."""


@dataclass(frozen=True)
class Extract:
    """Settings of extractive summaries.

    Args:
        sentences: Sentences per summary, >= 1.
        context: Second text of a row: ``none``, ``position`` (the section, and the number of the
            sentence in it), ``neighbours`` (the sentences before and after it) or ``both``.
        aspect: Aspect to summarize: ``challenge``, ``approach`` or ``outcome``; ``None``: all
            three, with the three summaries of a paper joined to one reference.

    Raises:
        ValueError: If a value is out of range or unknown.
    """

    sentences: int = 3
    context: str = "position"
    aspect: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.sentences < 1:
            raise ValueError(f"extract.sentences must be >= 1, got {self.sentences}")
        if self.context not in CONTEXTS:
            raise ValueError(
                f"extract.context must be one of {', '.join(CONTEXTS)}, got {self.context!r}"
            )
        if self.aspect is not None and self.aspect not in ASPECTS:
            raise ValueError(
                f"extract.aspect must be null or one of {', '.join(ASPECTS)}, got {self.aspect!r}"
            )

    @property
    def aspects(self) -> tuple[str, ...]:
        """Aspects to summarize."""
        return ASPECTS if self.aspect is None else (self.aspect,)


@dataclass(frozen=True)
class Extraction:
    """Assignment of table rows to the sentences of documents, with reference summaries.

    Args:
        documents: Sentences of each document, in order.
        references: Reference summary of each document.
        document: Document of each row, int64 ``(rows,)``.
        position: Position of each row's sentence in its document, from 0, int64 ``(rows,)``.
        size: Sentences per summary.

    Example:
        >>> rows = np.arange(4)
        >>> extraction = Extraction(
        ...     [["a", "b", "c", "d"]], ["b d"], document=rows * 0, position=rows, size=2
        ... )
        >>> extraction.summaries(rows, np.array([0.1, 0.9, 0.2, 0.3]))
        {0: 'b d'}
    """

    documents: Sequence[Sequence[str]]
    references: Sequence[str]
    document: np.ndarray
    position: np.ndarray
    size: int

    def summaries(self, rows: np.ndarray, scores: np.ndarray) -> Mapping[int, str]:
        """Return document -> its sentences with the highest scores, in the order of the document.

        Among equal scores, earlier sentences are chosen.

        Args:
            rows: Scored rows, int64 ``(rows,)``. Documents without a scored row have no summary.
            scores: Scores of the rows, float ``(rows,)``.
        """
        # With several devices, a row may be scored twice.
        rows, first = np.unique(rows, return_index=True)
        chosen: dict[int, list[int]] = {}
        # The last key of lexsort is the primary one: by score, then by position.
        for row in rows[np.lexsort((self.position[rows], -scores[first]))]:
            places = chosen.setdefault(int(self.document[row]), [])
            if len(places) < self.size:
                places.append(int(self.position[row]))
        return {
            document: " ".join(self.documents[document][place] for place in sorted(places))
            for document, places in sorted(chosen.items())
        }


class SentenceSplit(TokenizedSplit):
    """Rows of one split with the position of each sentence in its document.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table in the split, int64 ``(rows,)``.
        targets: Target of each row of the table, int64 ``(table rows,)``.
        in_document: Position of each row of the table in its document, from 0, int64
            ``(table rows,)``.
    """

    def __init__(
        self,
        table: TokenTable,
        positions: np.ndarray,
        targets: np.ndarray,
        *,
        in_document: np.ndarray,
    ) -> None:
        """See the class."""
        super().__init__(table, positions, targets)
        self.in_document = in_document

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one or several rows as in :class:`TokenizedSplit`, with ``position``."""
        return {**super().__getitem__(index), "position": self.in_document[self.positions[index]]}


class HighlightedSentences(TextDataModule):
    """Sentences of the papers of ACLSum, with the labels ``highlight`` and ``other``.

    Annotators highlighted the sentences that are relevant for a summary. A document consists of the
    abstract, introduction and conclusion of a paper. Papers are in the splits of the authors of
    ACLSum: 100, 50 and 100 papers. Repeated sentences are dropped. A sentence in two splits, such
    as "1 ." or "b.", stays in the test or validation split only.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.

    Args:
        source: Folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; ``None``: the
            packaged files.
        extract: Size of the summaries, and context of the sentences.
        train_size: Training sentences: a count (int) or a fraction (float); ``None``: all.
        tokens: Length of a sentence with its context, and truncation of longer ones.
        batch_size: Sentences per device and batch, at most.
        max_tokens: Tokens per device and batch at most, including padding; ``None``: no limit.
    """

    # Names for messages only: load_rows builds the columns itself.
    default_columns = Columns(text_pair="context", group="paper")
    default_label = LabelSpec("single_label", names=LABELS)
    default_tokens = Tokens(max_length=128)

    def __init__(
        self,
        source: str | None = None,
        *,
        extract: Extract | None = None,
        train_size: int | float | None = None,
        tokens: Tokens | None = None,
        batch_size: int = 32,
        max_tokens: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            source,
            train_size=train_size,
            tokens=tokens,
            batch_size=batch_size,
            max_tokens=max_tokens,
        )
        self.extract = extract or Extract()
        self._papers: list[Paper] = []
        # Place of a row -> document, position in the document. Places survive the check of the
        # rows, which drops some rows.
        self._sentence_of: dict[str, tuple[int, int]] = {}
        self._extraction: Extraction | None = None  # built on first use, after the check of rows

    def load_rows(self) -> Table:
        """Return one row per sentence."""
        folder = self.source_path
        names = ("text", "label", "text_pair", "group", "split", "row")
        table: dict[str, list[Any]] = {name: [] for name in names}
        self._papers, self._sentence_of = [], {}
        for split in SPLITS:
            for paper in read_aclsum(split, folder=folder):
                document = len(self._papers)
                self._papers.append(paper)
                for section in SECTIONS:
                    # With all three aspects, a sentence is highlighted if it is relevant for one.
                    flags = [paper.highlights[aspect][section] for aspect in self.extract.aspects]
                    table["label"] += [LABELS[any(each)] for each in zip(*flags, strict=True)]
                    table["text"] += paper.sentences[section]
                    table["text_pair"] += _contexts(paper, section, self.extract.context)
                count = sum(map(len, paper.sentences.values()))
                places = [f"{paper.place}, sentence {at + 1}" for at in range(count)]
                self._sentence_of |= {place: (document, at) for at, place in enumerate(places)}
                table["row"] += places
                table["group"] += [paper.identity] * count
                table["split"] += [split] * count
        if self.extract.context == "none":
            del table["text_pair"]
        return table

    @property
    def extraction(self) -> Extraction:
        """Papers, reference summaries, and the sentence of each row.

        Raises:
            RuntimeError: If the rows are not loaded yet.
        """
        if self._extraction is None:
            if self._corpus is None:
                raise RuntimeError("the rows are not loaded yet: call setup() first")
            sentences = [self._sentence_of[place] for place in self._corpus.rows.places]
            document, position = np.array(sentences, dtype=np.int64).T  # (rows,) each
            self._extraction = Extraction(
                [sum((paper.sentences[s] for s in SECTIONS), ()) for paper in self._papers],
                [" ".join(p.summaries[a] for a in self.extract.aspects) for p in self._papers],
                document=document,
                position=position,
                size=self.extract.sentences,
            )
        return self._extraction

    def _make_split(self, split: str, table: TokenTable) -> TokenizedSplit:
        targets = self._load().rows.tensor_targets()
        in_document = self.extraction.position
        return SentenceSplit(table, self._positions(split), targets, in_document=in_document)


def _contexts(paper: Paper, section: str, context: str) -> Iterator[str]:
    """Yield the context of each sentence of a section."""
    sentences = paper.sentences[section]
    for number, _ in enumerate(sentences):
        place = f"{section} {number + 1} of {len(sentences)}"
        around = [sentences[at] for at in (number - 1, number + 1) if 0 <= at < len(sentences)]
        if context == "neighbours":
            # A section with one sentence has no neighbours, and an empty text would be a bad row.
            yield " ".join(around) or section
        else:
            yield " ".join([place, *around]) if context == "both" else place
