"""Documents whose sentences are chosen for a summary, and the texts that come of it."""

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


@dataclass(frozen=True)
class Extraction:
    """Which sentences of which documents the rows of a table are, and what they are to sum up.

    Args:
        documents: Sentences of each document, in order.
        references: A summary of each document, by people.
        document: Document of each row, int64 ``(rows,)``.
        position: Place of each row's sentence in its document, from 0, int64 ``(rows,)``.
        size: Sentences of a summary.

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
        """Return document -> the sentences that score best, in the order of the document.

        Of equal scores the sentence that comes first is chosen. Documents of which no row is there
        are left out.

        Args:
            rows: Rows that were scored, int64 ``(rows,)``.
            scores: Their scores, float ``(rows,)``.
        """
        rows, first = np.unique(rows, return_index=True)  # some devices may score a row twice
        chosen: dict[int, list[int]] = {}
        for row in rows[np.lexsort((self.position[rows], -scores[first]))]:
            places = chosen.setdefault(int(self.document[row]), [])
            if len(places) < self.size:
                places.append(int(self.position[row]))
        return {
            document: " ".join(self.documents[document][place] for place in sorted(places))
            for document, places in sorted(chosen.items())
        }


CONTEXTS = ("none", "position", "neighbours", "both")


@dataclass(frozen=True)
class Extract:
    """How papers are summed up by their own sentences.

    Args:
        sentences: Sentences of a summary, at least 1.
        context: What a sentence is read with: ``none``, ``position`` (its section, and its number
            among how many), ``neighbours`` (the sentences before and behind it) or ``both``.
        aspect: ``challenge``, ``approach`` or ``outcome``: what the summary is about; None: all
            three, with the three summaries of a paper as one reference.

    Raises:
        ValueError: If a value is not one of those allowed.
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
                f"extract.aspect must be one of {', '.join(ASPECTS)} or null, got {self.aspect!r}"
            )

    @property
    def aspects(self) -> tuple[str, ...]:
        """The aspects that count."""
        return ASPECTS if self.aspect is None else (self.aspect,)


LABELS = ("other", "highlight")
"""What a sentence is: label names in output order."""


class PlacedSplit(TokenizedSplit):
    """Rows of one split with the place of each sentence in its document.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table that belong to the split, int64 ``(rows,)``.
        targets: Target of each row of the table.
        places: Place of each row of the table in its document, int64 ``(table rows,)``.
    """

    def __init__(
        self, table: TokenTable, positions: np.ndarray, targets: np.ndarray, *, places: np.ndarray
    ) -> None:
        """See the class."""
        super().__init__(table, positions, targets)
        self.places = places

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one row or several, as a :class:`TokenizedSplit`, with ``position``."""
        return {**super().__getitem__(index), "position": self.places[self.positions[index]]}


class HighlightedSentences(TextDataModule):
    """The sentences of ACLSum's papers, ``highlight`` where people marked them, else ``other``.

    A paper's abstract, introduction and conclusion are its document. Papers lie in the splits that
    the authors of ACLSum gave them, 100, 50 and 100; a sentence that is there twice is there once,
    and one that papers of two splits have ("1 .", "b.") is left to the test or validation papers.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.

    Args:
        source: A folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; None: the packaged
            ones.
        extract: How many sentences make a summary, and what each is read with.
        train_size: Training sentences: a count (int) or a fraction (float); None: all.
        tokens: Length of a sentence with its context, and how longer ones are cut.
        batch_size: Sentences per device and batch, at most.
        max_tokens: Tokens per device and batch at most, padding counted.
    """

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
        self._placed: dict[str, tuple[int, int]] = {}  # document and position of a row's place
        self._extraction: Extraction | None = None

    def load_rows(self) -> Table:
        """Return one row for each sentence."""
        folder = self.source_path
        names = ("text", "label", "text_pair", "group", "split", "row")
        table: dict[str, list[Any]] = {name: [] for name in names}
        self._papers, self._placed = [], {}
        for split in SPLITS:
            for paper in read_aclsum(split, folder=folder):
                document = len(self._papers)
                self._papers.append(paper)
                for section in SECTIONS:
                    marks = [paper.highlights[aspect][section] for aspect in self.extract.aspects]
                    table["label"] += [LABELS[any(each)] for each in zip(*marks, strict=True)]
                    table["text"] += paper.sentences[section]
                    table["text_pair"] += _contexts(paper, section, self.extract.context)
                count = sum(map(len, paper.sentences.values()))
                places = [f"{paper.place}, sentence {at + 1}" for at in range(count)]
                self._placed |= {place: (document, at) for at, place in enumerate(places)}
                table["row"] += places
                table["group"] += [paper.identity] * count
                table["split"] += [split] * count
        if self.extract.context == "none":
            del table["text_pair"]
        return table

    @property
    def extraction(self) -> Extraction:
        """The papers, their references, and which sentence of which each row is.

        Raises:
            RuntimeError: If the rows are not loaded yet.
        """
        if self._extraction is None:
            if self._corpus is None:
                raise RuntimeError("the rows are not loaded yet: call setup() first")
            placed = [self._placed[place] for place in self._corpus.rows.places]
            document, position = np.array(placed, dtype=np.int64).T
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
        places = self.extraction.position
        return PlacedSplit(table, self._positions(split), targets, places=places)


def _contexts(paper: Paper, section: str, context: str) -> Iterator[str]:
    """Yield what each sentence of a section is read with."""
    sentences = paper.sentences[section]
    for number, _ in enumerate(sentences):
        place = f"{section} {number + 1} of {len(sentences)}"
        around = [sentences[at] for at in (number - 1, number + 1) if 0 <= at < len(sentences)]
        if context == "neighbours":
            yield " ".join(around) or section
        else:
            yield " ".join([place, *around]) if context == "both" else place
