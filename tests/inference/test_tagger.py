"""Tagging of words with a trained task, in memory and from file to file."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import Tokens
from lightning_transfer.heads import LinearHead, TokenHead
from lightning_transfer.inference import Predictor, Tagger
from lightning_transfer.inference.tagger import Entity, TaggedWords, _entities
from lightning_transfer.tasks import SequenceClassification, TokenClassification
from lightning_transfer.utils import Labels
from tests.conftest import make_tokenizer, tiny_config

NAMES = ("O", "B-X", "I-X")


def make_task():
    torch.manual_seed(0)
    backbone = Backbone.from_config(tiny_config())
    head = TokenHead(backbone.hidden_size, 3)
    nn.init.normal_(head.out.weight, std=2.0)
    return TokenClassification(backbone, head, labels=Labels("tags", NAMES)).eval()


def make_tagger(**arguments):
    tokens = Tokens(**{"max_length": 24, **arguments})
    return Tagger(make_task(), make_tokenizer(), tokens, device="cpu")


SENTENCES = ["a good film", "the plot was dull and the end sad", "fun"]


def test_each_word_gets_the_tag_of_its_first_token():
    tagger = make_tagger()
    found = tagger.predict(SENTENCES)
    for text, tagged in zip(SENTENCES, found, strict=True):
        inputs = dict(tagger.tokenizer(text, return_tensors="pt"))
        scores = tagger.task(inputs).softmax(-1)[0, 1:-1]  # every word is one token
        assert tagged.words == tuple(text.split())
        assert tagged.tags == tuple(NAMES[tag] for tag in scores.argmax(-1))
        assert np.allclose(tagged.scores, scores.max(-1).values.tolist(), atol=1e-6)
    assert len({tag for tagged in found for tag in tagged.tags}) > 1


def test_lists_of_words_and_other_batches_give_the_same_tags():
    tagger = make_tagger()
    expected = tagger.predict(SENTENCES)
    assert tagger.predict([text.split() for text in SENTENCES]) == expected
    alone = [tagger.predict([text])[0] for text in SENTENCES]
    assert [tagged.tags for tagged in alone] == [tagged.tags for tagged in expected]


def test_the_parts_of_a_long_text_are_tagged_as_separate_texts():
    tagger = make_tagger(max_length=6)  # four words and two special tokens
    words = "a good film the plot was dull and fun".split()
    [whole] = tagger.predict([" ".join(words)])
    parts = tagger.predict([words[:4], words[4:8], words[8:]])
    assert whole.words == tuple(words)
    assert whole.tags == sum((tagged.tags for tagged in parts), ())


def test_a_word_longer_than_max_length_gets_one_tag():
    tagger = make_tagger(max_length=6)
    [tagged] = tagger.predict(["fun a-a-a-a-a-a-a fun"])
    assert len(tagged.tags) == 3


def test_a_word_without_tokens_gets_a_tag():
    [tagged] = make_tagger().predict([["fun", "\u200b"]])
    assert len(tagged.tags) == 2


def test_entities_consist_of_words_of_one_kind():
    words, tags = "Ada Lovelace met Ada in Paris".split(), "B-P I-P O B-P O I-L".split()
    assert list(_entities(words, tags)) == [
        Entity("P", "Ada Lovelace", 0, 2),
        Entity("P", "Ada", 3, 4),
        Entity("L", "Paris", 5, 6),
    ]
    assert list(_entities(words, ["NN"] * 6)) == []


def test_a_prediction_prints_one_line_per_word():
    tagged = TaggedWords(("Ada", "wrote"), ("B-P", "O"), (0.9, 0.75), ())
    assert str(tagged) == "Ada\tB-P\t0.9000\nwrote\tO\t0.7500\n"


def write(tmp_path, rows):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_predict_file_keeps_columns_and_adds_words_tags_and_entities(tmp_path, suffix):
    tagger = make_tagger()
    rows = [{"id": i, "text": text} for i, text in enumerate(SENTENCES)]
    out = tmp_path / f"out.{suffix}"
    assert tagger.predict_file(write(tmp_path, rows), out, chunk_rows=2) == 3
    expected = tagger.predict(SENTENCES)
    if suffix == "csv":
        head, first, *_ = out.read_text().splitlines()
        assert head == "id,text,words,tags,entities"
        assert json.dumps(list(expected[0].tags)).replace('"', '""') in first
        return
    found = (
        pq.read_table(out).to_pylist()
        if suffix == "parquet"
        else [json.loads(line) for line in out.read_text().splitlines()]
    )
    for row, tagged in zip(found, expected, strict=True):
        entities = "; ".join(f"{entity.kind}: {entity.text}" for entity in tagged.entities)
        assert (row["words"], row["tags"]) == (list(tagged.words), list(tagged.tags))
        assert row["entities"] == entities


def test_rows_may_be_lists_of_words_and_bad_rows_are_errors_or_skipped(tmp_path):
    rows = [{"text": ["a", "film"]}, {"text": []}, {"text": "fun"}]
    path = write(tmp_path, rows)
    with pytest.raises(ValueError, match=r"in.jsonl, line 2, column 'text': no words"):
        make_tagger().predict_file(path)
    out = tmp_path / "out.jsonl"
    make_tagger().predict_file(path, out, on_bad_row="skip")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["words"] for row in found] == [["a", "film"], None, ["fun"]]


def test_a_model_folder_gives_the_same_tags(tmp_path):
    task = make_task()
    export(task, make_tokenizer(), tmp_path / "model", tokens=Tokens(max_length=24))
    assert Tagger.from_path(tmp_path / "model").predict(SENTENCES)[0].tags == (
        make_tagger().predict(SENTENCES)[0].tags
    )


def test_wrong_inputs_and_models_are_errors():
    tagger = make_tagger()
    with pytest.raises(TypeError, match=r"got one string; pass \[text\]"):
        tagger.predict("fun")
    with pytest.raises(ValueError, match=r"texts\[1\]: empty text"):
        tagger.predict(["fun", " "])
    with pytest.raises(ValueError, match=r"texts\[0\]: word 2: empty text"):
        tagger.predict([["fun", ""]])
    with pytest.raises(ValueError, match="tags of single texts, got pairs; remove pairs"):
        tagger.predict(["fun"], ["film"])
    task = make_task()
    with pytest.raises(
        ValueError, match=r"got 'tags' of TokenClassification; use inference\.Tagger"
    ):
        Predictor(task, make_tokenizer(), Tokens(max_length=24))
    single = Labels("single_label", NAMES)
    backbone = task.backbone
    other = SequenceClassification(backbone, LinearHead(backbone.hidden_size, 3), labels=single)
    with pytest.raises(
        ValueError, match="for Tagger must be one of tags, got 'single_label' of SequenceC"
    ):
        Tagger(other, make_tokenizer(), Tokens(max_length=24))
    nn.init.constant_(task.head.out.bias, float("nan"))
    with pytest.raises(ValueError, match="output of the model for 'fun' is not finite"):
        Tagger(task, make_tokenizer(), Tokens(max_length=24), device="cpu").predict(["fun"])
