"""A custom domain: comments on visits to a café."""

import csv
from pathlib import Path

from datasets import Dataset

from lightning_transfer.data import Columns, LabelSpec, TextDataModule


class CafeComments(TextDataModule):
    """Comments on visits to a café with one to five stars, written for this example.

    Stars are converted to ratings in [-4, 4], the scale of the packaged domains. A head trained on
    one of these domains can then be transferred. Comments on one visit stay in one split.
    """

    default_columns = Columns(text="comment", label="stars", group="visit")
    default_label = LabelSpec(
        "regression", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5)
    )

    def load_rows(self) -> Dataset:
        """Return the rows of the csv file, the only method that a domain must have.

        Raises:
            FileNotFoundError: If ``source`` does not exist.
        """
        path = self.source_path or Path("cafe.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return Dataset.from_dict(
            {
                "text": [row["comment"] for row in rows],
                "label": [_rating(row["stars"]) for row in rows],
                "group": [row["visit"] for row in rows],
                # Line 1 is the header.
                "row": [f"{path.name}, line {line}" for line in range(2, len(rows) + 2)],
            }
        )


def _rating(stars: str) -> float | None:
    """Return the rating of some stars, 2.0 for ``4/5``; None for any other text."""
    given, slash, out_of = stars.partition("/")
    if not slash or not given.isdigit() or out_of != "5":
        return None  # the base class reports a row without a label, with its line
    return 2.0 * (int(given) - 3)
