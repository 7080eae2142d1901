from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_transfer.data import BlockSpec, Masking, RawText, Splits
from lightning_transfer.data.batching.blocks import Blocks
from lightning_transfer.data.batching.masking import Masker
from lightning_transfer.data.batching.sentence_pairs import SentencePairs
from lightning_transfer.data.splits.document_index import cached_index
from lightning_transfer.data.tokenization.document_tokens import cached_documents
from lightning_transfer.data.tokenization.row_frame import Frame
from lightning_transfer.utils import Labels
from tests.conftest import WORDS
from tests.data.readers.test_documents import Listed, stories

CLS, SEP, MASK = 2, 3, 4


def random():
    return np.random.default_rng(0)


def table(tokenizer, source, sentences=False):
    excluded = cached_index(source, exclude={}).excluded
    return cached_documents(source, excluded, tokenizer=tokenizer, sentences=sentences)


def raw(tokenizer, *, count=30, **arguments):
    data = RawText(
        Listed(*stories(count)),
        **{"splits": Splits(val=4, test=4), "batch_size": 4, "blocks": BlockSpec(20), **arguments},
    )
    data.tokenizer = tokenizer
    return data


@pytest.mark.parametrize("packing", ["packed", "cut"])
@pytest.mark.parametrize("length", [5, 16, 31, 500])
def test_blocks_contain_every_token_once_and_in_order(tokenizer, packing, length):
    tokens = table(tokenizer, Listed(*stories(5), "film", *stories(2, seed=4)))
    documents = np.array([3, 0, 5, 6])
    frame = Frame.of(tokenizer, parts=1)
    blocks = Blocks(tokens, documents, frame=frame, length=length, packing=packing, separator=SEP)
    rows = [blocks.row(i, random())["input_ids"] for i in range(len(blocks))]
    assert [len(row) for row in rows] == blocks.lengths.tolist()
    assert max(blocks.lengths) <= length
    assert all(row[0] == CLS and row[-1] == SEP for row in rows)
    content = np.concatenate([row[1:-1] for row in rows])
    expected = [tokens.ids(d) for d in documents]
    if packing == "packed":
        assert (blocks.lengths[:-1] == length).all()
        joined = [part for ids in expected for part in (ids, [SEP])]
        expected = joined[:-1]
    assert content.tolist() == np.concatenate(expected).tolist()


def test_special_tokens_of_packed_rows_are_never_masked(tokenizer):
    tokens = table(tokenizer, Listed(*stories(5)))
    frame = Frame.of(tokenizer, parts=1)
    blocks = Blocks(tokens, np.arange(5), frame=frame, length=500, separator=SEP)
    row = blocks.row(0, random())
    assert (row["input_ids"] == SEP).sum() == 5  # one after each document
    assert np.isin(row["input_ids"], [CLS, SEP]).tolist() == row["special"].tolist()


def test_blocks_without_space_for_text_are_an_error(tokenizer):
    tokens = table(tokenizer, Listed(*stories(2)))
    with pytest.raises(ValueError, match=r"blocks.length must be >= 3, got 2: .* adds 2 special"):
        Blocks(tokens, np.arange(2), frame=Frame.of(tokenizer, parts=1), length=2)


def test_the_frame_has_the_special_tokens_of_the_tokenizer(tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    one, other = (np.array(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in WORDS[:2])
    row = Frame.of(tokenizer, parts=2).row(one, other)
    whole = tokenizer(*WORDS[:2], return_special_tokens_mask=True)
    assert row["input_ids"].tolist() == whole["input_ids"]
    assert row["token_type_ids"].tolist() == whole["token_type_ids"]
    assert row["special"].astype(int).tolist() == whole["special_tokens_mask"]


def find(part, tokens, documents):
    """Yield the documents with a sequence of tokens, and its position."""
    for document in documents:
        ids = tokens.ids(document)
        for start in range(len(ids) - len(part) + 1):
            if (ids[start : start + len(part)] == part).all():
                yield document, start


@pytest.mark.parametrize("length", [24, 60])
def test_half_of_the_sentence_pairs_are_from_two_documents(tokenizer, length):
    tokens = table(tokenizer, Listed(*stories(12)), sentences=True)
    frame, documents = Frame.of(tokenizer, parts=2), np.arange(12)
    pairs = SentencePairs(tokens, documents, frame=frame, length=length)
    generator, kinds = random(), []
    for position in [*range(len(pairs))] * 4:
        row = pairs.row(position, generator)
        assert len(row["input_ids"]) <= length
        seps = np.flatnonzero(row["special"])
        first, second = (row["input_ids"][a + 1 : b] for a, b in pairwise(seps))
        assert len(first)
        assert len(second)
        where = set(find(np.concatenate([first, second]), tokens, documents))
        kinds.append(int(row["pair"]))
        if row["pair"] == 0:
            assert where  # the second part follows the first
        else:
            assert not where
            assert list(find(second, tokens, documents))
    assert 0.4 < np.mean(kinds) < 0.6


def test_lengths_do_not_reveal_the_relation_of_a_pair(tokenizer):
    tokens = table(tokenizer, Listed(*stories(40, length=12)), sentences=True)
    frame = Frame.of(tokenizer, parts=2)
    pairs = SentencePairs(tokens, np.arange(40), frame=frame, length=40)
    generator = random()
    rows = [pairs.row(i, generator) for i in [*range(len(pairs))] * 8]
    sizes = [[len(r["input_ids"]) for r in rows if r["pair"] == kind] for kind in (0, 1)]
    assert np.mean(sizes[0]) == pytest.approx(np.mean(sizes[1]), rel=0.03)


def test_pairs_need_two_documents(tokenizer):
    tokens = table(tokenizer, Listed(*stories(2)), sentences=True)
    frame = Frame.of(tokenizer, parts=2)
    with pytest.raises(ValueError, match="at least 2 documents of two sentences"):
        SentencePairs(tokens, np.array([1]), frame=frame, length=24)


NO_TOKENS = "\u200b \u200b\n\u200b"  # a text without tokens


@pytest.mark.parametrize("packing", ["packed", "cut", "pairs"])
@pytest.mark.parametrize("batch", [1, 512])
def test_documents_without_tokens_do_not_change_the_rows(tokenizer, packing, batch, monkeypatch):
    monkeypatch.setattr("lightning_transfer.data.tokenization.document_tokens._DOCUMENTS", batch)
    texts = stories(8)
    empty = [NO_TOKENS + "\u200b" * number for number in range(4)]
    assert not tokenizer(empty[0], add_special_tokens=False)["input_ids"]
    found = []
    for source, documents in (
        (Listed(*texts), np.arange(8)),
        (Listed(empty[0], *texts[:3], *empty[1:3], *texts[3:], empty[3]), np.arange(12)),
    ):
        tokens = table(tokenizer, source, sentences=packing == "pairs")
        frame = Frame.of(tokenizer, parts=2 if packing == "pairs" else 1)
        rows = (
            SentencePairs(tokens, documents, frame=frame, length=30)
            if packing == "pairs"
            else Blocks(tokens, documents, frame=frame, length=30, packing=packing, separator=SEP)
        )
        made = [rows.row(i, random())["input_ids"].tolist() for i in range(len(rows))]
        counts = tokens.counts(documents, len(tokenizer))
        found.append((made, rows.lengths.tolist(), counts.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("packing", ["packed", "cut", "pairs"])
def test_text_without_tokens_is_an_error(tokenizer, packing):
    data = RawText(
        Listed(*(NO_TOKENS + "\u200b" * number for number in range(9))),
        splits=Splits(val=3, test=3),
        blocks=BlockSpec(20, packing),
    )
    data.tokenizer = tokenizer
    with pytest.raises(ValueError, match="listed: no train rows; add more text"):
        data.setup("fit")


def test_tokens_are_masked_in_the_proportions_of_bert(tokenizer):
    masker = Masker(Masking(), tokenizer)
    ids = np.array([CLS, *([9, 10, 11, 12] * 50), SEP])
    special = np.array([True, *[False] * 200, True])
    generator = random()
    counts = np.zeros(3)
    for _ in range(100):
        seen, targets = masker(ids, special, generator)
        chosen = targets != -100
        assert chosen.sum() == 30
        assert (targets[chosen] == ids[chosen]).all()
        assert (seen[~chosen] == ids[~chosen]).all()
        assert not chosen[special].any()
        counts += [
            (seen[chosen] == MASK).sum(),
            ((seen[chosen] != MASK) & (seen[chosen] != ids[chosen])).sum(),
            (seen[chosen] == ids[chosen]).sum(),
        ]
        assert seen[chosen & (seen != MASK)].min() >= 5  # no special token by chance
    # A random token may be the original one, but rarely enough for the tolerance.
    assert counts / counts.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_whole_words_are_masked_completely(tokenizer):
    masker = Masker(Masking(whole_words=True, masked=1.0, random=0.0), tokenizer)
    masker._continues = np.arange(40) >= 20  # ids of sub-words, such as ##ing
    ids = np.array([CLS, *([6, 21, 22, 7, 8, 23] * 6), SEP])
    words = np.array([-1, *np.cumsum([1, 0, 0, 1, 1, 0] * 6), -1])
    generator = random()
    for _ in range(50):
        _, targets = masker(ids, words < 0, generator)
        chosen = set(words[targets != -100])
        assert (np.isin(words, [*chosen]) == (targets != -100)).all()
        assert 5 <= (targets != -100).sum() <= 5 + 2


def test_every_row_has_a_masked_token(tokenizer):
    _, targets = Masker(Masking(), tokenizer)(
        np.array([CLS, 7, SEP]), np.array([True, False, True]), random()
    )
    assert targets.tolist() == [-100, 7, -100]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 0.0}, r"masking.probability must be in \(0, 1\), got 0.0"),
        ({"masked": 1.2}, r"masking.masked must be in \[0, 1\], got 1.2"),
        ({"masked": 0.9, "random": 0.2}, "masked=0.9 and masking.random=0.2 add up to more than 1"),
    ],
)
def test_bad_masking_fractions_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Masking(**arguments)


def test_a_tokenizer_without_a_mask_token_is_an_error(tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask token: masked language modelling needs"):
        Masker(Masking(), tokenizer)


def epochs(data, count=2):
    loader = data.train_dataloader()
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        found.append(list(loader))
    return found


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and set(one) == set(other)


def test_training_masks_depend_only_on_epoch_and_seed(tokenizer):
    first, second = epochs(raw(tokenizer))
    again, _ = epochs(raw(tokenizer))
    assert all(equal(*pair) for pair in zip(first, again, strict=True))
    by_row = [
        {int(i): row for b in batches for i, row in zip(b["index"], b["labels"], strict=True)}
        for batches in (first, second)
    ]
    assert any(not torch.equal(by_row[0][i], by_row[1][i]) for i in by_row[0])
    other = raw(tokenizer)
    other.seed = 1
    assert not all(equal(*pair) for pair in zip(first, epochs(other, 1)[0], strict=True))
    larger = epochs(raw(tokenizer, batch_size=8), 1)[0]  # masks do not depend on the batch
    for batch in larger:
        for index, labels in zip(batch["index"], batch["labels"], strict=True):
            own = by_row[0][int(index)]
            size = min(len(own), len(labels))
            assert torch.equal(own[:size], labels[:size])


@pytest.mark.parametrize("packing", ["packed", "pairs"])
def test_a_resumed_epoch_continues_with_the_same_batches(tokenizer, packing):
    data = raw(tokenizer, blocks=BlockSpec(24, packing))
    loader = data.train_dataloader()
    loader.set_epoch(1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = data.state_dict()
    rest = list(batches)
    resumed = raw(tokenizer, blocks=BlockSpec(24, packing))
    resumed.load_state_dict(state)
    found = list(resumed.train_dataloader())
    assert len(found) == len(rest) > 2
    assert all(equal(*pair) for pair in zip(rest, found, strict=True))


def test_evaluation_masks_never_change(tokenizer):
    first = list(raw(tokenizer).val_dataloader())
    data = raw(tokenizer)
    data.seed = 5
    loader = data.val_dataloader()
    loader.batch_sampler.set_epoch(3)
    assert all(equal(*pair) for pair in zip(first, list(loader), strict=True))


def test_batches_have_the_inputs_and_targets_of_the_task(tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    data = raw(tokenizer, blocks=BlockSpec(24, "pairs"))
    data.setup("fit")
    assert data.labels == Labels("masked_tokens", ("next", "other"))
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        shape = batch["input_ids"].shape
        for name in ("attention_mask", "token_type_ids", "labels"):
            assert batch[name].shape == shape
            assert batch[name].dtype == torch.int64
        padding = batch["attention_mask"] == 0
        assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
        assert (batch["labels"][padding] == -100).all()
        assert ((batch["labels"] != -100).sum(1) > 0).all()
        assert set(batch["pair_labels"].tolist()) <= {0, 1}
        assert len(batch["pair_labels"]) == len(batch["index"]) == shape[0]


def test_the_unigram_loss_is_computed_from_the_training_text(tokenizer):
    data = raw(tokenizer)
    data.setup("fit")
    counts = np.ones(len(tokenizer))
    for text in data.training_texts():
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            counts[token] += 1
    [batch, *_] = data.val_dataloader()
    targets = batch["labels"][batch["labels"] != -100]
    expected = -np.log(counts / counts.sum())[targets.numpy()]
    assert batch["unigram_loss"].numpy() == pytest.approx(expected, rel=1e-5)
    assert "unigram_loss" not in next(iter(data.train_dataloader()))


def test_two_ranks_share_the_rows_and_their_masks(tokenizer):
    whole = {
        int(i): row
        for batch in raw(tokenizer).train_dataloader()
        for i, row in zip(batch["index"], batch["labels"], strict=True)
    }
    seen = []
    for rank in (0, 1):
        data = raw(tokenizer)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, overfit_batches=0)
        for batch in data.train_dataloader():
            for index, row in zip(batch["index"], batch["labels"], strict=True):
                seen.append(int(index))
                size = min(len(row), len(whole[int(index)]))
                assert torch.equal(row[:size], whole[int(index)][:size])
    assert set(seen) == set(whole)


def test_train_size_selects_documents(tokenizer):
    data = raw(tokenizer, train_size=5)
    texts = list(data.training_texts())
    assert len(texts) == 5
    data.seed = 1
    assert list(data.training_texts()) != texts
    with pytest.raises(ValueError, match="train_size=90 asks for more than the 22 training docu"):
        raw(tokenizer, train_size=90).setup("fit")


@pytest.mark.parametrize(("size", "counts"), [(5, ["13", "13"]), (11, ["30"]), (None, ["30"])])
def test_a_small_subset_is_tokenized_alone_and_a_large_one_with_all_documents(
    tokenizer, caplog, size, counts
):
    caplog.set_level("INFO")
    data = raw(tokenizer, train_size=size)
    data.prepare_data()
    for seed in (0, 1, 0):
        data.seed = seed
        rows = data.rows("train")
        found = np.concatenate([rows.row(i, random())["input_ids"] for i in range(len(rows))])
        texts = " ".join(data.training_texts())
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert sorted(token for token in found if token not in (CLS, SEP)) == sorted(ids)
        assert np.isfinite(data.unigram).all()
        assert len(data.rows("validation"))
    logged = [message for message in caplog.messages if "tokenizing" in message]
    assert logged == [f"listed: tokenizing {count} documents" for count in counts]


def test_missing_rows_or_tokenizer_are_an_error(tokenizer):
    with pytest.raises(ValueError, match="listed: no validation documents; add more text"):
        raw(tokenizer, splits=Splits(val=0, test=1)).setup("validate")
    with pytest.raises(ValueError, match="listed has no documents"):
        RawText(Listed()).setup("fit")
    with pytest.raises(ValueError, match=r"blocks.packing must be one of packed, cut, pairs, got"):
        BlockSpec(packing="loose")
    with pytest.raises(RuntimeError, match=r"no tokenizer: set data.tokenizer"):
        RawText(Listed(*stories(9))).train_dataloader()
