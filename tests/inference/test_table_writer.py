"""Atomic writing of rows in all formats, to files and to standard output."""

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
    with RowWriter(path, columns or ["text", "label"]) as output:
        output.write(rows)


def write_chunks(path: Path, *chunks: list[dict[str, Any]] | BaseException) -> None:
    with RowWriter(path, ["id", "text", "label"]) as output:
        for chunk in chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            output.write(chunk)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".CSV"])
def test_awkward_texts_are_read_back_unchanged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with RowWriter(path, ["text", "label"]) as output:
        output.write(AWKWARD[:2])
        output.write([])
        output.write(AWKWARD[2:])
    assert read(path) == AWKWARD
    assert os.listdir(tmp_path) == [path.name]


def test_csv_has_unix_line_ends_and_minimal_quotes(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write(path, [{"text": "plain", "label": 0.25}, {"text": "a\rb", "label": None}])
    assert path.read_bytes() == b'text,label\nplain,0.25\n"a\rb",\n'


def test_only_the_columns_are_written_in_their_order(tmp_path: Path) -> None:
    row = {"__row__": "in.csv, line 2", "text": "good", "score": np.float32(0.5), "tags": ["a"]}
    columns = ["score", "tags", "missing"]
    write(tmp_path / "out.csv", [row], columns)
    assert (tmp_path / "out.csv").read_text() == 'score,tags,missing\n0.5,"[""a""]",\n'
    write(tmp_path / "out.jsonl", [row], columns)
    line = (tmp_path / "out.jsonl").read_text()
    assert line == '{"score": 0.5, "tags": ["a"], "missing": null}\n'
    write(tmp_path / "out.parquet", [row], columns)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [json.loads(line)]


def test_jsonl_is_valid_json_for_all_values(tmp_path: Path) -> None:
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


def test_parquet_keeps_types_and_accepts_text_after_nulls(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with RowWriter(path, ["id", "note"]) as output:
        output.write([{"id": 1, "note": None}])
        output.write([{"id": 2, "note": "late"}])
    assert pq.read_table(path).to_pylist() == [{"id": 1, "note": None}, {"id": 2, "note": "late"}]


def test_a_parquet_column_with_several_types_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'id' has values of several types.*\(int64 in the.*'x'.*\.jsonl"
    ):
        write_chunks(tmp_path / "out.parquet", [{"id": 1}], [{"id": "x"}])
    gc.collect()  # ParquetWriter closes itself on deletion, which must not fail
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_only_the_old_file(
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
    with RowWriter(path, ["text", "label"]) as output:
        output.write(AWKWARD)
        assert not path.exists()
    assert path.exists()


def test_a_failure_on_closing_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "out.csv", AWKWARD)
    assert os.listdir(tmp_path) == []


def test_a_lone_surrogate_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "out.csv", [{"text": "\ud800", "label": ""}])
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", AWKWARD)
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real" / "out.csv")
    write(tmp_path / "link.csv", AWKWARD)
    assert (tmp_path / "link.csv").is_symlink()
    assert read(tmp_path / "real" / "out.csv") == AWKWARD


def test_the_output_may_be_a_file_that_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, AWKWARD)
    with RowWriter(path, ["text", "label"]) as output:
        for batch in read_batches(path, batch_rows=2):
            output.write(batch)
    assert read(path) == AWKWARD


# Standard output


@pytest.mark.parametrize(
    ("stdout_format", "text"),
    [
        (None, 'text,label\n"ż, a",1\n'),
        ("tsv", "text\tlabel\nż, a\t1\n"),
        ("jsonl", '{"text": "ż, a", "label": 1}\n'),
    ],
)
def test_standard_output_supports_each_text_format(
    capfdbinary: pytest.CaptureFixture[bytes], stdout_format: Any, text: str
) -> None:
    with RowWriter("-", ["text", "label"], stdout_format=stdout_format) as output:
        output.write([{"text": "ż, a", "label": 1}])
        assert capfdbinary.readouterr().out == text.encode()  # at once, not at the end


def test_standard_output_is_utf8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, "ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    print("before")
    with RowWriter("-", ["text"]) as output:
        output.write([{"text": "ż"}])
    assert raw.getvalue().decode() == "before\ntext\nż\n"


def test_standard_output_may_be_a_text_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    with RowWriter("-", ["text"]) as output:
        output.write([{"text": "ż"}])
    assert stdout.getvalue() == "text\nż\n"


# Errors before any row is written


@pytest.mark.parametrize(
    ("name", "columns", "error", "message"),
    [
        ("out.xlsx", ["a"], ValueError, r"unknown extension '\.xlsx'; allowed: \.csv, \.tsv"),
        ("out", ["a"], ValueError, "unknown extension ''"),
        ("no/out.csv", ["a"], FileNotFoundError, "there is no folder .*no"),
        (".", ["a"], IsADirectoryError, "is a folder; name a file in it"),
        ("out.csv", [], ValueError, r"columns must be one or more unique names, got \[\]"),
        ("out.csv", ["a", "a"], ValueError, r"got \['a', 'a'\]"),
    ],
)
def test_a_wrong_target_is_an_error_at_once(
    tmp_path: Path, name: str, columns: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RowWriter(tmp_path / name, columns)
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write to read-only folders
    with pytest.raises(PermissionError, match="the folder is read-only"):
        RowWriter(tmp_path / "out.csv", ["a"])


def test_stdout_format_is_for_standard_output_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stdout_format='tsv' applies to standard output only"):
        RowWriter(tmp_path / "out.csv", ["a"], stdout_format="tsv")
    with pytest.raises(ValueError, match="stdout_format must be one of csv, tsv, jsonl, got 'parq"):
        RowWriter("-", ["a"], stdout_format="parquet")


def test_writing_outside_the_with_block_is_an_error(tmp_path: Path) -> None:
    output = RowWriter(tmp_path / "out.csv", ["a"])
    with pytest.raises(ValueError, match="inside the with block"):
        output.write([{"a": 1}])
    with output:
        output.write([{"a": 1}])
    with pytest.raises(ValueError, match="inside the with block"):
        output.write([{"a": 1}])
    assert (tmp_path / "out.csv").read_text() == "a\n1\n"
