import math

import pytest

from lightning_transfer.data import LabelSpec
from lightning_transfer.utils import Labels

BANDS = LabelSpec("binned", names=["negative", "neutral", "positive"], cutoffs=[-0.5, 0.5])


def test_rating_without_names_is_one_number():
    spec = LabelSpec("regression")
    assert spec.stated() == Labels("regression")
    assert spec.parse("-1.25", spec.stated()) == -1.25


def test_rating_may_be_read_through_values():
    spec = LabelSpec("regression", values={"good": 1, "bad": -1})
    assert [spec.parse(raw, spec.stated()) for raw in ("good", "bad", "0.5")] == [1.0, -1.0, 0.5]


@pytest.mark.parametrize(
    ("rating", "band"), [(-4, 0), (-0.5, 0), (-0.4999, 1), ("0.5", 1), (0.51, 2), (4.0, 2)]
)
def test_a_rating_on_a_cutoff_lies_in_the_band_below(rating, band):
    labels = BANDS.stated()
    assert labels == Labels("single_label", ("negative", "neutral", "positive"))
    assert BANDS.parse(rating, labels) == band
    as_rating = LabelSpec("regression", names=labels.names, cutoffs=BANDS.cutoffs).stated()
    assert as_rating.band_index(float(rating)) == band


def test_names_are_the_sorted_names_of_the_data_when_not_given():
    spec = LabelSpec("single_label")
    assert spec.stated() is None
    labels = spec.found(["spam", "ham ", None, "spam", ""])
    assert labels == Labels("single_label", ("ham", "spam"))
    assert spec.parse(" spam", labels) == 1


@pytest.mark.parametrize("raw", [0, 0.0, "0", False])
def test_values_map_a_raw_value_whatever_its_type(raw):
    spec = LabelSpec("single_label", values={0: "negative", "1": "positive", "false": "negative"})
    assert spec.stated().names == ("negative", "positive")
    assert spec.parse(raw, spec.stated()) == 0


@pytest.mark.parametrize("raw", ["sport|politics", ["sport", "politics"], "politics | sport|sport"])
def test_multi_takes_a_separated_cell_or_a_list(raw):
    spec = LabelSpec("multi_label")
    labels = spec.found([raw, "weather"])
    assert labels == Labels("multi_label", ("politics", "sport", "weather"))
    assert spec.parse(raw, labels) == [0, 1]
    assert spec.parse("", labels) == []
    assert spec.parse("weather", labels) == [2]


def test_a_list_is_not_one_label():
    with pytest.raises(
        ValueError, match=r"\['spam'\] is not one label; label.kind=multi_label takes"
    ):
        LabelSpec("single_label").found([["spam"], "ham"])
    spec = LabelSpec("single_label", names=["ham", "spam"])
    with pytest.raises(ValueError, match="is not one label"):
        spec.parse(["spam"], spec.stated())


def test_a_number_is_a_label_of_several():
    spec = LabelSpec("multi_label", names=["3", "4"])
    assert spec.parse(3, spec.stated()) == [0]


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
@pytest.mark.parametrize("spec", [LabelSpec("regression"), BANDS], ids=["rating", "bands"])
def test_what_is_no_finite_number_is_no_rating(spec, raw, message):
    with pytest.raises(ValueError, match=message):
        spec.parse(raw, spec.stated())


def test_an_unknown_label_names_the_known_and_the_close_one():
    spec = LabelSpec("single_label", names=["negative", "positive"])
    message = r"unknown label 'postive'; known: negative, positive; did you mean positive\?"
    with pytest.raises(ValueError, match=message):
        spec.parse("postive", spec.stated())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "stars"},
            "must be one of regression, binned, single_label, multi_label, got 'stars'",
        ),
        ({"kind": "binned"}, "need more names"),
        ({"kind": "binned", "names": ["a", "b"]}, "one cut-off fewer than names"),
        ({"kind": "regression", "cutoffs": [0.0]}, "one cut-off fewer than names"),
        ({"kind": "single_label", "cutoffs": [0.0]}, "use label.kind=binned or drop the cut-offs"),
        ({"kind": "single_label", "names": ["a"]}, "need more names"),
        ({"kind": "single_label", "names": ["a", "a"]}, "label names must differ"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelSpec(**arguments)
