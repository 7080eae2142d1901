import json

import pytest

from lightning_transfer.utils.labels import Labels, match_outputs

MOODS = ("negative", "neutral", "positive")


def test_width_of_the_output_follows_from_the_kind():
    assert Labels("rating").num_outputs == 1
    assert Labels("rating", MOODS, (-1, 1)).num_outputs == 1
    assert Labels("single", MOODS).num_outputs == 3
    assert Labels("multi", ("spam",)).num_outputs == 1


@pytest.mark.parametrize(
    ("rating", "band"),
    [(-9, 0), (-0.5, 0), (-0.49, 1), (0, 1), (0.5, 1), (0.51, 2), (float("inf"), 2)],
)
def test_a_rating_on_a_cut_off_lies_in_the_band_below(rating, band):
    labels = Labels("rating", MOODS, (-0.5, 0.5))
    assert labels.band_index(rating) == band
    assert labels.band(rating) == MOODS[band]


def test_index_is_the_position_and_an_unknown_name_lists_the_known():
    labels = Labels("single", MOODS)
    assert [labels.index(name) for name in MOODS] == [0, 1, 2]
    with pytest.raises(
        ValueError, match="unknown label 'good'; known: negative, neutral, positive"
    ):
        labels.index("good")


def test_contract_survives_json():
    for labels in (Labels("rating", MOODS, (-1, 1)), Labels("single", MOODS), Labels("rating")):
        assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_names_and_cut_offs_are_plain_tuples_of_str_and_float():
    labels = Labels("rating", [0, 1], [2])
    assert labels.names == ("0", "1")
    assert labels.cutoffs == (2.0,)
    assert hash(labels) == hash(Labels("rating", ("0", "1"), (2.0,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("binary", ("a", "b")), "multi, tokens, next_tokens, tags, text, got 'binary'"),
        (("single", ("a", "a")), r"must differ, got \['a', 'a'\]"),
        (("single", ("a",)), r"'single' labels need more names, got \['a'\]"),
        (("multi", ()), r"'multi' labels need more names, got \[\]"),
        (("single", ("a", "b"), (0,)), r"only a rating has cut-offs, got \(0.0,\) for 'single'"),
        (("rating", ("a",)), r"one cut-off fewer .* names \['a'\] and cut-offs \[\]"),
        (("rating", MOODS, (0,)), r"one cut-off fewer .* and cut-offs \[0.0\]"),
        (("rating", (), (0,)), r"one cut-off fewer .* names \[\] and cut-offs \[0.0\]"),
        (("rating", MOODS, (1, -1)), r"must ascend, got \[1.0, -1.0\]"),
        (("rating", MOODS, (1, 1)), r"must ascend, got \[1.0, 1.0\]"),
    ],
)
def test_a_contract_that_does_not_hold_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Labels(*arguments)


def match(old, new, label_map=None, kind="single"):
    return match_outputs(Labels(kind, old), Labels(kind, new), label_map)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_same_names_in_another_order_are_matched_by_name(kind):
    assert match("abc", "abc", kind=kind) == [0, 1, 2]
    assert match("abc", "cab", kind=kind) == [2, 0, 1]


def test_names_that_differ_entirely_ask_for_a_new_head():
    assert match("ab", "cd") is None


@pytest.mark.parametrize(("old", "new"), [("ab", "bc"), ("ab", "abc"), ("abc", "ab")])
def test_a_partial_overlap_is_an_error_without_a_map(old, new):
    with pytest.raises(ValueError, match=r"agree only in part: the weights know .* label_map="):
        match(old, new)


def test_a_map_says_what_belongs_together():
    assert match("ab", "xy", {"a": "y", "b": "x"}) == [1, 0]
    assert match("ab", "bx", {"a": "x"}) == [1, 0]
    assert match("abc", "xb", {"a": "x"}) == [0, 1]
    assert match("ab", "xyz", {"b": "y"}) == [None, 1, None]
    assert match("ab", "abc", {"a": "a"}) == [0, 1, None]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"q": "x"}, r"the old labels \['q'\], which are not among \['a', 'b'\]"),
        ({"a": "q"}, r"the new labels \['q'\], which are not among \['x', 'y'\]"),
        ({"a": "x", "b": "x"}, r"sends both 'a' and 'b' to 'x'"),
    ],
)
def test_a_map_of_unknown_names_is_refused(label_map, message):
    with pytest.raises(ValueError, match=message):
        match("ab", "xy", label_map)


def test_a_map_from_one_old_name_onto_another_is_refused():
    with pytest.raises(ValueError, match=r"sends both 'a' and 'b' to 'b'"):
        match("ab", "by", {"a": "b"})


def test_ratings_have_no_names_to_map():
    bands = Labels("rating", ("low", "high"), (0.0,))
    with pytest.raises(ValueError, match="cannot join 'rating' labels to 'rating' labels"):
        match_outputs(bands, bands, {"low": "high"})


def test_kinds_never_mix():
    single, multi = Labels("single", ("a", "b")), Labels("multi", ("a", "b"))
    assert match_outputs(single, multi) is None
    assert match_outputs(Labels("rating"), single) is None
    with pytest.raises(ValueError, match="cannot join 'single' labels to 'multi' labels"):
        match_outputs(single, multi, {"a": "a"})


def test_ratings_carry_over_whatever_their_bands():
    assert match_outputs(Labels("rating", MOODS, (-1, 1)), Labels("rating")) == [0]
