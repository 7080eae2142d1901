"""Tags for the words of new texts, from a trained task: in memory, or file to file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lightning_transfer.data.readers.rows import text_fault
from lightning_transfer.data.readers.tagged_rows import words_fault
from lightning_transfer.data.tokenization.token_table import TokenTable
from lightning_transfer.data.tokenization.word_tokens import tokenize_windows
from lightning_transfer.inference.predictor import Predictor


@dataclass(frozen=True)
class Entity:
    """Words that make up one entity.

    Args:
        kind: What it is, such as ``PER``.
        text: Its words, joined by spaces.
        start: Its first word, counted from 0.
        end: The word behind its last.
    """

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TaggedWords:
    """What a model says about the words of one text.

    Args:
        words: The words.
        tags: The likeliest tag of each.
        scores: Its probability in [0, 1].
        entities: Those that the tags make up, in order; none if the tags are no entity tags.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...]
    entities: tuple[Entity, ...]

    def __str__(self) -> str:
        """Return a line for each word: word, tag and score, and an empty one."""
        rows = zip(self.words, self.tags, self.scores, strict=True)
        return "".join(f"{word}\t{tag}\t{score:.4f}\n" for word, tag, score in rows)


class Tagger(Predictor):
    """Tags the words of texts with a trained task.

    A text is split into words at white space; a list is taken for words as it is. A text too long
    for the model is read in parts, cut between words, so that every word has a tag.
    ``predict_file`` adds the columns ``words``, ``tags`` (lists; JSON in csv) and ``entities``,
    such as ``PER: Ada Lovelace; LOC: London``.

    Args:
        task: See :class:`Predictor`, as for the rest; one that tags words.
        tokenizer: A fast one.
        tokens: Length of the parts.
        batch_size: Parts per batch at most.
        max_tokens: Tokens per batch at most, padding counted.
        device: A device of torch, or ``auto``.
    """

    added: ClassVar[tuple[str, ...]] = ("words", "tags", "entities")
    kinds: ClassVar[tuple[str, ...]] = ("tags",)

    def predict(  # type: ignore[override]
        self, texts: Sequence[str | list[str]], pairs: None = None
    ) -> list[TaggedWords]:
        """Tag the words of each text, in the order given.

        Args:
            texts: Texts, or lists of words.
            pairs: There are none.

        Raises:
            TypeError: If one string is passed in place of a list.
            ValueError: If a text or a word is empty, or pairs are given.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts, got one string; write [text]")
        if pairs is not None:
            raise ValueError("words of pairs are not tagged; leave pairs out")
        for place, text in enumerate(texts):
            if fault := self._fault(text):
                raise ValueError(f"texts[{place}]: {fault}")
        return self._predict(texts, None)

    def _nothing(self, suffix: str) -> tuple[Any, ...]:
        return None, None, None

    def _cells(self, said: Any) -> tuple[Any, ...]:
        told = "; ".join(f"{entity.kind}: {entity.text}" for entity in said.entities)
        return list(said.words), list(said.tags), told

    def _fault(self, text: object) -> str | None:
        return words_fault(text) if isinstance(text, list) else text_fault(text)

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        if pairs is not None:
            raise ValueError("words of pairs are not tagged; leave text_pair out")
        if not texts:
            return []
        sentences = [text.split() if isinstance(text, str) else text for text in texts]
        table = tokenize_windows(sentences, tokenizer=self.tokenizer, tokens=self.tokens)
        scores = self._word_scores(table)  # (words, tags)
        begins = np.cumsum([len(words) for words in sentences])[:-1]
        return [
            self._tagged(words, of_words)
            for words, of_words in zip(sentences, np.split(scores, begins), strict=True)
        ]

    def _word_scores(self, table: TokenTable) -> np.ndarray:
        """Return the scores of all words in order, float32 (words, tags)."""
        assert table.words is not None
        by_row: dict[int, np.ndarray] = {}
        for rows, scores in self._scores(table):
            for row, of_tokens in zip(rows, scores, strict=True):
                words = table.words[table.starts[row] : table.starts[row + 1]]  # (seq,)
                by_row[row] = of_tokens[: len(words)][words >= 0]  # (words, tags)
        return np.concatenate([by_row[row] for row in range(len(table))])

    def _tagged(self, words: Sequence[str], scores: np.ndarray) -> TaggedWords:
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the model's output for {' '.join(words)[:40]!r} is no number; its training "
                "diverged or its weights are damaged"
            )
        best = scores.argmax(axis=-1)
        tags = tuple(self.task.labels.names[tag] for tag in best)
        likely = tuple(float(str(score)) for score in scores.max(axis=-1))
        return TaggedWords(tuple(words), tags, likely, tuple(_entities(words, tags)))


def _entities(words: Sequence[str], tags: Sequence[str]) -> Iterator[Entity]:
    if not all(tag == "O" or tag.startswith(("B-", "I-")) for tag in tags):
        return
    # scikit-learn is slow to import
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    for kind, first, last in get_entities(list(tags)):
        yield Entity(kind, " ".join(words[first : last + 1]), first, last + 1)
