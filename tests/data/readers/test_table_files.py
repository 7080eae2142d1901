import csv
import io
import json
import logging
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_transfer.data.readers.table_files import read_batches

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "reviews.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def rows_of(path: str | Path, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in read_batches(path, **options) for row in batch]


def texts_of(path: str | Path, **options: Any) -> list[str]:
    return [row["text"] for row in rows_of(path, **options)]


def set_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr("sys.stdin", stream)
    return stream


# Formats


def test_csv_rows_have_columns_and_line(write: Write) -> None:
    path = write("text,label\ngood,1\nbad,0\n")
    assert rows_of(path) == [
        {"text": "good", "label": "1", "__row__": "reviews.csv, line 2"},
        {"text": "bad", "label": "0", "__row__": "reviews.csv, line 3"},
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_jsonl_rows_keep_types_and_keys(write: Write, name: str) -> None:
    path = write('{"text": "good", "score": 1.5}\r\n\n{"text": "b\\nd", "tags": ["x"]}', name)
    assert rows_of(path) == [
        {"text": "good", "score": 1.5, "__row__": f"{name}, line 1"},
        {"text": "b\nd", "tags": ["x"], "__row__": f"{name}, line 3"},
    ]


def test_parquet_rows_are_numbered_across_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [1, None, 3]}), path)
    batches = list(read_batches(path, batch_rows=2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][1] == {"text": "b", "label": None, "__row__": "a.parquet, row 2"}
    assert batches[1][0]["__row__"] == "a.parquet, row 3"


def test_batches_have_the_requested_size(write: Write) -> None:
    path = write("text\n" + "x\n" * 10)
    assert [len(batch) for batch in read_batches(path, batch_rows=4)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"text,label\ngood,1\n", "stdin, line 2"), (b'\n {"text": "good"}\n', "stdin, line 2")],
)
def test_standard_input_is_csv_or_jsonl_and_stays_open(
    monkeypatch: pytest.MonkeyPatch, content: bytes, place: str
) -> None:
    stream = set_stdin(monkeypatch, content)
    (row,) = rows_of("-")
    assert (row["text"], row["__row__"]) == ("good", place)
    assert not stream.closed
    assert not stream.buffer.closed


def test_standard_input_longer_than_the_sample_is_read_completely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_stdin(monkeypatch, b"text\n" + b"".join(b"row %d\n" % i for i in range(60_000)))
    assert texts_of("-") == [f"row {i}" for i in range(60_000)]


# Delimiters and quotes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_detected(write: Write, delimiter: str) -> None:
    path = write(f'text{delimiter}label\n"a, b; c|d\te"{delimiter}1\nplain{delimiter}0\n')
    assert texts_of(path) == ["a, b; c|d\te", "plain"]


def test_a_delimiter_in_texts_but_not_in_the_header_is_not_detected(write: Write) -> None:
    path = write("text;score\ngood, really;0,9\nbad, truly;0,1\n")
    assert rows_of(path)[0] == {
        "text": "good, really",
        "score": "0,9",
        "__row__": "reviews.csv, line 2",
    }


def test_rows_decide_between_two_delimiters_in_the_header(write: Write) -> None:
    path = write("text; as written,label\ngood,1\nbad,0\n")
    assert set(rows_of(path)[0]) == {"text; as written", "label", "__row__"}


def test_tab_is_preferred_but_not_required_for_tsv(write: Write) -> None:
    tabs = write("text, title, more\tlabel\na\t1\n", "a.tsv")
    assert set(rows_of(tabs)[0]) == {"text, title, more", "label", "__row__"}
    commas = write("text,label\na,1\n", "b.tsv")
    assert rows_of(commas)[0]["text"] == "a"


def test_lines_of_a_single_column_are_not_divided(write: Write) -> None:
    path = write('text\ngood, really; "so" good\n"quoted, too"\nplain|one\n')
    assert texts_of(path) == ['good, really; "so" good', "quoted, too", "plain|one"]


def test_a_given_delimiter_is_used(write: Write) -> None:
    assert rows_of(write("a,b\tc\n1,2\t3\n"), delimiter="\t")[0]["a,b"] == "1,2"


def test_quoted_newlines_and_doubled_quotes_keep_the_physical_line_numbers(write: Write) -> None:
    path = write('text,label\r\n"two\r\nlines, ""yes""",1\r\n\r\nnext,0\r\n')
    rows = rows_of(path)
    assert [row["text"] for row in rows] == ['two\r\nlines, "yes"', "next"]
    assert [row["__row__"] for row in rows] == ["reviews.csv, line 2", "reviews.csv, line 5"]


def test_texts_with_a_quote_at_the_beginning_are_not_unquoted(write: Write) -> None:
    path = write('id\ttext\n1\t"Great" she said\n2\t"Bad" he said\n3\t"Open\n4\tplain\n', "a.tsv")
    assert texts_of(path) == ['"Great" she said', '"Bad" he said', '"Open', "plain"]


def test_a_single_unescaped_quote_does_not_disable_quoting(write: Write) -> None:
    body = '"fine",1\n' * 5 + '"he said "hi" to me",1\n'
    assert texts_of(write("text,label\n" + body))[:2] == ["fine", "fine"]


def test_a_field_above_the_default_limit_of_csv_is_read(write: Write) -> None:
    text = "word " * 60_000
    assert texts_of(write(f'text,label\n"{text}",1\n{text},0\n')) == [text, text]


def test_unicode_line_separators_do_not_end_a_line(write: Write) -> None:
    text = "one\u2028two\u0085three\x0bfour"
    assert texts_of(write(f"text,label\n{text},1\n")) == [text]
    assert texts_of(write(json.dumps({"text": text}, ensure_ascii=False), "a.jsonl")) == [text]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_unicode_is_read_with_or_without_byte_order_mark(
    write: Write, name: str, encoding: str
) -> None:
    line = '{"text": "naïve 🎬"}' if name == "a.jsonl" else "text,label\nnaïve 🎬,1"
    path = write((line + "\n") * (20 if name == "a.jsonl" else 1), name, encoding)
    assert texts_of(path)[0] == "naïve 🎬"


def test_utf16_with_byte_order_mark_is_read_in_both_byte_orders(write: Write) -> None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        path = write(mark + "text;label\nżółw;1\n".encode(encoding))
        assert rows_of(path)[0] | {"__row__": ""} == {"text": "żółw", "label": "1", "__row__": ""}


WESTERN = "Très bon film, à voir absolument"
POLISH = "Bardzo dobry film, książka była świetna, choć źle zagrany i żałosny"
RUSSIAN = "Очень хороший фильм, мне понравилось"
CHINESE = "这部电影非常好看，太糟糕了很无聊"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (WESTERN, "latin-1"),
        ("It’s “great” – really…", "cp1252"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (CHINESE, "gb18030"),
    ],
)
def test_other_encodings_are_detected_with_a_warning(
    write: Write, caplog: pytest.LogCaptureFixture, text: str, encoding: str
) -> None:
    path = write("text;label\n" + "plain words;0\n" * 30 + f"{text};1\n" * 5, encoding=encoding)
    with caplog.at_level(logging.WARNING):
        assert texts_of(path)[-1] == text
    (message,) = caplog.messages
    assert "reviews.csv is not UTF-8" in message
    assert "set encoding" in message


def test_western_text_is_detected_by_one_letter(write: Write) -> None:
    assert texts_of(write("text,label\nthe café,1\n", encoding="latin-1")) == ["the café"]


def test_a_given_encoding_is_used(write: Write) -> None:
    path = write("text,label\ncafé,1\n")
    assert texts_of(path, encoding="latin-1") == ["cafÃ©"]
    path = write("text,label\nпривет,1\n", encoding="cp1251")
    assert texts_of(path, encoding="cp1251") == ["привет"]


def test_a_byte_order_mark_is_removed_with_a_given_encoding(write: Write) -> None:
    path = write("text,label\na,1\n", encoding="utf-8-sig")
    assert texts_of(path, encoding="utf-8") == ["a"]


# Bad rows


@pytest.mark.parametrize("stray", [b"\xff", b"\xff\xfe", b"\x80", b"\xc3"])
def test_an_undecodable_byte_is_an_error_with_file_line_and_value(
    write: Write, stray: bytes
) -> None:
    path = write(b"text,label\ngood,1\nbad " + stray + b" byte,0\n")
    match = rf"reviews\.csv, line 3: the byte 0x{stray[0]:02x} is not valid utf-8; .*set encoding"
    with pytest.raises(ValueError, match=match):
        rows_of(path)
    with pytest.raises(ValueError, match="on_bad_row=skip"):
        rows_of(path)


def test_an_undecodable_byte_in_jsonl_is_an_error_or_skipped(write: Write) -> None:
    path = write(b'{"text": "good"}\n{"text": "b\xffd"}\n', "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: the byte 0xff is not valid utf-8"):
        rows_of(path)
    assert texts_of(path, on_bad_row="skip") == ["good"]


def test_damaged_utf8_is_not_detected_as_another_encoding(write: Write) -> None:
    path = write("text,label\ncafé,1\nnaïve,1\n".encode() + b"caf\xe9,0\n")
    with pytest.raises(ValueError, match="line 4: the byte 0xe9 is not valid utf-8"):
        rows_of(path)
    assert texts_of(path, on_bad_row="skip") == ["café", "naïve"]


def test_an_undecodable_byte_after_the_sample_has_its_line(write: Write) -> None:
    path = write(b"text,label\n" + b"good,1\n" * 60_000 + b"b\xe9d,0\n")
    with pytest.raises(ValueError, match=r"line 60002: the byte 0xe9"):
        rows_of(path)


def test_an_undecodable_byte_in_a_quoted_text_has_its_physical_line(write: Write) -> None:
    path = write(b'text,label\n"one\ntwo \xff\nthree",1\nnext,0\n')
    with pytest.raises(ValueError, match="line 3: the byte 0xff"):
        rows_of(path)
    assert texts_of(path, on_bad_row="skip") == ["next"]


def test_a_byte_outside_of_a_given_encoding_is_an_error(write: Write) -> None:
    path = write(b"text,label\nb\x81d,0\n")
    with pytest.raises(ValueError, match="line 2: the byte 0x81 is not valid cp1252"):
        rows_of(path, encoding="cp1252")


def test_truncated_utf16_is_an_error(write: Write) -> None:
    path = write(b"\xff\xfe" + "text,label\na,1\n".encode("utf-16-le") + b"b")
    with pytest.raises(ValueError, match=r"reviews\.csv, near line \d.*truncated.*set encoding"):
        rows_of(path)


def test_a_nul_byte_is_a_bad_row(write: Write) -> None:
    path = write("text,label\ngood and long enough,1\nb\0d,0\n")
    with pytest.raises(ValueError, match=r"reviews\.csv, line 3: a NUL byte"):
        rows_of(path)
    assert len(rows_of(path, on_bad_row="skip")) == 1


@pytest.mark.parametrize(("line", "count"), [("good, really,1", 3), ("good", 1)])
def test_a_wrong_number_of_fields_is_an_error_with_its_line(
    write: Write, line: str, count: int
) -> None:
    path = write(f"text,label\nfine,1\n{line}\n")
    match = rf"line 3: {count} field\(s\) at delimiter ',', but the header has 2 column\(s\)"
    with pytest.raises(ValueError, match=match):
        rows_of(path)


def test_skipped_rows_are_counted_in_one_warning(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(b"text,label\na,1\nb\nc,1,2\nd\xff,1\ne,1\n")
    with caplog.at_level(logging.WARNING):
        assert texts_of(path, on_bad_row="skip") == ["a", "e"]
    (message,) = caplog.messages
    assert message.startswith("reviews.csv: skipped 3 bad row(s), the first at line 3: 1 field(s)")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": ', "invalid JSON"),
        ("[1, 2]", "a JSON object is needed, got list"),
        ('{"text": "\\ud800"}', "unpaired surrogate"),
        ("[" * 100_000, "invalid JSON"),
        ('{"__row__": 1}', "__row__ is reserved"),
    ],
)
def test_a_bad_json_line_is_an_error_with_its_number(write: Write, line: str, fault: str) -> None:
    path = write('{"text": "\\ud83d\\ude00"}\n' + line + "\n", "a.jsonl")
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{fault}"):
        rows_of(path)
    assert texts_of(path, on_bad_row="skip") == ["😀"]


def test_an_unclosed_quote_is_an_error_also_with_skip(write: Write) -> None:
    path = write('text,label\n"fine",1\n"fine",1\n"open,1\nb,0\nc,0\n')
    for on_bad_row in ("error", "skip"):
        with pytest.raises(ValueError, match=r"line 4: a quote is opened and never closed"):
            rows_of(path, on_bad_row=on_bad_row)


def test_an_unclosed_quote_does_not_fill_the_memory(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_transfer.data.readers.table_files._MAX_CHARS", 300_000)
    before = csv.field_size_limit(300_000)
    path = write('text,label\n"fine",1\n"fine",1\n"open,1\n' + "x,0\n" * 200_000 + '","')
    try:
        with pytest.raises(ValueError, match="line 4: a quote is opened and never closed"):
            rows_of(path)
    finally:
        csv.field_size_limit(before)


def test_a_line_above_the_limit_is_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_transfer.data.readers.table_files._MAX_CHARS", 1000)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: longer than 1000 characters"):
        rows_of(write('{"text": "' + "x" * 5000 + '"}', "a.jsonl"))


# Unusable files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "reviews.csv is empty: it has no header"),
        ("\n \n\n".replace(" ", ""), "is empty: it has no header"),
        ("\ufeff", "is empty: it has no header"),
        ("text,label\n", "reviews.csv has no rows"),
        ("text,label,text\na,1,b\n", r"column names repeat: \['text'\]"),
        ("text,__row__\na,1\n", "the column name __row__ is reserved"),
        ("text,label\na\n", "has no rows; skipped 1 bad row"),
        (b"te\xffxt,label\na,1\n", "line 1: the byte 0xff is not valid utf-8"),
        (b"PK\x03\x04rest", "is an Excel workbook or a zip, not text"),
        (b"\x1f\x8brest", "is gzip, not text"),
        (b"PAR1rest", "is parquet, not text"),
    ],
)
def test_a_file_without_usable_rows_is_an_error(
    write: Write, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(write(content), on_bad_row="skip")


def test_empty_jsonl_and_parquet_have_no_rows(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl has no rows"):
        rows_of(write("\n", "a.jsonl"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match=r"a\.parquet has no rows"):
        rows_of(path)


def test_an_invalid_parquet_file_is_an_error(write: Write) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet is not valid parquet after row 0"):
        rows_of(write(b"PAR1 not really", "a.parquet"))


def test_repeated_columns_in_parquet_are_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column names repeat"):
        rows_of(tmp_path / "a.parquet")


def test_a_missing_file_is_an_error_with_similar_names(write: Write) -> None:
    path = write("text\na\n", "reviews.csv")
    with pytest.raises(
        FileNotFoundError, match=r"no file 'reviws\.csv' in .*; did you mean reviews\.csv\?"
    ):
        read_batches(path.with_name("reviws.csv"))
    with pytest.raises(FileNotFoundError, match=r"no file 'reviews\.csv' in .*nowhere\.$"):
        read_batches(path.parent / "nowhere" / "reviews.csv")


def test_a_folder_is_an_error_with_its_files(write: Write) -> None:
    path = write("text\na\n", "reviews.csv")
    with pytest.raises(
        IsADirectoryError, match=r"is a folder, not a file; choose one of its files: reviews\.csv"
    ):
        read_batches(path.parent)


def test_an_unknown_extension_is_an_error_with_the_allowed_ones(write: Write) -> None:
    with pytest.raises(ValueError, match=r"unknown extension '\.xlsx'; allowed: \.csv, \.tsv"):
        read_batches(write("text\na\n", "a.xlsx"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row='ignore'"),
        ({"batch_rows": 0}, "batch_rows=0"),
        (
            {"delimiter": ",,"},
            "delimiter must be one character other than quote and line end, got ',,'",
        ),
        ({"delimiter": '"'}, "delimiter must be one character"),
        ({"encoding": "utf8x"}, r"unknown encoding 'utf8x'; did you mean utf-8"),
        ({"encoding": "hex"}, "unknown encoding 'hex'"),
    ],
)
def test_a_bad_option_is_an_error_before_reading(
    write: Write, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_batches(write("text\na\n"), **options)


def test_options_of_another_format_are_an_error(write: Write) -> None:
    with pytest.raises(ValueError, match="jsonl has no delimiter, got ','"):
        read_batches(write("{}", "a.jsonl"), delimiter=",")
    with pytest.raises(ValueError, match="parquet has its own encoding, got 'utf-8'"):
        read_batches(write(b"", "a.parquet"), encoding="utf-8")


def test_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        rows_of("-")


# Memory and open files


@pytest.mark.parametrize(("form", "count"), [("csv", 200_000), ("jsonl", 50_000)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str, count: int) -> None:
    path = tmp_path / f"big.{form}"
    text = "a review of some forty characters, or so"
    line = f'"{text}",1\n' if form == "csv" else json.dumps({"text": text, "label": 1}) + "\n"
    path.write_text("text,label\n" * (form == "csv") + line * count)
    tracemalloc.start()
    try:
        read = sum(len(batch) for batch in read_batches(path, batch_rows=256))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == count
    assert peak < 4 * 2**20


def test_parquet_of_one_large_row_group_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    texts = [f"{number} {number**3} {'a review'}" * 4 for number in range(100_000)]
    pq.write_table(pa.table({"text": texts}), path, use_dictionary=False, compression="none")
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for batch in read_batches(path, batch_rows=256):
        most = max(most, pa.total_allocated_bytes() - before)
        count += len(batch)
    assert count == len(texts)
    assert most < 4 * 2**20 < path.stat().st_size / 2


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a list of open files")
def test_stopping_early_closes_the_file(write: Write) -> None:
    path = write("text\n" + "x\n" * 100)
    batches = read_batches(path, batch_rows=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    del batches
    fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [fd for fd in fds if re.search(r"reviews\.csv$", fd)]


def _is_open(fd: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")
