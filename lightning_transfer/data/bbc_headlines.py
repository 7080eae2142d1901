"""BBC news articles and their headlines."""

from lightning_transfer.assets import fetch
from lightning_transfer.data.bbc_topics import read_articles
from lightning_transfer.data.rows import Table
from lightning_transfer.data.target_columns import TargetColumns
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokens import Tokens


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
