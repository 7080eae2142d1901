"""Tagging of long texts in parts, with byte-level tokenizers."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers
from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.data import Tokens
from lightning_transfer.data.tokenization.word_tokens import tokenize_windows
from lightning_transfer.heads import TokenHead
from lightning_transfer.inference import Tagger
from lightning_transfer.tasks import TokenClassification
from lightning_transfer.utils import Labels

NAMES = ("O", "B-X", "I-X")
SPACE = "Ġ"  # space before a word in byte-level BPE, a part of the token of the word
# A space before a word changes the number of its tokens, or is a token itself.
TEXT = "fun film a is é the 日本 fun film is"
SIZES = {"vocab_size": 280, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS = {
    "roberta": transformers.RobertaConfig(
        **SIZES, hidden_size=16, intermediate_size=32, max_position_embeddings=66, pad_token_id=1
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=280, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=5
    ),
}


def byte_level(kind, *, add_prefix_space):
    """Return a tokenizer of RoBERTa or GPT-2 with a few merges."""
    merges = [(SPACE, "f"), (f"{SPACE}f", "u"), (f"{SPACE}fu", "n"), (SPACE, "a"), ("f", "i")]
    merges += [("fi", "l"), ("fil", "m"), ("i", "s"), (SPACE, "is"), (SPACE, "t")]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer_class = {
        "roberta": transformers.RobertaTokenizer,
        "gpt2": transformers.GPT2Tokenizer,
    }[kind]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return tokenizer_class(vocab=vocabulary, merges=merges, add_prefix_space=add_prefix_space)


def make_task(kind):
    torch.manual_seed(0)
    backbone = Backbone.from_config(CONFIGS[kind])
    head = TokenHead(backbone.hidden_size, 3)
    nn.init.normal_(head.out.weight, std=2.0)
    return TokenClassification(backbone, head, labels=Labels("tags", NAMES)).eval()


def expected_tags(task, tokenizer, text, *, length):
    """Split the tokens of a text before words into the longest possible parts, and tag these."""
    pieces = tokenizer.tokenize(text)
    starts = [place for place, piece in enumerate(pieces) if place == 0 or piece[0] == SPACE]
    groups = [pieces[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    bos, eos = ("<s>", "</s>") if len(tokenizer("a")["input_ids"]) > 1 else ((), ())
    around = 2 if bos else 0
    windows = [[]]
    for group in groups:
        if windows[-1] and sum(map(len, windows[-1])) + len(group) > length - around:
            windows.append([])
        windows[-1].append(group)
    tags = []
    for window in windows:
        flat = [piece for group in window for piece in group]
        ids = tokenizer.convert_tokens_to_ids([bos, *flat, eos] if bos else flat)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).int()}
        with torch.inference_mode():
            best = task(inputs)[0].argmax(-1).tolist()[1 if bos else 0 :]
        for group in window:
            tags.append(NAMES[best[group[0] == SPACE and len(group) > 1]])
            best = best[len(group) :]
    return tuple(tags)


@pytest.mark.parametrize("add_prefix_space", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_length_of_parts_gives_the_expected_tags(kind, add_prefix_space):
    tokenizer = byte_level(kind, add_prefix_space=add_prefix_space)
    task = make_task(kind)
    whole = len(tokenizer(TEXT)["input_ids"])
    found = {}
    for length in range(9, whole + 1):  # 日本 with its space is 7 tokens
        tagger = Tagger(task, tokenizer, Tokens(max_length=length), device="cpu")
        tagged, again = tagger.predict([TEXT, TEXT.split()])
        assert tagged == again
        assert tagged.words == tuple(TEXT.split())
        assert tagged.tags == expected_tags(task, tokenizer, TEXT, length=length), length
        assert all(
            entity.text == " ".join(tagged.words[entity.start : entity.end])
            for entity in tagged.entities
        )
        found[tagged.tags] = length
    assert len(found) > 3  # tags depend on the length of the parts


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("length", [3, 4, 6])
def test_words_longer_than_a_part_or_with_spaces_get_one_tag(kind, length):
    tokenizer = byte_level(kind, add_prefix_space=False)
    tagger = Tagger(make_task(kind), tokenizer, Tokens(max_length=length), device="cpu")
    words = ["xyzxyzxyz", "fun", "日本", "       x", "é ", "fun film", "a"]
    texts = [words, words[::-1], ["a"], ["日本"]]
    for tagged, text in zip(tagger.predict(texts), texts, strict=True):
        assert tagged.words == tuple(text)
        assert len(tagged.tags) == len(tagged.scores) == len(text)


def test_the_parts_of_a_long_text_contain_all_of_its_tokens():
    tokenizer = byte_level("roberta", add_prefix_space=False)
    table = tokenize_windows([TEXT.split()], tokenizer=tokenizer, tokens=Tokens(max_length=9))
    rows = [table.row(row)["input_ids"].tolist() for row in range(len(table))]
    assert [token for row in rows for token in row[1:-1]] == tokenizer(TEXT)["input_ids"][1:-1]
    assert table.lengths.max() == 9
    assert table.truncated.all()
    first = table.words[table.words >= 0]
    assert np.array_equal(first, np.arange(len(TEXT.split())))
