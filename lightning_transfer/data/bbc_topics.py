"""BBC news by topic."""

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
        texts = list(articles.values())
        table = {
            "text": texts,
            "topic": [place.partition("/")[0] for place in articles],
            # Named by its text, or a new article would rename, and so move, those behind it.
            "story": [texts[first] for first in near_duplicate_groups(texts)],
        }
        self.columns.check(table.keys(), self.where)
        named = {ours: table[theirs] for ours, theirs in self.columns.named.items()}
        return {**named, "row": list(articles)}


def read_articles(folder: Path) -> dict[str, str]:
    """Return the articles of a folder of folders: ``<topic>/<article>.txt`` -> its text.

    Args:
        folder: Its folders are topics.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = read_text_folders([folder], form="<topic>/<article>.txt")
    return dict(zip(found["row"], found["text"], strict=True))
