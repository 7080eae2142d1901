import numpy as np
import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from lightning_transfer.data import Tokens
from lightning_transfer.data.tokenization.token_cache import (
    cached_targets,
    cached_tokens,
    fingerprint,
)
from lightning_transfer.data.tokenization.token_table import TargetFrame, tokenize_targets

CLS, SEP = 2, 3


def with_template(tokenizer, template, **special):
    """Return a tokenizer with other special tokens around a text."""
    backend = tokenizer.backend_tokenizer
    names = [part for part in template.split() if part.startswith("[")]
    ids = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", **special
    )


def content(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_targets_of_a_bert_like_tokenizer_have_its_end_token_only(tokenizer):
    table = tokenize_targets(["good film", "bad"], tokenizer=tokenizer, tokens=Tokens())
    rows = [table.row(row)["input_ids"].tolist() for row in range(2)]
    assert rows == [[*content(tokenizer, text), SEP] for text in ("good film", "bad")]
    assert not table.truncated.any()


@pytest.mark.parametrize(
    ("template", "special", "frame"),
    [
        ("$A [SEP]", {"eos_token": "[SEP]"}, ((), (SEP,))),  # T5 and Marian
        (
            "[CLS] $A [SEP]",
            {"bos_token": "[CLS]", "eos_token": "[SEP]"},
            ((CLS,), (SEP,)),
        ),  # BART
        (
            "$A [SEP] [MASK]",
            {"eos_token": "[SEP]"},
            ((), (SEP, 4)),
        ),  # mBART: the language token is last
        ("$A", {"eos_token": "[SEP]"}, ((), (SEP,))),  # GPT-2 adds no end token
    ],
)
def test_the_frame_of_targets_follows_the_tokenizer(tokenizer, template, special, frame):
    other = with_template(tokenizer, template, **special)
    found = TargetFrame.of(other)
    assert (found.start, found.end, found.size) == (*frame, sum(map(len, frame)))


def test_a_tokenizer_without_an_end_token_is_an_error(tokenizer):
    other = with_template(tokenizer, "$A")
    with pytest.raises(ValueError, match=r"no end token .*; set an eos_token"):
        TargetFrame.of(other)


@pytest.mark.parametrize(("truncation", "words"), [("head", [0, 1]), ("tail", [2, 3])])
def test_truncated_targets_keep_the_end_token(tokenizer, truncation, words):
    text = "good bad film plot"
    table = tokenize_targets([text, "good"], tokenizer=tokenizer, tokens=Tokens(3, truncation))
    ids = content(tokenizer, text)
    assert table.row(0)["input_ids"].tolist() == [*(ids[word] for word in words), SEP]
    assert table.truncated.tolist() == [True, False]


def test_targets_need_space_for_a_token_besides_the_end(tokenizer):
    with pytest.raises(
        ValueError, match=r"target_tokens.max_length must be >= 2, got 1: .* 1 special"
    ):
        tokenize_targets(["good"], tokenizer=tokenizer, tokens=Tokens(1))


def test_targets_and_texts_have_different_cache_keys(tokenizer, monkeypatch):
    options = {"tokenizer": tokenizer, "tokens": Tokens()}
    first, texts = cached_targets(["good"], **options), cached_tokens(["good"], None, **options)
    assert first.lengths.tolist() == [2]
    assert texts.lengths.tolist() == [3]
    monkeypatch.setattr("lightning_transfer.data.tokenization.token_cache.tokenize_targets", None)
    second = cached_targets(["good"], **options)
    np.testing.assert_array_equal(first.input_ids, second.input_ids)
    keys = {
        fingerprint(["good"], None, tokenizer, Tokens(), frame=frame)
        for frame in (None, TargetFrame((), (3,)), TargetFrame((), (4,)))
    }
    assert len(keys) == 3


def test_the_prefix_is_prepended_to_each_text(tokenizer):
    tokens = Tokens(5, prefix="good ")
    table = cached_tokens(["bad film plot"], None, tokenizer=tokenizer, tokens=tokens)
    assert table.row(0)["input_ids"].tolist() == [CLS, *content(tokenizer, "good bad film"), SEP]
    plain = cached_tokens(["bad film plot"], None, tokenizer=tokenizer, tokens=Tokens(5))
    assert plain.fingerprint != table.fingerprint


def test_a_prefix_needs_head_truncation():
    with pytest.raises(
        ValueError, match=r"tokens.truncation must be head with .*'a: ', got 'tail'"
    ):
        Tokens(truncation="tail", prefix="a: ")
