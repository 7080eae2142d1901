"""Texts of four domains with sentiment ratings, published by Hutto and Gilbert (2014)."""

import html
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule

SENTIMENT = LabelSpec("regression", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5))
"""Mean of 20 human ratings in [-4, 4]. The bins are ours, for accuracy and F1."""


class News(TextDataModule):
    """Sentences of 500 New York Times editorials, rated in [-4, 4] and split by editorial.

    ``source`` is a UTF-8 file with tab-separated id, rating and text; ``None`` selects the packaged
    file. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating", group="article")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return _read_ratings(self.source_path, "nytEditorialSnippets_GroundTruth.txt", self.columns)


class MovieSnippets(TextDataModule):
    """Sentences of movie reviews (rotten.tomatoes.com), rated in [-4, 4].

    80 % of them are also in :class:`RottenTomatoes`. Do not train on one and test on the other.

    ``source`` is a UTF-8 file with tab-separated id, rating and text; ``None`` selects the packaged
    file. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    # No group: the ids number the sentences, and nothing identifies their reviews.
    default_columns = Columns(label="rating")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return _read_ratings(self.source_path, "movieReviewSnippets_GroundTruth.txt", self.columns)


class Products(TextDataModule):
    """Sentences of 309 Amazon product reviews, rated in [-4, 4] and split by review.

    ``source`` is a UTF-8 file with tab-separated id, rating and text; ``None`` selects the packaged
    file. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating", group="article")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return _read_ratings(self.source_path, "amazonReviewSnippets_GroundTruth.txt", self.columns)


class Tweets(TextDataModule):
    """Tweets, rated in [-4, 4].

    ``source`` is a UTF-8 file with tab-separated id, rating and text; ``None`` selects the packaged
    file. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return _read_ratings(self.source_path, "tweets_GroundTruth.txt", self.columns)


def _read_ratings(source: Path | None, packaged: str, columns: Columns) -> Table:
    """Return the rows of a ``*_GroundTruth.txt`` file: id, rating and text, separated by tabs.

    Args:
        source: A file of this form; ``None``: the packaged file.
        packaged: Name of the packaged file.
        columns: Names among ``id``, ``article`` (first part of an id such as ``12_3``), ``rating``
            and ``text``.

    Returns:
        Columns ``text``, ``label``, ``row`` and, if ``columns`` has one, ``group``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not UTF-8, or a column is missing.
    """
    path = source or fetch("vader") / packaged
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; set data.source to a file, or to null for the packaged file"
        )
    table: dict[str, list[str | None]] = {"id": [], "article": [], "rating": [], "text": []}
    places = []
    # Not the csv module: the texts contain unpaired quotes. Not splitlines: it also splits at
    # characters within the texts.
    for number, line in enumerate(path.read_bytes().rstrip().split(b"\n"), start=1):
        places.append(f"{path.name}, line {number}")
        try:
            cells = line.decode("utf-8-sig").rstrip("\r").split("\t", 2)
        except UnicodeDecodeError as error:
            raise ValueError(f"{places[-1]}: {error}; save the file as UTF-8") from None
        # An incomplete line becomes a row without text, reported by the check of the rows.
        identity, rating, text = cells if len(cells) == 3 else (cells[0], None, None)
        table["id"].append(identity)
        table["article"].append(identity.split("_")[0])
        table["rating"].append(rating)
        table["text"].append(None if text is None else html.unescape(text))
    return {**columns.pick(table, path.name), "row": places}
