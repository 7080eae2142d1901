import random

import numpy as np
import pytest

from lightning_transfer.data import Splits
from lightning_transfer.data.splits.split_spec import count_of, normalize
from lightning_transfer.data.splits.splitter import Splitter, exclusive_keys
from lightning_transfer.data.splits.subset import (
    balanced,
    check_train_size,
    quantile_strata,
    rows_per_class,
    stratified,
)


def split_texts(texts, splits, *, targets=None, groups=None, given=None):
    """Return split name -> list of row positions, and the counts of dropped rows."""
    keys = [normalize(text) for text in texts]
    groups = groups or [None] * len(keys)
    splitter = Splitter(
        keys,
        targets or [0] * len(keys),
        units=[group or key for group, key in zip(groups, keys, strict=True)],
        exclusive=[
            exclusive_keys({"text": key}, group) for key, group in zip(keys, groups, strict=True)
        ],
        given=given,
    )
    split = splitter.split(splits)
    return {name: rows.tolist() for name, rows in split.positions.items()}, split


def flat(rows):
    return [row for split in rows.values() for row in split]


TEXTS = [f"text number {number}" for number in range(100)]


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (Splits(val=10, test=20), (70, 10, 20)),
        (Splits(val=0.1, test=0.2), (70, 10, 20)),
        (Splits(val=0, test=1), (99, 0, 1)),
        (Splits(val=0.0, test=1.0), (0, 0, 100)),
        (Splits(val=0.001, test=0.001), (98, 1, 1)),
    ],
)
def test_sizes_are_exact(splits, sizes):
    rows, split = split_texts(TEXTS, splits)
    assert tuple(len(rows[name]) for name in ("train", "validation", "test")) == sizes
    assert sorted(flat(rows)) == list(range(100))
    assert (split.repeated, split.leaked) == (0, 0)


def test_splits_depend_on_seed_and_text_only():
    rows, _ = split_texts(TEXTS, Splits())
    again, _ = split_texts(TEXTS, Splits())
    other, _ = split_texts(TEXTS, Splits(seed=1))
    assert rows == again
    assert set(rows["test"]) != set(other["test"])


def test_splits_do_not_depend_on_the_order_of_the_file():
    rows, _ = split_texts(TEXTS, Splits())
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    moved, _ = split_texts(shuffled, Splits())
    for name, positions in rows.items():
        assert [TEXTS[row] for row in positions] == [shuffled[row] for row in moved[name]]


def test_a_new_row_moves_at_most_one_other_row():
    before, _ = split_texts(TEXTS, Splits(test=20, val=10))
    after, _ = split_texts([*TEXTS, "one more"], Splits(test=20, val=10))
    assert len(set(before["test"]) ^ set(after["test"])) <= 2


def test_the_split_of_known_texts_does_not_change():
    """Published results use these rows, so any change here makes them incomparable."""
    rows, _ = split_texts(TEXTS, Splits(val=2, test=3))
    assert rows["test"] == [64, 53, 91]
    assert rows["validation"] == [12, 29]


def test_of_duplicates_the_first_row_is_used():
    texts = [*TEXTS, *(f"TEXT  number {number}!" for number in range(100))]
    rows, split = split_texts(texts, Splits(val=10, test=20))
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [70, 10, 20]
    assert sorted(flat(rows)) == list(range(100))  # the first of each two duplicates
    assert split.repeated == 100


def test_duplicates_with_another_target_are_counted():
    rows, split = split_texts(["a", "A", "b", "b."], Splits(0, 0), targets=[0, 1, 1, 1])
    assert sorted(rows["train"]) == [0, 2]
    assert (split.repeated, split.conflicting, split.leaked) == (2, 1, 0)


def test_groups_are_not_divided_and_may_exceed_the_size():
    groups = [f"article {row // 7}" for row in range(100)]
    rows, _ = split_texts(TEXTS, Splits(val=10, test=20), groups=groups)
    groups_of = {name: {groups[row] for row in positions} for name, positions in rows.items()}
    assert not groups_of["test"] & groups_of["train"]
    assert not groups_of["test"] & groups_of["validation"]
    assert not groups_of["validation"] & groups_of["train"]
    assert 20 <= len(rows["test"]) < 27
    assert 10 <= len(rows["validation"]) < 17


def test_a_text_of_two_groups_is_dropped_from_the_lower_split():
    texts = [
        "shared",
        *(f"a{row}" for row in range(9)),
        "Shared!",
        *(f"b{row}" for row in range(9)),
    ]
    groups = ["a"] * 10 + ["b"] * 10
    rows, split = split_texts(texts, Splits(val=0, test=5), groups=groups)
    assert [len(rows["test"]), len(rows["train"])] == [10, 9]
    assert (split.leaked, split.repeated) == (1, 0)


def test_rows_without_a_group_are_drawn_one_by_one():
    groups = ["a", "a", None, None]
    rows, _ = split_texts(["1", "2", "3", "4"], Splits(val=0, test=1), groups=groups)
    assert ({0, 1} <= set(rows["train"])) or ({0, 1} == set(rows["test"]))


def test_given_splits_are_kept_and_missing_ones_are_drawn():
    given = ["train"] * 80 + ["test"] * 20
    rows, _ = split_texts(TEXTS, Splits(val=0.1, test=0.5), given=given)
    assert sorted(rows["test"]) == list(range(80, 100))
    assert len(rows["validation"]) == 8
    assert len(rows["train"]) == 72


def test_texts_of_a_given_test_split_are_dropped_from_training():
    texts = [*TEXTS[:10], *TEXTS[:3]]
    given = ["train"] * 10 + ["test"] * 3
    rows, split = split_texts(texts, Splits(val=0, test=0), given=given)
    assert (sorted(rows["test"]), sorted(rows["train"])) == ([10, 11, 12], list(range(3, 10)))
    assert split.leaked == 3


def test_groups_of_given_splits_are_dropped_from_lower_splits():
    given = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    groups = ["a", "a", "b", "c", None, None, "b", "d", "c", "d"]
    rows, split = split_texts(TEXTS[:10], Splits(), groups=groups, given=given)
    assert sorted(rows["test"]) == [8, 9]
    assert rows["validation"] == [6]  # row 7 is of a group of the test rows
    assert sorted(rows["train"]) == [0, 1, 4, 5]
    assert split.leaked == 3


def test_a_group_sharing_a_text_with_a_test_group_is_dropped_from_training():
    texts, given = ["one", "one", "two", "three"], ["test", "test", "train", "train"]
    rows, split = split_texts(texts, Splits(0), groups=["a", "b", "b", "c"], given=given)
    assert [len(rows["test"]), rows["train"]] == [1, [3]]
    assert (split.repeated, split.leaked) == (1, 1)


def test_fractions_are_of_the_rows_that_can_be_drawn():
    given, groups = ["train"] * 80 + ["test"] * 20, [f"{row % 40}" for row in range(100)]
    rows, split = split_texts(TEXTS, Splits(val=0.5), groups=groups, given=given)
    assert split.leaked == 40  # the groups of the test rows
    assert [len(rows["validation"]), len(rows["train"])] == [20, 20]


def test_texts_of_punctuation_only_are_not_duplicates():
    assert normalize(":-)") != normalize(":-(")
    rows, _ = split_texts([":-)", ":-(", " :-) "], Splits(0, 0))
    assert sorted(rows["train"]) == [0, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [("It's GOOD!", "it s good"), ("ﬁne", "fine"), ("Straße", "STRASSE"), ("a  b\n", "A-b")],
)
def test_duplicates_have_equal_normalized_texts(one, other):
    assert normalize(one) == normalize(other)


def test_the_key_alone_decides_the_split():
    keys = [f"key {number}" for number in range(1000)]
    found = {key: Splits(val=0.1, test=0.2).split_of(key) for key in keys}
    assert {name: list(found.values()).count(name) for name in set(found.values())} == {
        "test": pytest.approx(200, abs=40),
        "validation": pytest.approx(100, abs=30),
        "train": pytest.approx(700, abs=45),
    }
    fewer = [key for key in keys if Splits(val=0.0, test=0.1).split_of(key) == "test"]
    assert all(found[key] == "test" for key in fewer)
    assert any(Splits(val=0.1, test=0.2, seed=1).split_of(key) != found[key] for key in keys)


def test_more_test_rows_than_there_are_is_an_error():
    message = r"splits.test=101 asks for 101 test rows, there are 100 to draw from"
    with pytest.raises(ValueError, match=message):
        split_texts(TEXTS, Splits(test=101))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"val": -1}, "splits.val must be a count >= 0 or a fraction in \\[0, 1\\], got -1"),
        ({"test": 1.5}, "splits.test must be a count >= 0 or a fraction in \\[0, 1\\], got 1.5"),
        ({"test": True}, "must be a count .int. or a fraction .float., got True"),
        ({"val": float("nan")}, "got nan"),
        ({"val": 0.6, "test": 0.5}, "add up to more than 1"),
    ],
)
def test_invalid_sizes_are_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        Splits(**sizes)


def test_a_fraction_above_zero_is_at_least_one_row():
    assert [count_of(size, 3) for size in (0, 0.0, 0.1, 0.5, 1.0, 7)] == [0, 0, 1, 2, 3, 7]


def test_strata_keep_their_shares():
    strata = [0] * 600 + [1] * 300 + [2] * 100
    keys = [str(row) for row in range(1000)]
    drawn = stratified(strata, keys, 128, seed=0)
    assert len(set(drawn.tolist())) == 128
    assert np.bincount(np.array(strata)[drawn]).tolist() == [77, 38, 13]


def test_a_rare_stratum_keeps_a_row():
    strata = [0] * 998 + [1, 2]
    drawn = stratified(strata, [str(row) for row in range(1000)], 10, seed=3)
    assert sorted(np.array(strata)[drawn].tolist()) == [0] * 8 + [1, 2]


@pytest.mark.parametrize("size", [0, 1, 2, 5, 99, 100])
def test_a_stratified_draw_has_the_exact_size(size):
    strata = [row % 7 for row in range(100)]
    assert len(stratified(strata, [str(row) for row in range(100)], size, seed=0)) == size


def test_a_larger_draw_contains_a_smaller_one():
    strata, keys = [row % 3 for row in range(999)], [str(row) for row in range(999)]
    small, large = (set(stratified(strata, keys, size, seed=0).tolist()) for size in (60, 120))
    assert small <= large
    assert small != set(stratified(strata, keys, 60, seed=1).tolist())


def test_the_draw_does_not_depend_on_the_order_of_the_rows():
    order = random.Random(0).sample(range(200), 200)
    strata, keys = [row % 3 for row in range(200)], [str(row) for row in range(200)]
    drawn = {keys[row] for row in stratified(strata, keys, 30, seed=0)}
    moved_keys = [keys[row] for row in order]
    moved = stratified([strata[row] for row in order], moved_keys, 30, seed=0)
    assert {moved_keys[row] for row in moved} == drawn


def test_a_balanced_draw_has_equally_many_rows_of_each_class():
    classes, names = [0] * 900 + [1] * 60 + [2] * 40, ["a", "b", "c"]
    keys = [str(row) for row in range(1000)]
    draws = [balanced(classes, keys, each, names=names, seed=0) for each in (8, 32)]
    for draw, each in zip(draws, (8, 32), strict=True):
        assert np.bincount(np.array(classes)[draw]).tolist() == [each] * 3
        assert draw.tolist() == sorted(draw.tolist())
    assert set(draws[0].tolist()) < set(draws[1].tolist())
    other = balanced(classes, keys, 8, names=names, seed=1)
    assert set(other.tolist()) != set(draws[0].tolist())


def test_a_class_with_too_few_rows_is_named():
    message = r"train_size=3/class asks for more than the 2 training rows of 'spam'"
    with pytest.raises(ValueError, match=message):
        balanced([0, 0, 0, 1, 1], list("abcde"), 3, names=["ham", "spam"], seed=0)
    with pytest.raises(ValueError, match="the 0 training rows of 'none'"):
        balanced([0, 0], ["a", "b"], 1, names=["ham", "none"], seed=0)


@pytest.mark.parametrize("size", ["8", "0/class", "8/klass", "-1/class", "1.5/class", "all"])
def test_a_string_that_is_not_a_size_is_an_error(size):
    with pytest.raises(
        ValueError, match=f"or a number of rows per class such as 8/class, got '{size}'"
    ):
        check_train_size(size)


def test_only_sizes_per_class_give_rows_per_class():
    assert [rows_per_class(size) for size in ("128/class", 8, 0.5, None)] == [128, None, None, None]
    check_train_size("128/class")
    check_train_size(None)


def test_values_without_bins_are_stratified_by_quintiles():
    strata = quantile_strata(range(100))
    assert np.bincount(strata).tolist() == [20] * 5
    assert quantile_strata([]) == []
