"""Tweets."""

from lightning_transfer.data.columns import Columns
from lightning_transfer.data.hutto import SENTIMENT, read_ground_truth
from lightning_transfer.data.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule


class Tweets(TextDataModule):
    """Tweets, rated in [-4, 4].

    Without ``source`` the packaged file is read, with it a file of the same form: id, rating and
    text, tab-separated, UTF-8. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return read_ground_truth(self.source_path, "tweets_GroundTruth.txt", self.columns)
