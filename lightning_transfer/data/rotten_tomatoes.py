"""Rotten Tomatoes sentences."""

from lightning_transfer.data.combined_reviews import POLARITY, read_reviews
from lightning_transfer.data.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule


class RottenTomatoes(TextDataModule):
    """8,530 sentences from movie reviews on Rotten Tomatoes, negative or positive.

    Almost all of them are also in ``MovieSnippets``: never train on one and test on the other.

    Without ``source`` the packaged csv is read, with it one of the same columns: ``text``,
    ``label`` (0, 1), ``source`` (``rotten_tomatoes``).

    Reference: Pang and Lee, "Seeing Stars: Exploiting Class Relationships for Sentiment
    Categorization with respect to Rating Scales", ACL 2005, arXiv:cs/0506075.
    """

    default_label = POLARITY

    def load_rows(self) -> Table:
        """Return the rows whose source is Rotten Tomatoes."""
        return read_reviews(self.source_path, "rotten_tomatoes", self.columns)
