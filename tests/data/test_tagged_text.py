import json
import logging
from itertools import islice

import numpy as np
import pytest
import torch

from lightning_transfer.data import (
    Columns,
    Conll,
    LabelSpec,
    Splits,
    TaggedFiles,
    TaggedText,
    TagSpec,
    Tokens,
)
from lightning_transfer.data.tokenization import token_cache
from tests.conftest import WORDS

NEWS = """-DOCSTART- -X- O

Ada NNP B-PER
Lovelace NNP I-PER
wrote VBD O

In IN O
Paris NNP B-LOC

-DOCSTART- -X- O

It PRP O
rained VBD O
"""


def conll(tmp_path, text=NEWS, name="news.conll", **arguments):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Conll(str(path), **{"splits": Splits(val=0, test=0), **arguments})


def rows_of(data):
    data.setup("fit")
    names = data.labels.names
    found = sorted(data.rows("train"), key=lambda row: int(row["row"].split()[-1]))
    return {row["text"]: [names[tag] for tag in row["label"]] for row in found}


class Tags(TaggedText):
    """Random sentences with words of mood as entities; adjacent ones of a type are one."""

    def load_rows(self):
        draw = np.random.default_rng(0)
        text, label = [], []
        for _ in range(60):
            words = draw.choice(WORDS, draw.integers(3, 12)).tolist()
            moods = ["GOOD" if w in WORDS[:5] else "BAD" if w in WORDS[5:10] else "" for w in words]
            pairs = zip(["", *moods], moods, strict=False)
            text.append(words)
            label.append([f"{'I' if k == b else 'B'}-{k}" if k else "O" for b, k in pairs])
        return {"text": text, "label": label}


def test_a_conll_file_is_read_as_sentences_with_tags(tmp_path):
    data = conll(tmp_path)
    assert rows_of(data) == {
        "Ada Lovelace wrote": ["B-PER", "I-PER", "O"],
        "In Paris": ["O", "B-LOC"],
        "It rained": ["O", "O"],
    }
    assert data.labels.kind == "tags"
    assert data.labels.names == ("O", "B-LOC", "B-PER", "I-PER")
    assert data.rows("train")[0]["row"].startswith("news.conll, line ")
    assert data.label_counts == {"O": 4, "B-LOC": 1, "B-PER": 1, "I-PER": 1}
    assert data.where == "news.conll"


def test_columns_are_selected_by_number(tmp_path):
    data = conll(tmp_path, columns=Columns(text="0", label="1"), label=TagSpec(scheme="plain"))
    assert rows_of(data)["In Paris"] == ["IN", "NNP"]


@pytest.mark.parametrize("text", [NEWS, NEWS.removeprefix("-DOCSTART- -X- O\n\n")])
def test_a_byte_order_mark_is_removed(tmp_path, text):
    data = conll(tmp_path, "\ufeff" + text)
    assert list(rows_of(data)) == ["Ada Lovelace wrote", "In Paris", "It rained"]


def test_tabs_comments_and_windows_line_ends_are_read(tmp_path):
    text = "# id = 1\r\n#tag\tO\r\nnew york\tB-LOC\r\n\r\n# sent_id 2\r\nfun\tO\r\n"
    assert rows_of(conll(tmp_path, text)) == {"#tag new york": ["O", "B-LOC"], "fun": ["O"]}


def test_a_byte_order_mark_and_lines_of_white_space_are_not_words(tmp_path):
    text = b"\xef\xbb\xbfnew B-LOC\r\nyork  I-LOC \r\n \t\r\nfun O\r\n\xc2\xa0\r\nit O"
    data = conll(tmp_path, text)
    assert rows_of(data) == {"new york": ["B-LOC", "I-LOC"], "fun": ["O"], "it": ["O"]}


def test_a_document_start_after_a_byte_order_mark_is_not_a_word(tmp_path):
    text = b"\xef\xbb\xbf-DOCSTART- -X- O\nAda NNP B-PER\n-DOCSTART-\nIt PRP O\n-DOCSTART-x NN O\n"
    assert rows_of(conll(tmp_path, text)) == {"Ada": ["B-PER"], "It -DOCSTART-x": ["O", "O"]}


@pytest.mark.parametrize(
    ("line", "separator", "message"),
    [
        ("in\tO", " ", r"line 2 has 1 column\(s\) separated by spaces, most lines have 2"),
        ("in O", "\t", r"line 2 has 1 column\(s\) separated by tabs, most lines have 2"),
        ("#", " ", r"line 2 has 1 column\(s\)"),
        ("#in", "\t", r"line 2 has 1 column\(s\)"),
        ("#\tNN\tO", "\t", r"line 2 has 3 column\(s\)"),
        ("#end of document", " ", r"line 2 has 3 column\(s\)"),
    ],
)
def test_a_line_with_other_columns_makes_only_its_sentence_bad(tmp_path, line, separator, message):
    good = "Ada|B-PER\n{}\nin|O\n\nIt|O\nrained|O\n\nEve|B-PER\n"
    text = good.replace("|", separator).format(line)
    with pytest.raises(ValueError, match=f"news.conll, line 1, {message}"):
        conll(tmp_path, text).setup("fit")
    data = conll(tmp_path, text, on_bad_row="skip")
    assert rows_of(data) == {"It rained": ["O", "O"], "Eve": ["B-PER"]}


WORD_OR_NOT = [
    ("# id\nAda B-PER\n\nIt O\n", "Ada|It"),  # as many columns as the others
    ("# id\n# text\nAda B-PER\n\n# id\nIt O\n", "Ada|It"),
    ("#begin document (1)\n#\nAda B-PER\n\nIt O\n\n#end of it all\n", "Ada|It"),
    ("# O\n1 B-N\n\nIt O\n", "# 1|It"),  # a tag of other lines too
    ("#fun O\nAda B-PER\n\nIt O\n", "#fun Ada|It"),
    ("Ada B-PER\n# I-PER\n# a note here\n1 I-PER\nis O\n\n# O\n", "Ada # 1 is|#"),
    ("# x y\nAda\tB-PER\n# a note\nis\tO\n#\tO\n\n#\tO\n", "Ada is #|#"),
    ("#\thttp://x\t[y]\nAda\tB-PER\n\nIt\tO\n", "Ada|It"),
]


@pytest.mark.parametrize(("text", "sentences"), WORD_OR_NOT)
def test_a_line_with_a_hash_is_a_comment_or_a_word(tmp_path, text, sentences):
    assert "|".join(rows_of(conll(tmp_path, text))) == sentences


def test_a_hash_with_its_own_tag_is_a_word_if_another_line_has_this_tag(tmp_path):
    text = "a DT\n# #\n200 CD\n\n# #\n5 CD\n"
    assert rows_of(conll(tmp_path, text)) == {"a # 200": ["DT", "#", "CD"], "# 5": ["#", "CD"]}


@pytest.mark.parametrize("unknown", ["O-", "B", "-X-", "b-per", "E-PER", "PER"])
def test_an_unknown_tag_makes_only_its_sentence_bad(tmp_path, unknown, caplog):
    good = "Ada B-PER\nLovelace I-PER\n\nIt O\n\nEve B-PER\n"
    text = f"{good}\nfun O\nold {unknown}\n\nbad O\nman I-PER\n"
    fault = (
        rf"line 9, word 2, 'old': '{unknown}' is not a bio tag, allowed: O, B-… and I-…; set data"
    )
    with pytest.raises(ValueError, match=rf"news.conll, {fault}.* to bio, iob1, iobes, or plain"):
        conll(tmp_path, text).setup("fit")
    data = conll(tmp_path, text, on_bad_row="skip")
    assert list(rows_of(data)) == ["Ada Lovelace", "It", "Eve"]
    assert "skipped 2 bad rows of 5" in caplog.text
    corrected = conll(tmp_path, text.rpartition("\nbad")[0], label=TagSpec(values={unknown: "O"}))
    assert rows_of(corrected)["fun old"] == ["O", "O"]


def test_detected_plain_tags_are_logged_and_an_entity_tag_among_them_is_an_error(tmp_path, caplog):
    text = "It PRP\nrained VBD\n\nAda B-PER\n"
    with pytest.raises(ValueError, match="line 4, word 1, 'Ada': 'B-PER' is an entity tag"):
        conll(tmp_path, text).setup("fit")
    with caplog.at_level(logging.INFO):
        conll(tmp_path, "It PRP\nrained VBD\n").setup("fit")
    assert "detected tag scheme plain, tags are used unchanged" in caplog.text
    data = conll(tmp_path, text, label=TagSpec(scheme="plain"))
    assert rows_of(data)["Ada"] == ["B-PER"]


def test_contractions_of_conllu_are_not_words(tmp_path):
    blank = "\t_" * 6
    words = [("1-2", "dámelo", "_"), ("1", "da", "VERB"), ("2", "me", "PRON"), ("2.1", "x", "X")]
    lines = [f"{number}\t{word}\t_\t{tag}{blank}" for number, word, tag in words]
    data = conll(tmp_path, "\n".join(lines), "a.conllu", columns=Columns(text="1", label="3"))
    assert rows_of(data) == {"da me": ["VERB", "PRON"]}


def test_documents_as_groups_stay_in_one_split(tmp_path):
    sentences = "".join(f"w{i} O\nx{i} B-A\n\n" for i in range(4))
    text = "".join(f"-DOCSTART- O\n\n{sentences.replace('w', f'd{d}')}" for d in range(6))
    columns = Columns(text="0", label="-1", group="document")
    data = conll(tmp_path, text, columns=columns, splits=Splits(val=4, test=8))
    data.setup("fit")
    documents = [{t.split("w")[0][:2] for t in data.rows(s)["text"]} for s in ("test", "train")]
    assert data.n_test == 8
    assert not documents[0] & documents[1]


def test_files_of_a_folder_are_the_splits(tmp_path):
    for name, words in (("train", "a b c"), ("dev", "d"), ("test", "e f")):
        lines = "\n\n".join(f"{word} {'B-X' if word in 'ad' else 'O'}" for word in words.split())
        (tmp_path / f"{name}.conll").write_text(lines)
    data = Conll(str(tmp_path))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (3, 1, 2)


@pytest.mark.parametrize("scheme", [None, "iob1"])
def test_other_schemes_are_converted_to_bio_and_detected_ones_are_logged(tmp_path, caplog, scheme):
    text = "Ada I-PER\nLovelace I-PER\nin O\nParis I-LOC\n"
    with caplog.at_level(logging.INFO):
        data = conll(tmp_path, text, label=TagSpec(scheme=scheme))
        assert list(rows_of(data).values()) == [["B-PER", "I-PER", "O", "B-LOC"]]
    logged = [line for line in caplog.messages if "iob1, tags are converted to bio" in line]
    assert len(logged) == (scheme is None)


BAD = [
    ("Ada B-PER\nwrote\n\nIt O\n", r"line 1, line 2 has 1 column\(s\) separated by spaces, most"),
    (
        "Ada B-PER\n# a comment of more words\nLovelace I-LOC\n\nIt O\n",
        "news.conll, line 3, word 2, 'Lovelace': 'I-LOC' cannot follow 'B-PER' in bio",
    ),
    (
        "Ada B-PER\nwrote E-PER\n\nIt O\n\nis O\n",
        r"line 2, word 2, 'wrote': 'E-PER' is not a bio tag",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_sentence_is_an_error_with_file_and_line(tmp_path, text, message):
    spec = TagSpec(scheme="bio")
    with pytest.raises(ValueError, match=message):
        conll(tmp_path, text, label=spec).setup("fit")


def test_a_bad_sentence_is_skipped_with_one_warning(tmp_path, caplog):
    text = f"{BAD[1][0]}\nEve B-PER\n"
    data = conll(tmp_path, text, label=TagSpec(scheme="bio"), on_bad_row="skip")
    assert rows_of(data) == {"It": ["O"], "Eve": ["B-PER"]}
    assert "skipped 1 bad rows of 3" in caplog.text


def test_given_names_determine_the_order_and_other_tags_are_errors(tmp_path):
    names = ("B-PER", "I-PER", "O")
    with pytest.raises(ValueError, match=r"line 8, word 2, 'Paris': unknown tag 'B-LOC'"):
        conll(tmp_path, label=TagSpec(names)).setup("fit")
    data = conll(tmp_path, label=TagSpec(names, values={"B-LOC": "O"}))
    assert data.labels.names == names  # before setup
    assert rows_of(data)["In Paris"] == ["O", "O"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"columns": Columns(text="0", label="7")},
            "columns.label must be a column number .* got '7'",
        ),
        (
            {"columns": Columns(text="word", label="1")},
            "columns.text must be a column number .*'word'",
        ),
        (
            {"columns": Columns(text="0", label="1", group="x")},
            "columns.group must be document or null",
        ),
        (
            {"columns": Columns(text="2", label="-1")},
            "text=2 and columns.label=-1 are the same column of 3",
        ),
        (
            {"text": "Ada\nwrote\n"},
            "text=0 and columns.label=-1 are the same column of 1; set data.columns.l",
        ),
        ({"text": "\n\n"}, "news.conll has no sentences"),
        ({"text": b"a O\n\xff B-X\n"}, "news.conll, line 2: .*UTF-8"),
        ({"text": "a O\n\nb O\n"}, r"at least 2 different tags are needed, the data have \['O'\]"),
        (
            {"label": LabelSpec("single_label")},
            "label of Conll must be a TagSpec, got LabelSpec",
        ),
    ],
)
def test_an_unreadable_file_is_an_error(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        conll(tmp_path, **arguments).setup("fit")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none.conll"):
        Conll(str(tmp_path / "none.conll")).setup("fit")
    with pytest.raises(FileNotFoundError, match="no file given"):
        Conll().setup("fit")


@pytest.mark.parametrize("arguments", [{"scheme": "bioes"}, {"names": ["O"]}])
def test_a_bad_tag_spec_is_an_error(arguments):
    with pytest.raises(ValueError, match=r"got 'bioes'|need 2 or more names, got \['O'\]"):
        TagSpec(**arguments)


def jsonl(tmp_path, *rows, **arguments):
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaggedFiles(str(path), **{"splits": Splits(val=0, test=0), **arguments})


def test_lists_of_words_and_tags_in_jsonl_are_read(tmp_path):
    data = jsonl(
        tmp_path,
        {"id": 1, "tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
        {"id": 2, "tokens": ["It"], "tags": ["O"]},
    )
    assert rows_of(data) == {"Ada wrote": ["B-PER", "O"], "It": ["O"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags.jsonl, line 2, 2 words, but 1 tags"),
        ({"tokens": "a b", "tags": ["O"]}, "column 'tokens': a list of words is needed, got 'a b'"),
        ({"tokens": [], "tags": []}, "line 2, column 'tokens': no words"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "column 'tokens': word 2: empty text"),
        ({"tokens": ["a"], "tags": [3]}, r"column 'tags': a list of tags is needed, got \[3\]"),
        ({"tokens": ["a"], "tags": ["I-X"]}, "line 2, word 1, 'a': 'I-X' cannot start a sent"),
    ],
)
def test_a_bad_row_of_lists_is_an_error_with_its_line(tmp_path, row, message):
    good = [{"tokens": ["It"], "tags": ["B-X"]}, {"tokens": ["is"], "tags": ["O"]}]
    with pytest.raises(ValueError, match=message):
        jsonl(tmp_path, good[0], row, good[1]).setup("fit")


def test_words_and_tags_must_be_different_columns(tmp_path):
    with pytest.raises(
        ValueError, match=r"columns.text and columns.label must be different columns, got 'tok"
    ):
        jsonl(tmp_path, {"tokens": ["O"]}, columns=Columns(text="tokens", label="tokens"))


def test_a_missing_column_is_an_error_with_the_columns_of_the_file(tmp_path):
    with pytest.raises(
        ValueError, match=r"no column 'tags' for the label; .* to one of ner, tokens"
    ):
        jsonl(tmp_path, {"tokens": ["a"], "ner": ["O"]}).setup("fit")


@pytest.fixture
def tags(tokenizer):
    data = Tags(splits=Splits(val=10, test=10), batch_size=8)
    data.tokenizer = tokenizer
    data.setup("fit")
    return data


def test_batches_have_one_target_per_word(tags):
    for batch in tags.test_dataloader():
        assert batch["labels"].shape == batch["input_ids"].shape
        assert batch["labels"].dtype == torch.int64
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
        for row, index in enumerate(batch["index"]):
            labels = batch["labels"][row]
            assert labels[labels != -100].tolist() == tags.rows("test")[int(index)]["label"]


def test_cached_tokens_keep_their_words(tags, tokenizer, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(token_cache, "tokenize_words", fail)
    again = Tags(splits=Splits(val=10, test=10))
    again.tokenizer = tokenizer
    again.setup("fit")
    assert np.array_equal(again.token_table.words, tags.token_table.words)
    assert again.token_table.fingerprint == tags.token_table.fingerprint


def test_training_resumes_in_the_middle_of_an_epoch(tags, tokenizer):
    loader = tags.train_dataloader()
    batches = iter(loader)
    list(islice(batches, 2))
    resumed = Tags(splits=Splits(val=10, test=10), batch_size=8)
    resumed.tokenizer = tokenizer
    resumed.setup("fit")
    resumed.load_state_dict(tags.state_dict())
    remaining = [batch["index"].tolist() for batch in batches]
    assert remaining
    assert [batch["index"].tolist() for batch in resumed.train_dataloader()] == remaining


def test_the_number_of_truncated_sentences_is_logged(tokenizer, caplog):
    data = Tags(splits=Splits(val=10, test=10), tokens=Tokens(max_length=6))
    data.tokenizer = tokenizer
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    long = int((np.array([len(row["text"].split()) for row in data.rows("train")]) > 4).sum())
    assert f"truncated to 6 tokens, head kept: {long} of" in caplog.text
    for batch in data.train_dataloader():
        assert ((batch["labels"] != -100).sum(dim=1) <= 4).all()


def test_label_all_trains_on_all_tokens_and_evaluation_counts_words(tokenizer):
    class Hyphens(Tags):
        def load_rows(self):
            table = super().load_rows()
            table["text"] = [[f"{word}-{word}" for word in words] for words in table["text"]]
            return table

    counts = {}
    for label_all in (False, True):
        spec = TagSpec(label_all=label_all)
        data = Hyphens(splits=Splits(val=10, test=10), label=spec, tokens=Tokens(max_length=64))
        data.tokenizer = tokenizer
        data.setup("fit")
        loaders = (data.train_dataloader(), data.test_dataloader())
        counts[label_all] = [sum(int((b["labels"] >= 0).sum()) for b in dl) for dl in loaders]
    assert counts[True] == [3 * counts[False][0], counts[False][1]]


def test_train_size_draws_sentences(tokenizer):
    data = Tags(splits=Splits(val=10, test=10), train_size=12)
    data.setup("fit")
    assert data.n_train == 12
