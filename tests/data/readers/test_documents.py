import random
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset

from lightning_transfer.data import (
    DomainDocuments,
    FileDocuments,
    LabelSpec,
    Splits,
    TextDataModule,
)
from lightning_transfer.data.batching.sentence_pairs import SentencePairs
from lightning_transfer.data.readers.documents import Document
from lightning_transfer.data.splits.document_index import DocumentIndex, cached_index
from lightning_transfer.data.splits.overlap import Overlap
from lightning_transfer.data.tokenization.document_tokens import cached_documents
from lightning_transfer.data.tokenization.row_frame import Frame
from lightning_transfer.data.tokenization.sentences import split_sentences
from tests.conftest import WORDS


class Listed:
    """Documents in memory, with the number of passes over them."""

    where = "listed"

    def __init__(self, *texts, groups=None):
        self.documents = [
            Document(text, group)
            for text, group in zip(texts, groups or [None] * len(texts), strict=True)
        ]
        self.passes = 0

    def digest(self):
        return repr(self.documents)

    def __iter__(self):
        self.passes += 1
        return iter(self.documents)


def sentences(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 9))) + "." for _ in range(count)]


def stories(count, seed=0, length=8):
    rng = random.Random(seed)
    return [f"{number} " + " ".join(sentences(rng, length)) for number in range(count)]


def texts(documents):
    return [document.text for document in documents]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("blank_line", ["One.\nStill one.", "Two."]),
        ("line", ["One.", "Still one.", "Two."]),
        ("file", ["One.\nStill one.\n\n\nTwo."]),
    ],
)
def test_a_text_file_is_divided_into_documents_by_the_unit(tmp_path, unit, expected):
    path = tmp_path / "book.txt"
    path.write_text("One.\nStill one.\n\n\nTwo.\n")
    assert texts(FileDocuments(path, unit=unit)) == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "One.\n\nTwo.\n"),
        ("a.csv", "text,n\nOne.,1\nTwo.,2\n"),
        ("a.jsonl", '{"text": "One."}\n{"text": "Two."}\n'),
    ],
)
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16"])
def test_a_byte_order_mark_is_removed(tmp_path, name, content, encoding):
    path = tmp_path / name
    # For utf-16, Python writes the byte order mark.
    path.write_bytes(("\ufeff" * (encoding != "utf-16") + content).encode(encoding or "utf-8"))
    assert texts(FileDocuments(path, encoding=encoding)) == ["One.", "Two."]


def test_text_in_another_encoding_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Café".encode("latin-1"))
    for encoding in (None, "utf-16"):
        with pytest.raises(ValueError, match=r"a\.txt: .*; set data.documents.encoding"):
            texts(FileDocuments(path, encoding=encoding))


def test_files_of_a_folder_are_read_in_alphabetical_order(tmp_path):
    (tmp_path / "b.csv").write_text("body,who\nfirst,x\nsecond,y\n")
    (tmp_path / "a.jsonl").write_text('{"body": "zeroth", "who": "x"}\n')
    (tmp_path / "c.txt").write_text("third\n")
    (tmp_path / "notes.md").write_text("not text to read")
    Dataset.from_dict({"body": ["last"], "who": ["z"]}).to_parquet(tmp_path / "d.parquet")
    found = list(FileDocuments(tmp_path, column="body", group="who"))
    assert texts(found) == ["zeroth", "first", "second", "third", "last"]
    assert [document.group for document in found] == ["x", "x", "y", None, "z"]


def test_a_document_above_the_limit_is_divided(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_transfer.data.readers.documents._MAX_CHARS", 10)
    path = tmp_path / "endless.txt"
    path.write_text("a" * 25)
    assert texts(FileDocuments(path, unit="file")) == ["a" * 10, "a" * 10, "a" * 5]


def test_the_digest_depends_on_content_and_options_only(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("One.\n\nTwo.\n")
    first = FileDocuments(path).digest()
    assert FileDocuments(path, unit="line").digest() != first
    path.touch()
    assert FileDocuments(path).digest() == first
    path.write_text("One.\n\nThree.\n")
    assert FileDocuments(path).digest() != first


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            "text\ngood\n",
            {"column": "body"},
            "no column 'body'; set data.documents.column to one of text",
        ),
        ('text,n\n"",1\ngood,2\n', {}, r"a.csv, line 2, column 'text': empty text; correct"),
    ],
)
def test_a_bad_table_is_an_error(tmp_path, content, arguments, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(FileDocuments(path, **arguments))


def test_bad_rows_can_be_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"",1\ngood,2\n')
    assert texts(FileDocuments(path, on_bad_row="skip")) == ["good"]


def test_bad_sources_are_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder .*none.txt; set data.documents"
    ):
        list(FileDocuments(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match=r"has no file of the formats \.csv"):
        list(FileDocuments(tmp_path))
    with pytest.raises(ValueError, match="unit must be one of blank_line, line, file, got 'page'"):
        FileDocuments(tmp_path, unit="page")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt: 'utf-8' codec .* set data.documents.encoding"):
        list(FileDocuments(tmp_path))


def test_labels_are_not_read_for_pretraining():
    class Strange(TextDataModule):
        def load_rows(self):
            table = {"text": ["a", " ", "b"], "label": ["no", "number", None]}
            return Dataset.from_dict({**table, "group": ["x", "x", None]})

    documents = DomainDocuments(Strange(label=LabelSpec("regression")))
    assert list(documents) == [Document("a", "x"), Document("b", None)]


def test_no_group_and_no_text_is_in_two_splits():
    numbers = np.arange(300)
    keys = (numbers % 250).astype(np.uint64) + 7  # fifty duplicate texts
    groups = (numbers // 3).astype(np.uint64)
    index = DocumentIndex(keys, groups, np.zeros(300, dtype=bool))
    split = index.split(Splits(val=20, test=0.2))
    chosen = np.concatenate([split[name] for name in ("train", "validation", "test")])
    assert len(chosen) == len(set(keys[chosen])) == 250
    groups_of = [set(groups[split[name]]) for name in ("train", "validation", "test")]
    assert sum(map(len, groups_of)) == len(set.union(*groups_of))
    assert 50 <= len(split["test"]) < 53
    assert 20 <= len(split["validation"]) < 23


def test_most_documents_stay_in_their_split_when_documents_are_added():
    keys = np.arange(1, 401, dtype=np.uint64)
    few = DocumentIndex(keys[:300], keys[:300], np.zeros(300, dtype=bool))
    many = DocumentIndex(keys, keys, np.zeros(400, dtype=bool))
    splits = Splits(val=0.0, test=0.25)
    before = set(few.split(splits)["test"])
    after = set(many.split(splits)["test"])
    assert len(before & after) > 0.85 * len(before)
    other = set(few.split(Splits(val=0.0, test=0.25, seed=1))["test"])
    assert len(before & other) < 0.5 * len(before)


def test_a_split_size_above_the_documents_is_an_error():
    index = DocumentIndex(*[np.arange(9, dtype=np.uint64)] * 2, np.zeros(9, dtype=bool))
    with pytest.raises(ValueError, match=r"splits.val=5 asks for 5 documents, there are 4 to draw"):
        index.split(Splits(val=5, test=5))


def test_documents_with_texts_of_an_excluded_source_are_left_out():
    quote = "a truly warm film that everybody will remember for years"
    review = f"I went there alone. {quote.upper()}! They wrote so, and it is true of the plot."
    source = Listed("nothing like it in here at all", review, "a truly warm film that I forgot")
    index = cached_index(source, exclude={"movies": Listed(quote)})
    assert index.excluded.tolist() == [False, True, False]
    assert set(np.concatenate([*index.split(Splits(val=0, test=0)).values()])) == {0, 2}


def test_short_texts_are_found_as_a_whole_and_stock_phrases_are_ignored():
    overlap = Overlap(["dull and cold", "very good"])
    assert overlap.holds("It was: dull, and cold. The end.")
    assert not overlap.holds("dull and warm")
    assert not overlap.holds("very good")
    assert overlap.holds("and so, dull and cold")


def test_index_and_tokens_are_read_from_the_cache(tokenizer):
    source = Listed(*stories(4))
    index = cached_index(source, exclude={})
    tokens = cached_documents(source, index.excluded, tokenizer=tokenizer, sentences=True)
    passes = source.passes
    again = cached_index(source, exclude={})
    same = cached_documents(source, again.excluded, tokenizer=tokenizer, sentences=True)
    assert source.passes == passes
    assert again.keys.tolist() == index.keys.tolist()
    assert all((same.ids(d) == tokens.ids(d)).all() for d in range(4))


class Counted:
    """A given number of documents, created during iteration."""

    where = "counted"

    def __init__(self, count):
        self.count = count

    def digest(self):
        return f"counted {self.count}"

    def __iter__(self):
        for number in range(self.count):
            yield Document(f"A good film {number}. A bad plot. " * 8)


def test_memory_hardly_grows_with_the_number_of_documents(tokenizer, monkeypatch):
    monkeypatch.setattr("lightning_transfer.data.tokenization.document_tokens._DOCUMENTS", 32)
    peaks = []
    for count in (100, 1000):
        tracemalloc.start()
        try:
            index = cached_index(Counted(count), exclude={})
            tokens = cached_documents(
                Counted(count), index.excluded, tokenizer=tokenizer, sentences=True
            )
            pairs = SentencePairs(
                tokens, np.arange(count), frame=Frame.of(tokenizer, parts=2), length=32
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(pairs) >= 3 * count
    assert peaks[1] - peaks[0] < 900 * 100  # bytes; a text has 250 characters and 80 tokens


def test_documents_have_the_tokens_of_their_texts(tokenizer, monkeypatch):
    monkeypatch.setattr(
        "lightning_transfer.data.tokenization.document_tokens._DOCUMENTS", 3
    )  # many batches
    source = Listed(*stories(10), "film")
    excluded = np.zeros(11, dtype=bool)
    excluded[3:6] = True  # a whole batch
    plain = cached_documents(source, excluded, tokenizer=tokenizer, sentences=False)
    cut = cached_documents(source, excluded, tokenizer=tokenizer, sentences=True)
    for number, document in enumerate(source):
        ids = (
            []
            if excluded[number]
            else tokenizer(document.text, add_special_tokens=False)["input_ids"]
        )
        assert plain.ids(number).tolist() == cut.ids(number).tolist() == ids
        starts = cut.sentences(number).tolist()
        assert len(starts) == (0 if excluded[number] else len(split_sentences(document.text)))
        full_stop = tokenizer.unk_token_id  # not in the tiny vocabulary
        assert all(ids[start - 1] == full_stop for start in starts[1:])
    assert plain.lengths.sum() == sum(len(plain.ids(d)) for d in range(11))
    assert (plain.counts(np.arange(11), 40).sum()) == plain.lengths.sum()
    assert not isinstance(plain.ids(0).base, type(None))  # a view of the file, not a copy
