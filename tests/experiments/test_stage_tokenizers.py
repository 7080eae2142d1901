"""Tokenizers trained on the text of the stages of a run."""

import pytest

from lightning_transfer.data import Splits, TextToText
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.stage_model import StageModel
from lightning_transfer.experiments.stage_tokenizers import resolve_tokenizer
from tests.data.test_text_to_text import make_pairs

TRAINED = {"_target_": "lightning_transfer.data.TokenizerTrainer", "kind": "bpe", "vocab_size": 300}


class Pairs(TextToText):
    def __init__(self, word, **arguments):
        super().__init__(**arguments)
        self.word = word

    def load_rows(self):
        table = make_pairs(40)
        return {**table, "target": [f"{text} {self.word}" for text in table["target"]]}


def two_stages(sizes=(None, None)):
    """Return the data of two stages; the targets of each have a word of their own."""
    words = {"parent": "yyyyyyyy", "child": "zzzzzzzz"}
    data = {
        name: Pairs(word, train_size=size, splits=Splits(val=2, test=2))
        for (name, word), size in zip(words.items(), sizes, strict=True)
    }

    def data_of(name, seed, *, train_size=None):
        data[name].seed = seed
        data[name].train_size = train_size or data[name].train_size
        return data[name]

    return data_of


def config_of(stage, order=("parent", "child"), **more):
    return {
        "tokenizer": {**TRAINED, "lowercase": False, "stage": stage},
        "backbone": {"name": None},
        "order": list(order),
        "stages": {"parent": {}, "child": {"seed": 3}},
        "seeds": [0],
        **more,
    }


def resolve(stage, *, sizes=(None, None)):
    """Return the tokenizer trained on a stage, or on several."""
    return resolve_tokenizer(config_of(stage), two_stages(sizes))


def count_tokens(tokenizer, word):
    return len(tokenizer(word, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("stage", "known"),
    [
        (None, ["yyyyyyyy"]),
        ("child", ["zzzzzzzz"]),
        (["parent", "child"], ["yyyyyyyy", "zzzzzzzz"]),
    ],
)
def test_a_tokenizer_is_trained_on_inputs_and_targets_of_its_stages(stage, known):
    tokenizer = resolve(stage)
    for word in ("yyyyyyyy", "zzzzzzzz"):
        assert (count_tokens(tokenizer, word) < 4) == (word in known)
    assert count_tokens(tokenizer, "market") < 4  # a word of the input texts


def test_equal_texts_give_the_same_cached_tokenizer():
    tokenizer = resolve(["parent", "child"])
    again = resolve(["parent", "child"])
    assert tokenizer.get_vocab() == again.get_vocab()
    assert tokenizer.name_or_path == again.name_or_path  # from the cache
    fewer = resolve(["parent", "child"], sizes=(None, 5))
    assert fewer.name_or_path != tokenizer.name_or_path


def test_each_size_of_a_curve_has_a_tokenizer_of_its_text():
    sizes = [12, 5, 0.9]  # of 36 rows
    config = config_of("child", curve={"stage": "child", "train_size": sizes})
    model = StageModel(config, two_stages())
    for size in (*sizes, *reversed(sizes)):
        alone = resolve("child", sizes=(None, size))
        found = model.tokenizer(StageRun("child", 3, None, size), None)
        assert found.name_or_path == alone.name_or_path


def test_a_stage_shared_by_all_sizes_has_the_tokenizer_of_the_smallest():
    both = ["parent", "child"]
    config = config_of(both, curve={"stage": "child", "train_size": [0.5, 5, 12]})
    model, parent = StageModel(config, two_stages()), StageRun("parent", 0)
    smallest = resolve(both, sizes=(None, 5))
    for run in (parent, StageRun("child", 3, parent, 5), parent):
        assert model.tokenizer(run, None).name_or_path == smallest.name_or_path
    largest = model.tokenizer(StageRun("child", 3, parent, 0.5), None)
    assert largest.name_or_path == resolve(both, sizes=(None, 0.5)).name_or_path


@pytest.mark.parametrize("stage", ["no", ["parent", "no"]])
def test_an_unknown_stage_is_an_error(stage):
    with pytest.raises(
        ValueError, match=r"tokenizer.stage: unknown stage 'no'\. Stages: parent, child"
    ):
        resolve(stage)
