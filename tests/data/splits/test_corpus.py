"""Splits of pairs and of groups."""

import logging

import pytest

from lightning_transfer.data import LabelSpec, Splits, TextDataModule
from lightning_transfer.data.splits.splitter import SPLITS

NAMES = LabelSpec("single_label", names=["no", "yes"])


def corpus(splits, **table):
    class Domain(TextDataModule):
        def load_rows(self):
            return table

    data = Domain(label=NAMES, splits=splits)
    data.setup("fit")
    return data


def splits_by_text(data, column="text"):
    """Return text of a column -> splits that contain it."""
    found = {}
    for split in SPLITS:
        for row in data.rows(split):
            found.setdefault(row[column].casefold(), set()).add(split)
    return found


def test_pairs_with_the_same_first_text_are_in_one_split():
    premises = [f"{'Premise' if row % 2 else 'premise'} {row % 20}" for row in range(100)]
    data = corpus(
        Splits(val=0.2, test=0.2),
        text=premises,
        text_pair=[f"hypothesis {row}" for row in range(100)],
        label=["no", "yes"] * 50,
    )
    found = splits_by_text(data)
    assert len(found) == 20
    assert all(len(splits) == 1 for splits in found.values())
    assert (data.n_train, data.n_val, data.n_test) == (60, 20, 20)


def test_a_second_text_may_be_in_two_splits():
    data = corpus(
        Splits(val=0, test=0.5),
        text=[f"premise {row}" for row in range(20)],
        text_pair=["it is so"] * 20,
        label=["no", "yes"] * 10,
    )
    assert (data.n_train, data.n_test) == (10, 10)


def test_given_splits_of_pairs_share_no_first_text(caplog):
    with caplog.at_level(logging.INFO):
        data = corpus(
            Splits(),
            text=["a", "b", "c", "d", "e", "A!", "B.", "c"],
            text_pair=["1", "2", "3", "4", "5", "6", "7", "8"],
            label=["no", "yes"] * 4,
            split=["train"] * 5 + ["validation", "test", "test"],
        )
    found = {split: sorted(data.rows(split)["text"][:]) for split in SPLITS}
    assert found == {"train": ["d", "e"], "validation": ["A!"], "test": ["B.", "c"]}
    assert "and 3 rows that share a text or group with another split" in caplog.text


@pytest.mark.parametrize("drawn", [Splits(val=0, test=0), Splits(val=0.2, test=0)])
def test_rows_of_a_group_of_given_test_rows_are_dropped(drawn, caplog):
    table = {
        "text": [f"sentence {row}" for row in range(30)],
        "label": ["no", "yes"] * 15,
        "group": [f"article {row % 10}" for row in range(30)],
        "split": ["test"] * 3 + ["train"] * 27,
    }
    with caplog.at_level(logging.INFO):
        data = corpus(drawn, **table)
    assert (data.n_train + data.n_val, data.n_test) == (21, 3)
    assert "0 duplicate texts (0 with another label) and 6 rows that share" in caplog.text
