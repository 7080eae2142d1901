"""Tagging of words with a trained task, in memory or from file to file."""

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
    """An entity of one or more words.

    Args:
        kind: Type of the entity, such as ``PER``.
        text: Its words, joined by spaces.
        start: Position of its first word, from 0.
        end: Position after its last word.
    """

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TaggedWords:
    """Predicted tags of the words of one text.

    Args:
        words: Words of the text.
        tags: Most probable tag of each word.
        scores: Probability of each tag, in [0, 1].
        entities: Entities of the tags, in text order; empty if the tags are not entity tags.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...]
    entities: tuple[Entity, ...]

    def __str__(self) -> str:
        """Return one line per word with word, tag and score, and an empty line."""
        rows = zip(self.words, self.tags, self.scores, strict=True)
        return "".join(f"{word}\t{tag}\t{score:.4f}\n" for word, tag, score in rows)


class Tagger(Predictor):
    """Predicts a tag for each word of a text.

    A text is split into words at white space; a list is used as words without change.
    ``predict_file`` adds the columns ``words`` and ``tags`` (lists; JSON in csv) and ``entities``,
    such as ``PER: Ada Lovelace; LOC: London``.

    Args:
        task: A trained task with labels of kind ``tags``; it is moved to ``device``.
        tokenizer: The tokenizer of the training; a fast one.
        tokens: Maximum number of tokens of a text; longer texts are split between words into
            several parts, so that each word gets a tag.
        batch_size: Maximum number of parts per batch, >= 1.
        max_tokens: Maximum number of tokens per batch, padding included; None for no limit.
        device: A torch device such as ``cpu``, or ``auto`` for a CUDA GPU if there is one.
    """

    added_columns: ClassVar[tuple[str, ...]] = ("words", "tags", "entities")
    label_kinds: ClassVar[tuple[str, ...]] = ("tags",)

    def predict(  # type: ignore[override]
        self, texts: Sequence[str | list[str]], pairs: None = None
    ) -> list[TaggedWords]:
        """Predict the tags of the words of each text, in input order.

        Args:
            texts: Texts, or lists of words.
            pairs: Not supported; must be None.

        Raises:
            TypeError: If ``texts`` is one string and not a list.
            ValueError: If a text or a word is empty or not a string, ``pairs`` is given, or an
                output of the model is NaN or infinite.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts, got one string; pass [text]")
        if pairs is not None:
            raise ValueError("Tagger predicts tags of single texts, got pairs; remove pairs")
        for place, text in enumerate(texts):
            if fault := self._fault(text):
                raise ValueError(f"texts[{place}]: {fault}")
        return self._predict(texts, None)

    def _empty_cells(self, suffix: str) -> tuple[Any, ...]:
        return None, None, None

    def _cells(self, prediction: Any) -> tuple[Any, ...]:
        entities = "; ".join(f"{entity.kind}: {entity.text}" for entity in prediction.entities)
        return list(prediction.words), list(prediction.tags), entities

    def _fault(self, text: object) -> str | None:
        return words_fault(text) if isinstance(text, list) else text_fault(text)

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        if pairs is not None:
            raise ValueError("Tagger predicts tags of single texts, got pairs; remove text_pair")
        if not texts:
            return []
        sentences = [text.split() if isinstance(text, str) else text for text in texts]
        table = tokenize_windows(sentences, tokenizer=self.tokenizer, tokens=self.tokens)
        scores = self._word_scores(table)  # (words, tags)
        starts = np.cumsum([len(words) for words in sentences])[:-1]
        return [
            self._to_tagged_words(words, word_scores)
            for words, word_scores in zip(sentences, np.split(scores, starts), strict=True)
        ]

    def _word_scores(self, table: TokenTable) -> np.ndarray:
        """Return the scores of all words of all texts in order, float32 (words, tags)."""
        assert table.words is not None
        by_row: dict[int, np.ndarray] = {}
        for rows, scores in self._scores(table):
            for row, token_scores in zip(rows, scores, strict=True):
                # Index of the word for the first token of a word, negative for all other tokens.
                words = table.words[table.starts[row] : table.starts[row + 1]]  # (seq,)
                by_row[row] = token_scores[: len(words)][words >= 0]  # (words, tags)
        return np.concatenate([by_row[row] for row in range(len(table))])

    def _to_tagged_words(self, words: Sequence[str], scores: np.ndarray) -> TaggedWords:
        if not np.isfinite(scores).all():
            raise ValueError(
                f"output of the model for {' '.join(words)[:40]!r} is not finite; the training "
                "diverged or the weights are damaged"
            )
        best = scores.argmax(axis=-1)
        tags = tuple(self.task.labels.names[tag] for tag in best)
        # The shortest decimal of a float32: 0.1 and not 0.10000000149011612.
        best_scores = tuple(float(str(score)) for score in scores.max(axis=-1))
        return TaggedWords(tuple(words), tags, best_scores, tuple(_entities(words, tags)))


def _entities(words: Sequence[str], tags: Sequence[str]) -> Iterator[Entity]:
    # Tags such as parts of speech mark no entities.
    if not all(tag == "O" or tag.startswith(("B-", "I-")) for tag in tags):
        return
    # Imported here, because seqeval imports scikit-learn, which is slow.
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

    for kind, first, last in get_entities(list(tags)):
        yield Entity(kind, " ".join(words[first : last + 1]), first, last + 1)
