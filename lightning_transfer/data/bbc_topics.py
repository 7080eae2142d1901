"""BBC news by topic."""

from dataclasses import dataclass
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.near_duplicates import near_duplicate_groups
from lightning_transfer.data.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_folders import read_text_folders
from lightning_transfer.data.tokens import Tokens


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
        "names", names=("business", "entertainment", "politics", "sports", "tech")
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
