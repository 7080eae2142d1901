"""Texts that a trained task writes, in memory and file to file."""

import csv
import io
import json
import sys

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import Tokens
from lightning_transfer.inference import Predictor, TextGenerator
from tests.conftest import WORDS, make_tokenizer
from tests.seq2seq import SHORT, Pairs, make_small, make_task
from tests.tiny import make_trainer

TEXTS = [" ".join(WORDS[start : start + 1 + start % 5]) for start in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "model"
    task = make_task("bart")
    with torch.no_grad():
        for parameter in task.backbone.parameters():  # livelier, so that texts are told apart
            parameter.mul_(4)
        task.head.bias.fill_(-1e4)
        task.head.bias[:, 5:19] = task.head.bias[:, 3] = 0.0  # words of the targets, and their end
    export(task, make_tokenizer(), folder, tokens=Tokens(12), target_tokenizer=make_small())
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """What plain transformers writes for each text alone."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    reader = AutoTokenizer.from_pretrained(folder)
    writer = AutoTokenizer.from_pretrained(folder / "target_tokenizer")
    found = [model.generate(reader(text, return_tensors="pt")["input_ids"]) for text in TEXTS]
    return [writer.decode(ids[0], skip_special_tokens=True).strip() for ids in found]


def test_texts_are_those_of_plain_transformers_in_the_order_given(folder, expected):
    assert len(set(expected)) > 1
    assert TextGenerator.from_path(folder, batch_size=2).predict(TEXTS) == expected
    assert TextGenerator.from_path(folder, batch_size=9).predict(TEXTS[::-1]) == expected[::-1]
    assert TextGenerator.from_path(folder).predict([]) == []


@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_a_file_gets_a_column_in_the_order_of_its_rows(folder, expected, tmp_path, chunk_rows):
    source = tmp_path / "in.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *enumerate(TEXTS)])
    out = tmp_path / "out.jsonl"
    count = TextGenerator.from_path(folder).predict_file(source, out, chunk_rows=chunk_rows)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert count == len(TEXTS)
    assert [row["generated"] for row in rows] == expected
    assert [row["text"] for row in rows] == TEXTS
    assert list(rows[0]) == ["id", "text", "generated"]


def test_a_row_without_text_has_no_answer_and_a_taken_name_is_evaded(folder, expected, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = [TEXTS[0], "", TEXTS[2]]
    source.write_text("".join(json.dumps({"text": t, "generated": 1}) + "\n" for t in texts))
    with pytest.raises(ValueError, match=r"in.jsonl, line 2, column 'text'"):
        TextGenerator.from_path(folder).predict_file(source, out)
    TextGenerator.from_path(folder).predict_file(source, out, on_bad_row="skip")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["predicted_generated"] for row in rows] == [expected[0], None, expected[2]]


def test_standard_input_is_answered_as_it_comes(folder, expected, monkeypatch, capsys):
    stream = io.BytesIO("".join(f"{json.dumps({'text': t})}\n" for t in TEXTS[:3]).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stream)))
    TextGenerator.from_path(folder).predict_file("-", chunk_rows=1)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["generated"] for line in lines] == expected[:3]


def test_generation_may_be_another_than_in_training(folder):
    writer = TextGenerator.from_path(folder)
    writer.generate_with({"max_new_tokens": 2})
    assert all(len(text.split()) <= 2 for text in writer.predict(TEXTS))
    assert writer.task.generation.scores == ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
    with pytest.raises(ValueError, match="generation has no setting 'beams'; did you mean num_be"):
        writer.generate_with({"beams": 2})


def test_a_checkpoint_writes_with_the_tokenizer_of_its_targets(tmp_path):
    task, small = make_task("bart"), make_small()
    trainer = make_trainer(limit_train_batches=1)
    trainer.fit(task, datamodule=Pairs(target_tokenizer=small))
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    found = TextGenerator.from_path(tmp_path / "last.ckpt")
    assert len(found.target_tokenizer) == 19
    alike = TextGenerator(task.eval(), make_tokenizer(), Tokens())
    alike.target_tokenizer = small
    assert found.predict(TEXTS) == alike.predict(TEXTS)


def test_what_does_not_go_together_is_told(folder):
    writer = TextGenerator.from_path(folder)
    with pytest.raises(ValueError, match="a text is written for one text, not for a pair"):
        writer.predict(["good"], ["bad"])
    with pytest.raises(TypeError, match="must be a list of texts, got one string"):
        writer.predict("good")
    with pytest.raises(
        ValueError, match=r"a SequenceToSequence is not for a Predictor; .*TextGenerator"
    ):
        Predictor.from_path(folder)
    assert SHORT["max_new_tokens"] == 8
