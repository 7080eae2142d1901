"""The label contract and the matching of outputs by name."""

import json

import pytest

from lightning_transfer.utils.labels import Labels, match_outputs

MOODS = ("negative", "neutral", "positive")


def test_num_outputs_follows_from_the_kind():
    assert Labels("regression").num_outputs == 1
    assert Labels("regression", MOODS, (-1, 1)).num_outputs == 1
    assert Labels("single_label", MOODS).num_outputs == 3
    assert Labels("multi_label", ("spam",)).num_outputs == 1


@pytest.mark.parametrize(
    ("value", "index"),
    [(-9, 0), (-0.5, 0), (-0.49, 1), (0, 1), (0.5, 1), (0.51, 2), (float("inf"), 2)],
)
def test_a_value_equal_to_a_cutoff_is_in_the_lower_bin(value, index):
    labels = Labels("regression", MOODS, (-0.5, 0.5))
    assert labels.bin_index(value) == index
    assert labels.bin_name(value) == MOODS[index]


def test_index_is_the_position_and_an_unknown_name_lists_the_known_names():
    labels = Labels("single_label", MOODS)
    assert [labels.index(name) for name in MOODS] == [0, 1, 2]
    with pytest.raises(
        ValueError, match="unknown label 'good'; known: negative, neutral, positive"
    ):
        labels.index("good")


def test_labels_survive_json():
    for labels in (
        Labels("regression", MOODS, (-1, 1)),
        Labels("single_label", MOODS),
        Labels("regression"),
    ):
        assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_names_and_cutoffs_are_plain_tuples_of_str_and_float():
    labels = Labels("regression", [0, 1], [2])
    assert labels.names == ("0", "1")
    assert labels.cutoffs == (2.0,)
    assert hash(labels) == hash(Labels("regression", ("0", "1"), (2.0,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("binary", ("a", "b")),
            "multi_label, masked_tokens, next_tokens, tags, text, got 'binary'",
        ),
        (("single_label", ("a", "a")), r"must be unique, got \['a', 'a'\]"),
        (("single_label", ("a",)), r"'single_label' labels need 2 or more names, got \['a'\]"),
        (("multi_label", ()), r"'multi_label' labels need 1 or more names, got \[\]"),
        (
            ("single_label", ("a", "b"), (0,)),
            r"only regression labels have cutoffs, got \(0.0,\) for 'single_label'",
        ),
        (("regression", ("a",)), r"one cutoff fewer .* names \['a'\] and cutoffs \[\]"),
        (("regression", MOODS, (0,)), r"one cutoff fewer .* and cutoffs \[0.0\]"),
        (("regression", (), (0,)), r"one cutoff fewer .* names \[\] and cutoffs \[0.0\]"),
        (("regression", MOODS, (1, -1)), r"must increase, got \[1.0, -1.0\]"),
        (("regression", MOODS, (1, 1)), r"must increase, got \[1.0, 1.0\]"),
    ],
)
def test_inconsistent_labels_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Labels(*arguments)


def match(old, new, label_map=None, kind="single_label"):
    return match_outputs(Labels(kind, old), Labels(kind, new), label_map)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_same_names_in_another_order_are_matched_by_name(kind):
    assert match("abc", "abc", kind=kind) == [0, 1, 2]
    assert match("abc", "cab", kind=kind) == [2, 0, 1]


def test_disjoint_names_need_a_new_head():
    assert match("ab", "cd") is None


@pytest.mark.parametrize(("old", "new"), [("ab", "bc"), ("ab", "abc"), ("abc", "ab")])
def test_a_partial_overlap_is_an_error_without_a_map(old, new):
    with pytest.raises(ValueError, match=r"match only in part: the weights have .* label_map="):
        match(old, new)


def test_a_label_map_matches_different_names():
    assert match("ab", "xy", {"a": "y", "b": "x"}) == [1, 0]
    assert match("ab", "bx", {"a": "x"}) == [1, 0]
    assert match("abc", "xb", {"a": "x"}) == [0, 1]
    assert match("ab", "xyz", {"b": "y"}) == [None, 1, None]
    assert match("ab", "abc", {"a": "a"}) == [0, 1, None]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"q": "x"}, r"unknown old labels \['q'\]; known: a, b"),
        ({"a": "q"}, r"unknown new labels \['q'\]; known: x, y"),
        ({"a": "x", "b": "x"}, r"maps both 'a' and 'b' to 'x'"),
    ],
)
def test_a_label_map_with_unknown_or_repeated_names_is_refused(label_map, message):
    with pytest.raises(ValueError, match=message):
        match("ab", "xy", label_map)


def test_a_label_map_onto_another_old_name_is_refused():
    with pytest.raises(ValueError, match=r"maps both 'a' and 'b' to 'b'"):
        match("ab", "by", {"a": "b"})


def test_regression_labels_have_no_label_map():
    binned = Labels("regression", ("low", "high"), (0.0,))
    with pytest.raises(ValueError, match="cannot map 'regression' labels to 'regression' labels"):
        match_outputs(binned, binned, {"low": "high"})


def test_labels_of_different_kinds_do_not_match():
    single, multi = Labels("single_label", ("a", "b")), Labels("multi_label", ("a", "b"))
    assert match_outputs(single, multi) is None
    assert match_outputs(Labels("regression"), single) is None
    with pytest.raises(
        ValueError, match="cannot map 'single_label' labels to 'multi_label' labels"
    ):
        match_outputs(single, multi, {"a": "a"})


def test_a_regression_output_matches_for_any_bins():
    assert match_outputs(Labels("regression", MOODS, (-1, 1)), Labels("regression")) == [0]
