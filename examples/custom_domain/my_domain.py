"""A domain of your own: comments of the guests of a café."""

import csv
from pathlib import Path

from datasets import Dataset

from lightning_transfer.data import Columns, LabelSpec, TextDataModule


class CafeComments(TextDataModule):
    """Comments on visits to a café, with one to five stars, written for this example.

    Stars become ratings in [-4, 4], the scale of the packaged domains, so that a head that has
    learned from them can be kept. Comments on one visit stay in one split.
    """

    default_columns = Columns(text="comment", label="stars", group="visit")
    default_label = LabelSpec(
        "regression", names=("negative", "neutral", "positive"), cutoffs=(-0.5, 0.5)
    )

    def load_rows(self) -> Dataset:
        """Return the rows of the csv file: all that a domain has to write.

        Raises:
            FileNotFoundError: If ``source`` is no file.
        """
        path = self.source_path or Path("cafe.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return Dataset.from_dict(
            {
                "text": [row["comment"] for row in rows],
                "label": [_rating(row["stars"]) for row in rows],
                "group": [row["visit"] for row in rows],
                "row": [f"{path.name}, line {line}" for line in range(2, len(rows) + 2)],
            }
        )


def _rating(stars: str) -> float | None:
    """Turn ``4/5`` into 2.0; what cannot be read becomes None, which is reported with its line."""
    given, slash, out_of = stars.partition("/")
    if not slash or not given.isdigit() or out_of != "5":
        return None
    return 2.0 * (int(given) - 3)
