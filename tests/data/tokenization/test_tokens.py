import multiprocessing
import os
from types import MappingProxyType

import numpy as np
import pytest

from lightning_transfer.assets import cache_dir
from lightning_transfer.data import Tokens
from lightning_transfer.data.tokenization.token_cache import cached_tokens, fingerprint
from lightning_transfer.data.tokenization.token_table import TokenTable, tokenize

CLS, SEP = 2, 3


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def words(tokenizer):
    """Return a text of ten different words, and their token ids."""
    text = "good great fine fun warm bad poor dull cold sad"
    return text, ids_of(tokenizer, text)


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        (Tokens(6, "head"), [0, 1, 2, 3]),
        (Tokens(6, "tail"), [6, 7, 8, 9]),
        (Tokens(6, "head+tail"), [0, 7, 8, 9]),
        (Tokens(6, "head+tail", head_fraction=0.5), [0, 1, 8, 9]),
        (Tokens(6, "head+tail", head_fraction=1.0), [0, 1, 2, 3]),
        (Tokens(6, "head+tail", head_fraction=0.0), [6, 7, 8, 9]),
        (Tokens(3, "tail"), [9]),
        (Tokens(12, "tail"), list(range(10))),
    ],
)
def test_the_chosen_part_and_the_special_tokens_are_kept(tokenizer, words, tokens, kept):
    text, ids = words
    table = tokenize([text, "film"], None, tokenizer=tokenizer, tokens=tokens)
    assert table.row(0)["input_ids"].tolist() == [CLS, *(ids[place] for place in kept), SEP]
    assert table.row(1)["input_ids"].tolist() == [CLS, *ids_of(tokenizer, "film"), SEP]
    assert table.truncated.tolist() == [len(kept) < 10, False]
    assert table.lengths.tolist() == [len(kept) + 2, 3]


@pytest.mark.parametrize(
    ("tokens", "first", "second"),
    [
        (Tokens(11, "head"), [0, 1, 2, 3, 4], [0, 1, 2]),
        (Tokens(11, "tail"), [5, 6, 7, 8, 9], [0, 1, 2]),
        (Tokens(7, "head"), [0, 1], [0, 1]),
        (Tokens(7, "tail"), [8, 9], [1, 2]),
    ],
)
def test_the_longer_text_of_a_pair_is_truncated_first(tokenizer, words, tokens, first, second):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    text, ids = words
    other = "film movie plot"
    others = ids_of(tokenizer, other)
    table = tokenize([text], [other], tokenizer=tokenizer, tokens=tokens)
    expected = [CLS, *(ids[at] for at in first), SEP, *(others[at] for at in second), SEP]
    assert table.row(0)["input_ids"].tolist() == expected
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert table.row(0)["token_type_ids"].tolist() == types


def test_the_second_text_is_truncated_if_the_first_is_short(tokenizer, words):
    text, ids = words
    table = tokenize(["film"], [text], tokenizer=tokenizer, tokens=Tokens(8))
    expected = [CLS, *ids_of(tokenizer, "film"), SEP, *ids[:4], SEP]
    assert table.row(0)["input_ids"].tolist() == expected


def test_special_tokens_in_a_text_do_not_exceed_max_length(tokenizer):
    text = "good [SEP] bad [CLS] fine [SEP] sad"
    table = tokenize([text], None, tokenizer=tokenizer, tokens=Tokens(5, "tail"))
    assert len(table.row(0)["input_ids"]) == 5
    assert table.row(0)["input_ids"][[0, -1]].tolist() == [CLS, SEP]


def test_head_truncation_equals_that_of_the_tokenizer(tokenizer, words):
    text = words[0]
    own = tokenizer(text, truncation=True, max_length=7)["input_ids"]
    table = tokenize([text], None, tokenizer=tokenizer, tokens=Tokens(7))
    assert table.row(0)["input_ids"].tolist() == own


def test_rows_of_several_chunks_are_in_order(tokenizer):
    texts = ["good " * (row % 5 + 1) for row in range(2500)]
    table = tokenize(texts, None, tokenizer=tokenizer, tokens=Tokens())
    assert table.lengths.tolist() == [row % 5 + 3 for row in range(2500)]


def test_max_length_without_space_for_text_is_an_error(tokenizer):
    message = "tokens.max_length must be >= 3, got 2: the tokenizer adds 2 special tokens"
    with pytest.raises(ValueError, match=message):
        tokenize(["good"], None, tokenizer=tokenizer, tokens=Tokens(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "tokens.max_length must be >= 1, got 0"),
        ({"truncation": "middle"}, "must be one of head, tail, head\\+tail, got 'middle'"),
        ({"head_fraction": 1.5}, "tokens.head_fraction must be in \\[0, 1\\], got 1.5"),
    ],
)
def test_invalid_values_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tokens(**arguments)


def forbid_calls(tokenizer, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(type(tokenizer), "__call__", refuse)


def test_the_second_run_does_not_tokenize(tokenizer, monkeypatch):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    texts = ["good film", "bad film " * 30]
    options = {"tokenizer": tokenizer, "tokens": Tokens(10, "tail")}
    first = cached_tokens(texts, None, **options)
    forbid_calls(tokenizer, monkeypatch)
    second = cached_tokens(texts, None, **options)
    for name in ("input_ids", "starts", "token_type_ids", "truncated"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert [path.suffix for path in (cache_dir() / "tokens").iterdir()] == [".arrow"]


def test_the_cache_key_depends_on_the_content_only(tokenizer, monkeypatch):
    key = fingerprint(["a"], None, tokenizer, Tokens())
    tokenizer(["good"], truncation=True, max_length=3, padding="max_length")
    backend = tokenizer.backend_tokenizer
    kept = (backend.truncation, backend.padding)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fingerprint(["a"], None, tokenizer, Tokens()) == key
    assert (backend.truncation, backend.padding) == kept != (None, None)
    others = [
        fingerprint(["a "], None, tokenizer, Tokens()),
        fingerprint(["a"], ["a"], tokenizer, Tokens()),
        fingerprint(["a"], None, tokenizer, Tokens(64)),
        fingerprint(["a"], None, tokenizer, Tokens(truncation="tail")),
    ]
    tokenizer.add_tokens(["newword"])
    others.append(fingerprint(["a"], None, tokenizer, Tokens()))
    assert len({key, *others}) == 6
    assert fingerprint(["ab", "c"], None, tokenizer, Tokens()) != fingerprint(
        ["a", "bc"], None, tokenizer, Tokens()
    )


def test_a_slow_tokenizer_has_a_fingerprint(tokenizer):
    class Slow:
        init_kwargs = MappingProxyType({"lower": True})
        model_input_names = ("input_ids",)

        def get_vocab(self):
            return {"good": 1}

    assert fingerprint(["a"], None, Slow(), Tokens()) == fingerprint(["a"], None, Slow(), Tokens())


def test_a_broken_cache_file_is_written_again(tokenizer):
    texts = ["good film"]
    cached_tokens(texts, None, tokenizer=tokenizer, tokens=Tokens())
    [path] = (cache_dir() / "tokens").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    table = cached_tokens(texts, None, tokenizer=tokenizer, tokens=Tokens())
    assert table.lengths.tolist() == [4]
    assert TokenTable.read(path).lengths.tolist() == [4]


def test_a_full_disk_does_not_stop_the_run(tokenizer, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    table = cached_tokens(["good film"], None, tokenizer=tokenizer, tokens=Tokens())
    assert table.lengths.tolist() == [4]
    assert "tokens are not cached" in caplog.text
    assert "No space left" in caplog.text
    assert list((cache_dir() / "tokens").iterdir()) == []


def test_the_fingerprint_of_a_cached_table_is_its_cache_key(tokenizer, monkeypatch):
    texts, tokens = ["good film", "bad plot"], Tokens(8)
    key = fingerprint(texts, None, tokenizer, tokens)
    written = cached_tokens(texts, None, tokenizer=tokenizer, tokens=tokens)
    read = cached_tokens(texts, None, tokenizer=tokenizer, tokens=tokens)
    monkeypatch.setattr(TokenTable, "read", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    unwritten = cached_tokens(texts, None, tokenizer=tokenizer, tokens=tokens)
    assert [table.fingerprint for table in (written, read, unwritten)] == [key] * 3


def test_the_fingerprint_of_an_uncached_table_depends_on_its_tokens(tokenizer):
    one, same, other = (
        tokenize([text], None, tokenizer=tokenizer, tokens=Tokens())
        for text in ("good film", "Good film", "good plot")
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint


def _tokenize_in_child(tokenizer, start, results):
    start.wait()
    texts = [f"good film {row}" for row in range(300)]
    table = cached_tokens(texts, None, tokenizer=tokenizer, tokens=Tokens())
    results.put(int(table.input_ids.sum()))


def test_two_processes_may_write_the_cache_at_once(tokenizer):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    children = [
        context.Process(target=_tokenize_in_child, args=(tokenizer, start, results))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    start.set()
    sums = {results.get(timeout=60) for _ in children}
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(sums) == 1
    assert [path.suffix for path in (cache_dir() / "tokens").iterdir()] == [".arrow"]
