"""BBC news by topic."""

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


class BbcTopics(TextDataModule):
    """2,225 BBC news articles of 2004 and 2005 in five topics; the headline is the first line.

    A hundred of them are there twice, and seventy more rewritten under another headline. Articles
    that share three in ten of their five-word sequences are one story, and lie in one split.

    Without ``source`` the packaged articles are read, with it a folder of folders: a folder's
    name is the topic, each ``.txt`` in it an article. Columns: ``text``, ``topic``, ``story``.

    Reference: Greene and Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
    Kernel Document Clustering", ICML 2006.
    """

    default_columns = Columns(label="topic", group="story")
    default_label = LabelSpec(
        "single_label", names=("business", "entertainment", "politics", "sports", "tech")
    )
    default_tokens = Tokens(max_length=256)

    def load_rows(self) -> Table:
        """Return one row for each article."""
        articles = read_articles(self.source_path or fetch("bbc_news"))
        table = {
            "text": [article.text for article in articles],
            "topic": [article.place.partition("/")[0] for article in articles],
            "story": [article.story for article in articles],
        }
        named = self.columns.pick(table, self.where)
        return {**named, "row": [article.place for article in articles]}


@dataclass(frozen=True)
class Article:
    """An article of the BBC.

    Args:
        place: ``<topic>/<article>.txt``.
        text: The headline on the first line, and what follows.
        story: The same for an article and for those that were rewritten from it.
    """

    place: str
    text: str
    story: str

    @property
    def headline(self) -> str:
        """The first line."""
        return self.text.partition("\n")[0].strip()

    @property
    def body(self) -> str:
        """All but the headline."""
        return self.text.partition("\n")[2].strip()


def read_articles(folder: Path) -> list[Article]:
    """Return the articles of a folder of folders.

    Args:
        folder: Its folders are topics.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = read_text_folders([folder], form="<topic>/<article>.txt")
    places, texts = found["row"], found["text"]
    # Named by its text, or a new article would rename, and so move, those behind it.
    stories = [texts[first] for first in near_duplicate_groups(texts)]
    return [Article(*parts) for parts in zip(places, texts, stories, strict=True)]


class BbcHeadlines(TextToText):
    """2,225 BBC news articles of 2004 and 2005, each with the headline that it was printed under.

    Rewritten articles are one story and lie in one split, as in :class:`BbcTopics`; the files are
    the same, and ``source`` is a folder of folders too. Columns: ``article``, without its headline,
    ``headline``, ``story``.

    Reference: Greene and Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in
    Kernel Document Clustering", ICML 2006.
    """

    default_columns = TargetColumns("article", "headline", group="story")
    default_tokens = Tokens(max_length=256)
    default_target_tokens = Tokens(max_length=32)

    def load_rows(self) -> Table:
        """Return one row for each article.

        Raises:
            FileNotFoundError: If the source holds no article.
        """
        articles = read_articles(self.source_path or fetch("bbc_news"))
        table = {
            "article": [article.body for article in articles],
            "headline": [article.headline for article in articles],
            "story": [article.story for article in articles],
        }
        named = self.columns.pick(table, self.where)
        return {**named, "row": [article.place for article in articles]}


_SENTENCES, _STEP = 4, 3  # of a passage, and from one passage's beginning to that of the next
_FIRST = 20  # sentences of an article at most: long ones do not outweigh the others
_LEAST, _MOST = 5, 12  # words of a first sentence at least, and of a beginning at most


class BbcLeads(TextToText):
    """Passages of BBC news articles, each with the first words of its first sentence.

    Nobody had to label them. A decoder that is new to an encoder learns by them to find in a text
    what it writes, as by a sequence autoencoder, before it has to learn a task from few pairs.
    Columns: ``passage``, ``beginning``, ``story``; files and stories are those of
    :class:`BbcHeadlines`, whose headlines are no part of the passages.

    Reference: Dai and Le, "Semi-supervised Sequence Learning", NeurIPS 2015.
    """

    default_columns = TargetColumns("passage", "beginning", group="story")
    default_tokens = Tokens(max_length=48)
    default_target_tokens = Tokens(max_length=24)

    def load_rows(self) -> Table:
        """Return one row for each passage.

        Raises:
            FileNotFoundError: If the source holds no article.
        """
        table: dict[str, list[str]] = {"passage": [], "beginning": [], "story": []}
        places = []
        for article in read_articles(self.source_path or fetch("bbc_news")):
            for number, (passage, beginning) in enumerate(_passages(article.body), start=1):
                table["passage"].append(passage)
                table["beginning"].append(beginning)
                table["story"].append(article.story)
                places.append(f"{article.place}, passage {number}")
        return {**self.columns.pick(table, self.where), "row": places}


def _passages(body: str) -> list[tuple[str, str]]:
    sentences = [part.strip() for part in split_sentences(body)]
    sentences = [part for part in sentences if len(part.split()) >= _LEAST][:_FIRST]
    found = []
    for start in range(0, len(sentences), _STEP):
        beginning = " ".join(sentences[start].split()[:_MOST])
        found.append((" ".join(sentences[start : start + _SENTENCES]), beginning))
    return found
