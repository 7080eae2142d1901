import math

import pytest

from lightning_transfer.data import LabelSpec
from lightning_transfer.utils import Labels

BINNED = LabelSpec("binned", names=["negative", "neutral", "positive"], cutoffs=[-0.5, 0.5])


def test_regression_without_names_has_one_output():
    spec = LabelSpec("regression")
    assert spec.declared_labels() == Labels("regression")
    assert spec.parse("-1.25", spec.declared_labels()) == -1.25


def test_values_replace_cells_by_numbers():
    spec = LabelSpec("regression", values={"good": 1, "bad": -1})
    assert [spec.parse(raw, spec.declared_labels()) for raw in ("good", "bad", "0.5")] == [
        1.0,
        -1.0,
        0.5,
    ]


@pytest.mark.parametrize(
    ("value", "position"), [(-4, 0), (-0.5, 0), (-0.4999, 1), ("0.5", 1), (0.51, 2), (4.0, 2)]
)
def test_a_value_on_a_cutoff_is_in_the_lower_bin(value, position):
    labels = BINNED.declared_labels()
    assert labels == Labels("single_label", ("negative", "neutral", "positive"))
    assert BINNED.parse(value, labels) == position
    bins = LabelSpec("regression", names=labels.names, cutoffs=BINNED.cutoffs).declared_labels()
    assert bins.bin_index(float(value)) == position


def test_missing_names_are_the_sorted_names_in_the_data():
    spec = LabelSpec("single_label")
    assert spec.declared_labels() is None
    labels = spec.infer_labels(["spam", "ham ", None, "spam", ""])
    assert labels == Labels("single_label", ("ham", "spam"))
    assert spec.parse(" spam", labels) == 1


@pytest.mark.parametrize("raw", [0, 0.0, "0", False])
def test_values_match_equal_cells_of_all_types(raw):
    spec = LabelSpec("single_label", values={0: "negative", "1": "positive", "false": "negative"})
    assert spec.declared_labels().names == ("negative", "positive")
    assert spec.parse(raw, spec.declared_labels()) == 0


@pytest.mark.parametrize("raw", ["sport|politics", ["sport", "politics"], "politics | sport|sport"])
def test_several_labels_are_a_separated_cell_or_a_list(raw):
    spec = LabelSpec("multi_label")
    labels = spec.infer_labels([raw, "weather"])
    assert labels == Labels("multi_label", ("politics", "sport", "weather"))
    assert spec.parse(raw, labels) == [0, 1]
    assert spec.parse("", labels) == []
    assert spec.parse("weather", labels) == [2]


def test_a_list_is_not_one_label():
    with pytest.raises(
        ValueError, match=r"\['spam'\] is not one label; for lists, set data.label.kind=multi_label"
    ):
        LabelSpec("single_label").infer_labels([["spam"], "ham"])
    spec = LabelSpec("single_label", names=["ham", "spam"])
    with pytest.raises(ValueError, match="is not one label"):
        spec.parse(["spam"], spec.declared_labels())


def test_a_number_can_be_one_of_several_labels():
    spec = LabelSpec("multi_label", names=["3", "4"])
    assert spec.parse(3, spec.declared_labels()) == [0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("abc", "'abc' is not a number"),
        ("nan", "'nan' is not a number"),
        ("inf", "'inf' is not a number"),
        (math.nan, "no label"),
        (None, "no label"),
        ("", "no label"),
        ("  ", "no label"),
    ],
)
@pytest.mark.parametrize("spec", [LabelSpec("regression"), BINNED], ids=["regression", "binned"])
def test_a_cell_without_a_finite_number_is_an_error(spec, raw, message):
    with pytest.raises(ValueError, match=message):
        spec.parse(raw, spec.declared_labels())


def test_the_error_for_an_unknown_label_lists_known_labels_and_the_closest():
    spec = LabelSpec("single_label", names=["negative", "positive"])
    message = r"unknown label 'postive'; known: negative, positive; did you mean positive\?"
    with pytest.raises(ValueError, match=message):
        spec.parse("postive", spec.declared_labels())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "stars"},
            "must be one of regression, binned, single_label, multi_label, got 'stars'",
        ),
        ({"kind": "binned"}, "need 2 or more names"),
        ({"kind": "binned", "names": ["a", "b"]}, "one cutoff fewer than names"),
        ({"kind": "regression", "cutoffs": [0.0]}, "one cutoff fewer than names"),
        (
            {"kind": "single_label", "cutoffs": [0.0]},
            "set data.label.kind=binned or remove label.cutoffs",
        ),
        ({"kind": "single_label", "names": ["a"]}, "need 2 or more names"),
        ({"kind": "single_label", "names": ["a", "a"]}, "label names must be unique"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelSpec(**arguments)
