"""Fixtures and helpers: tiny models, tokenizers and texts."""

import csv
import gc
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = (
    "good great fine fun warm bad poor dull cold sad film movie plot actor scene the a was is and "
    "very not news market paper story end start"
).split()
GOOD, BAD = WORDS[:5], WORDS[5:10]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # with tiny tensors, more threads only wait for each other


def pytest_collection_finish():
    """Exclude imported objects from garbage collection, which would take 7 % of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _environment():
    """Restore the environment, because Lightning leaves the port and rank of a training in it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch, request):
    """Use an empty cache in each test; tests marked network or slow use that of the user."""
    if request.node.get_closest_marker("network") or request.node.get_closest_marker("slow"):
        return
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("LIGHTNING_TRANSFER_OFFLINE", "1")


def make_tokenizer(**options):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        **options,
    )


def tiny_config(**changes):
    values = {
        "vocab_size": 5 + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }
    return BertConfig(**{**values, **changes})


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def tiny_bert():
    torch.manual_seed(0)
    return BertModel(tiny_config())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder with a tiny pretrained BERT and its tokenizer, as from the hub."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    BertModel(tiny_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_rows(count, seed=0):
    """Return rows of texts; the rating is the number of good words minus that of bad words."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        balance = rng.randint(-2, 2)
        mood = [rng.choice(GOOD if balance > 0 else BAD) for _ in range(abs(balance))]
        filler = [rng.choice(WORDS[10:]) for _ in range(rng.randint(3, 12))]
        words = mood + filler
        rng.shuffle(words)
        name = "positive" if balance > 0 else "negative" if balance < 0 else "neutral"
        rows.append({"id": str(number), "text": " ".join(words), "rating": balance, "mood": name})
    return rows


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """Helper for tiny whole runs, with one cache per test module."""
    from tests.runs import Runs  # late: it imports Lightning, which most tests do not need

    return Runs(tiny_folder, tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _reset_watch():
    """Reset ``tests.runs.Watch``, whose class attributes outlive a test."""
    if module := sys.modules.get("tests.runs"):
        module.Watch.reset()


@pytest.fixture(scope="session")
def reviews(tmp_path_factory) -> Path:
    """Csv file of 160 texts with the columns id, text, rating and mood."""
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    rows = make_rows(160)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
