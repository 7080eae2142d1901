"""Close names and the end of an error message."""

import pytest

from lightning_transfer.utils.suggestions import closest, closest_keys, did_you_mean, dotted

KEYS = [
    "trainer",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.devices",
    "stages",
    "stages.target",
    "stages.target.epochs",
    "stages.target.data",
    "stages.target.data._target_",
    "stages.target.data.batch_size",
    "stages.source.data.batch_size",
    "stages.target.optimizer.lr",
]


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("max_epoch", "trainer.max_epochs"),
        ("stages.target.data.batchsize", "stages.target.data.batch_size"),
        ("stages.source.data.batchsize", "stages.source.data.batch_size"),
        ("stages.targt.epochs", "stages.target.epochs"),
        ("stages.targt", "stages.target"),
        ("lr", "stages.target.optimizer.lr"),
        ("optimizer.lr", "stages.target.optimizer.lr"),
        ("trainer.device", "trainer.devices"),
    ],
)
def test_the_closest_key_comes_first(key, first):
    assert closest_keys(key, KEYS)[0] == first


def test_without_close_names_the_list_is_empty():
    assert closest_keys("zzz", KEYS) == []
    assert closest("zzz", KEYS) == []


def test_keys_with_an_underscore_are_not_suggested():
    assert "stages.target.data._target_" not in closest_keys("stages.target.data._targt_", KEYS)


def test_did_you_mean_for_no_one_and_several_names():
    assert did_you_mean([]) == "."
    assert did_you_mean(["a"]) == "; did you mean a?"
    assert did_you_mean(["a", "b", "c"]) == "; did you mean a, b or c?"


def test_dotted_keys_include_those_of_mappings():
    assert dotted({"a": {"b": 1, "c": {}}, "d": [{"e": 1}]}) == ["a", "a.b", "a.c", "d"]
