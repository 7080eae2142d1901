import gc
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lightning_transfer.data.readers.table_files import read_batches
from lightning_transfer.inference.table_writer import RowWriter

AWKWARD = [
    {"text": 'He said "no"', "label": "negative"},
    {"text": "two\nlines", "label": "a, b"},
    {"text": "carriage\rreturn", "label": "tab\there"},
    {"text": "windows\r\nline", "label": "'"},
    {"text": "żółw 🎬 \u2028 end", "label": '"'},
    {"text": " spaces ", "label": ""},
]


def read(path: Path) -> list[dict[str, Any]]:
    rows = [row for batch in read_batches(path) for row in batch]
    return [{key: row[key] for key in row if key != "__row__"} for row in rows]


def write(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
    with RowWriter(path, columns or ["text", "label"]) as writer:
        writer.write(rows)


def write_chunks(path: Path, *chunks: list[dict[str, Any]] | BaseException) -> None:
    with RowWriter(path, ["id", "text", "label"]) as writer:
        for chunk in chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            writer.write(chunk)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".CSV"])
def test_awkward_texts_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with RowWriter(path, ["text", "label"]) as writer:
        writer.write(AWKWARD[:2])
        writer.write([])
        writer.write(AWKWARD[2:])
    assert read(path) == AWKWARD
    assert os.listdir(tmp_path) == [path.name]


def test_csv_has_unix_line_ends_and_quotes_where_needed(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write(path, [{"text": "plain", "label": 0.25}, {"text": "a\rb", "label": None}])
    assert path.read_bytes() == b'text,label\nplain,0.25\n"a\rb",\n'


def test_columns_decide_what_is_written_and_in_which_order(tmp_path: Path) -> None:
    row = {"__row__": "in.csv, line 2", "text": "good", "score": np.float32(0.5), "tags": ["a"]}
    columns = ["score", "tags", "missing"]
    write(tmp_path / "out.csv", [row], columns)
    assert (tmp_path / "out.csv").read_text() == 'score,tags,missing\n0.5,"[""a""]",\n'
    write(tmp_path / "out.jsonl", [row], columns)
    line = (tmp_path / "out.jsonl").read_text()
    assert line == '{"score": 0.5, "tags": ["a"], "missing": null}\n'
    write(tmp_path / "out.parquet", [row], columns)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [json.loads(line)]


def test_jsonl_is_valid_json_whatever_the_values(tmp_path: Path) -> None:
    row = {"a": math.nan, "b": [math.inf, {"c": np.int64(3)}], "d": True, "e": Path("x")}
    write(tmp_path / "out.jsonl", [row], list(row))
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "a": None,
        "b": [None, {"c": 3}],
        "d": True,
        "e": "x",
    }


def test_no_rows_give_a_file_with_its_header(tmp_path: Path) -> None:
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        write(tmp_path / name, [])
    assert (tmp_path / "out.csv").read_text() == "text,label\n"
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["text", "label"]


def test_parquet_keeps_types_and_takes_late_text_in_an_empty_column(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with RowWriter(path, ["id", "note"]) as writer:
        writer.write([{"id": 1, "note": None}])
        writer.write([{"id": 2, "note": "late"}])
    assert pq.read_table(path).to_pylist() == [{"id": 1, "note": None}, {"id": 2, "note": "late"}]


def test_parquet_says_which_column_changes_its_type(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'id' mixes types.*began as int64.*'x'.*\.jsonl"):
        write_chunks(tmp_path / "out.parquet", [{"id": 1}], [{"id": "x"}])
    gc.collect()  # the writer of pyarrow closes itself, which must not fail
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("as it was")
    with pytest.raises(error):
        write_chunks(path, AWKWARD, error())
    assert path.read_text() == "as it was"
    assert os.listdir(tmp_path) == [path.name]


def test_the_target_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with RowWriter(path, ["text", "label"]) as writer:
        writer.write(AWKWARD)
        assert not path.exists()
    assert path.exists()


def test_a_failure_to_put_the_file_in_place_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "out.csv", AWKWARD)
    assert os.listdir(tmp_path) == []


def test_a_lone_surrogate_cannot_be_written_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "out.csv", [{"text": "\ud800", "label": ""}])
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", AWKWARD)
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real" / "out.csv")
    write(tmp_path / "link.csv", AWKWARD)
    assert (tmp_path / "link.csv").is_symlink()
    assert read(tmp_path / "real" / "out.csv") == AWKWARD


def test_input_and_output_may_be_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, AWKWARD)
    with RowWriter(path, ["text", "label"]) as writer:
        for batch in read_batches(path, batch_rows=2):
            writer.write(batch)
    assert read(path) == AWKWARD


# Standard output


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (None, 'text,label\n"ż, a",1\n'),
        ("tsv", "text\tlabel\nż, a\t1\n"),
        ("jsonl", '{"text": "ż, a", "label": 1}\n'),
    ],
)
def test_standard_output_takes_each_text_format(
    capfdbinary: pytest.CaptureFixture[bytes], form: Any, text: str
) -> None:
    with RowWriter("-", ["text", "label"], form=form) as writer:
        writer.write([{"text": "ż, a", "label": 1}])
        assert capfdbinary.readouterr().out == text.encode()  # at once, not at the end


def test_standard_output_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, "ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    print("before")
    with RowWriter("-", ["text"]) as writer:
        writer.write([{"text": "ż"}])
    assert raw.getvalue().decode() == "before\ntext\nż\n"


def test_a_text_stream_in_the_place_of_standard_output_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    with RowWriter("-", ["text"]) as writer:
        writer.write([{"text": "ż"}])
    assert stdout.getvalue() == "text\nż\n"


# Refused before anything is computed


@pytest.mark.parametrize(
    ("name", "columns", "error", "message"),
    [
        ("out.xlsx", ["a"], ValueError, r"unknown extension '\.xlsx'; allowed: \.csv, \.tsv"),
        ("out", ["a"], ValueError, "unknown extension ''"),
        ("no/out.csv", ["a"], FileNotFoundError, "there is no folder .*no"),
        (".", ["a"], IsADirectoryError, "is a folder; name a file in it"),
        ("out.csv", [], ValueError, r"columns must be names that differ, got \[\]"),
        ("out.csv", ["a", "a"], ValueError, r"got \['a', 'a'\]"),
    ],
)
def test_a_wrong_target_is_refused_at_once(
    tmp_path: Path, name: str, columns: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RowWriter(tmp_path / name, columns)
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="the folder is read-only"):
        RowWriter(tmp_path / "out.csv", ["a"])


def test_form_is_for_standard_output_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="form='tsv' is for standard output"):
        RowWriter(tmp_path / "out.csv", ["a"], form="tsv")
    with pytest.raises(ValueError, match="standard output takes csv, tsv or jsonl, got form='parq"):
        RowWriter("-", ["a"], form="parquet")


def test_rows_are_written_inside_the_with_block_only(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "out.csv", ["a"])
    with pytest.raises(ValueError, match="inside the with block"):
        writer.write([{"a": 1}])
    with writer:
        writer.write([{"a": 1}])
    with pytest.raises(ValueError, match="inside the with block"):
        writer.write([{"a": 1}])
    assert (tmp_path / "out.csv").read_text() == "a\n1\n"
