"""BBC news articles: topics, headlines, and passages with their first words."""

from dataclasses import dataclass
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns, TargetColumns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.text_folders import read_text_folders
from lightning_transfer.data.splits.near_duplicates import near_duplicate_groups
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokenization.sentences import split_sentences
from lightning_transfer.data.tokenization.tokens import Tokens

# Passages of BbcLeads.
_PASSAGE_SENTENCES = 4
_STRIDE = 3  # sentences from the beginning of a passage to the beginning of the next one
_MAX_SENTENCES = 20  # per article, so that long articles do not dominate
_MIN_WORDS = 5  # shorter sentences are left out
_MAX_TARGET_WORDS = 12


class BbcTopics(TextDataModule):
    """2,225 BBC news articles of 2004 and 2005 with five topics. The headline is the first line.

    About a hundred articles are duplicates, and seventy more are rewritten versions with another
    headline. Articles are one story if they share at least 30 % of their sequences of five words. A
    story is in one split.

    ``source`` is a folder with ``<topic>/<article>.txt``; ``None`` selects the packaged articles.
    Columns: ``text``, ``topic``, ``story``.

    Reference: Greene and Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
    Kernel Document Clustering", ICML 2006.
    """

    default_columns = Columns(label="topic", group="story")
    default_label = LabelSpec(
        "single_label", names=("business", "entertainment", "politics", "sports", "tech")
    )
    default_tokens = Tokens(max_length=256)

    def load_rows(self) -> Table:
        """Return one row per article."""
        articles = _read_articles(self.source_path)
        table = {
            "text": [article.text for article in articles],
            "topic": [article.place.partition("/")[0] for article in articles],
            "story": [article.story for article in articles],
        }
        columns = self.columns.pick(table, self.where)
        return {**columns, "row": [article.place for article in articles]}


class BbcHeadlines(TextToText):
    """2,225 BBC news articles of 2004 and 2005 with their headlines.

    The files are those of :class:`BbcTopics`. Rewritten articles are one story, and a story is in
    one split. Columns: ``article`` (without its headline), ``headline``, ``story``.

    Reference: Greene and Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
    Kernel Document Clustering", ICML 2006.
    """

    default_columns = TargetColumns("article", "headline", group="story")
    default_tokens = Tokens(max_length=256)
    default_target_tokens = Tokens(max_length=32)

    def load_rows(self) -> Table:
        """Return one row per article.

        Raises:
            FileNotFoundError: If the source has no articles.
        """
        articles = _read_articles(self.source_path)
        table = {
            "article": [article.body for article in articles],
            "headline": [article.headline for article in articles],
            "story": [article.story for article in articles],
        }
        columns = self.columns.pick(table, self.where)
        return {**columns, "row": [article.place for article in articles]}


class BbcLeads(TextToText):
    """Passages of BBC news articles with the first words of their first sentence.

    The pairs need no annotation. They train a new decoder on top of a pretrained encoder to copy
    from its input, similar to a sequence autoencoder, before it is trained on a task with few
    pairs.

    Files and stories are those of :class:`BbcHeadlines`. Headlines are not part of the passages.
    Columns: ``passage``, ``beginning``, ``story``.

    Reference: Dai and Le, "Semi-supervised Sequence Learning", NeurIPS 2015.
    """

    default_columns = TargetColumns("passage", "beginning", group="story")
    default_tokens = Tokens(max_length=48)
    default_target_tokens = Tokens(max_length=24)

    def load_rows(self) -> Table:
        """Return one row per passage.

        Raises:
            FileNotFoundError: If the source has no articles.
        """
        table: dict[str, list[str]] = {"passage": [], "beginning": [], "story": []}
        places = []
        for article in _read_articles(self.source_path):
            for number, (passage, beginning) in enumerate(_passages(article.body), start=1):
                table["passage"].append(passage)
                table["beginning"].append(beginning)
                table["story"].append(article.story)
                places.append(f"{article.place}, passage {number}")
        return {**self.columns.pick(table, self.where), "row": places}


@dataclass(frozen=True)
class _Article:
    """An article of the BBC.

    Args:
        place: ``<topic>/<article>.txt``.
        text: Headline on the first line, then the body.
        story: Name of the story. An article and its rewritten versions have the same story.
    """

    place: str
    text: str
    story: str

    @property
    def headline(self) -> str:
        """First line of the text."""
        return self.text.partition("\n")[0].strip()

    @property
    def body(self) -> str:
        """Text without the headline."""
        return self.text.partition("\n")[2].strip()


def _read_articles(folder: Path | None) -> list[_Article]:
    """Return the articles of a folder with ``<topic>/<article>.txt``.

    Args:
        folder: The folder; ``None``: the packaged articles.

    Raises:
        FileNotFoundError: If the folder has no articles.
    """
    found = read_text_folders([folder or fetch("bbc_news")], form="<topic>/<article>.txt")
    places, texts = found["row"], found["text"]
    # A story is named by its first text. With numbers, a new article would rename later stories,
    # and so move them to other splits.
    stories = [texts[first] for first in near_duplicate_groups(texts)]
    return [_Article(*parts) for parts in zip(places, texts, stories, strict=True)]


def _passages(body: str) -> list[tuple[str, str]]:
    """Return the passages of an article, and the first words of each."""
    # Overlapping passages give more pairs: each starts within the one before it.
    sentences = [part.strip() for part in split_sentences(body)]
    sentences = [part for part in sentences if len(part.split()) >= _MIN_WORDS][:_MAX_SENTENCES]
    found = []
    for start in range(0, len(sentences), _STRIDE):
        beginning = " ".join(sentences[start].split()[:_MAX_TARGET_WORDS])
        found.append((" ".join(sentences[start : start + _PASSAGE_SENTENCES]), beginning))
    return found
