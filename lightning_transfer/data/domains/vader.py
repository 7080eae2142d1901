"""Read the rated texts of Hutto & Gilbert (2014), four domains in one form."""

import html
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule

SENTIMENT = LabelSpec("regression", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5))
"""Mean of 20 human ratings in [-4, 4]; the bands are ours, for accuracy and F1."""


def read_ground_truth(source: Path | None, name: str, columns: Columns) -> Table:
    """Return the rows of one ``*_GroundTruth.txt``: id, rating and text, tab-separated.

    Args:
        source: A file of that form; ``None``: the packaged one.
        name: Name of the packaged file.
        columns: Which of ``id``, ``article`` (the first part of an id such as ``12_3``),
            ``rating`` and ``text`` is what.

    Returns:
        ``text``, ``label``, ``row`` and, if ``columns`` names one, ``group``.

    Raises:
        FileNotFoundError: If ``source`` is no file.
        ValueError: If the file is not UTF-8 or lacks a column.
    """
    path = source or fetch("vader") / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; set source to a file, or leave it out")
    table: dict[str, list[str | None]] = {"id": [], "article": [], "rating": [], "text": []}
    places = []
    # The texts hold lone quotes, so this is no csv; and only a newline ends a row.
    for number, line in enumerate(path.read_bytes().rstrip().split(b"\n"), start=1):
        places.append(f"{path.name}, line {number}")
        try:
            cells = line.decode("utf-8-sig").rstrip("\r").split("\t", 2)
        except UnicodeDecodeError as error:
            raise ValueError(f"{places[-1]}: {error}; the file must be UTF-8") from None
        # A short line becomes a row without text, which the check of the rows reports.
        identity, rating, text = cells if len(cells) == 3 else (cells[0], None, None)
        table["id"].append(identity)
        table["article"].append(identity.split("_")[0])
        table["rating"].append(rating)
        table["text"].append(None if text is None else html.unescape(text))
    return {**columns.pick(table, path.name), "row": places}


class News(TextDataModule):
    """Sentences of 500 New York Times editorials, rated in [-4, 4]; split by editorial.

    Without ``source`` the packaged file is read, with it a file of the same form: id, rating and
    text, tab-separated, UTF-8. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating", group="article")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return read_ground_truth(
            self.source_path, "nytEditorialSnippets_GroundTruth.txt", self.columns
        )


class MovieSnippets(TextDataModule):
    """Sentences from movie reviews (rotten.tomatoes.com), rated in [-4, 4].

    Four in five of them are also in ``RottenTomatoes``: never train on one and test on the other.

    Without ``source`` the packaged file is read, with it a file of the same form: id, rating and
    text, tab-separated, UTF-8. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return read_ground_truth(
            self.source_path, "movieReviewSnippets_GroundTruth.txt", self.columns
        )


class Products(TextDataModule):
    """Sentences of 309 Amazon product reviews, rated in [-4, 4]; split by review.

    Without ``source`` the packaged file is read, with it a file of the same form: id, rating and
    text, tab-separated, UTF-8. Columns: ``id``, ``article``, ``rating``, ``text``.

    Reference: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
    of Social Media Text", ICWSM 2014.
    """

    default_columns = Columns(label="rating", group="article")
    default_label = SENTIMENT

    def load_rows(self) -> Table:
        """Return the rows of the file."""
        return read_ground_truth(
            self.source_path, "amazonReviewSnippets_GroundTruth.txt", self.columns
        )


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
