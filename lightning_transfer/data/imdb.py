"""IMDb reviews."""

from lightning_transfer.data.combined_reviews import POLARITY, read_reviews
from lightning_transfer.data.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokens import Tokens


class Imdb(TextDataModule):
    """25,000 movie reviews from IMDb, negative or positive.

    The published training half only. Reviews are long (230 words on average) and sum up at their
    end, so both ends are kept.

    Without ``source`` the packaged csv is read, with it one of the same columns: ``text``,
    ``label`` (0, 1), ``source`` (``imdb``).

    Reference: Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011.
    """

    default_label = POLARITY
    default_tokens = Tokens(max_length=256, truncation="head+tail")

    def load_rows(self) -> Table:
        """Return the rows whose source is IMDb."""
        return read_reviews(self.source_path, "imdb", self.columns)
