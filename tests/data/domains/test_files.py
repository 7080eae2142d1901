import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_transfer.data import Columns, Files, LabelSpec, Splits

SPAM = LabelSpec("single_label", names=["ham", "spam"])
COLUMNS = Columns(text="body", label="kind")
ROWS = [(f"mail number {number}", "spam" if number % 3 else "ham") for number in range(30)]


def write_csv(path, rows=ROWS, delimiter=",", encoding="utf-8"):
    lines = [delimiter.join(("body", "kind")), *(delimiter.join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def files(source, **options):
    return Files(source, **{"columns": COLUMNS, "label": SPAM, **options})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mail.csv", {}),
        ("mail.csv", {"delimiter": ";", "encoding": "utf-8-sig"}),
        ("mail.tsv", {"delimiter": "\t", "encoding": "utf-16"}),
    ],
)
def test_a_single_file_is_divided_into_splits(tmp_path, name, options):
    data = files(write_csv(tmp_path / name, **options))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (21, 3, 6)
    assert data.rows("test")[0]["row"].startswith(f"{name}, line ")


def test_rows_of_a_jsonl_may_omit_columns(tmp_path):
    path = tmp_path / "mail.jsonl"
    path.write_text('{"kind": "ham"}\n{"body": "b", "kind": "spam"}\n{"body": "c", "kind": "ham"}')
    with pytest.raises(ValueError, match=r"mail.jsonl, line 1, column 'body': no text; correct"):
        files(str(path)).setup("fit")
    data = files(str(path), on_bad_row="skip", splits=Splits(0, 0))
    data.setup("fit")
    assert data.label_counts == {"ham": 1, "spam": 1}


def test_labels_of_several_types_are_converted_to_one(tmp_path):
    path = tmp_path / "mail.jsonl"
    path.write_text(
        '{"body": "a", "kind": 0}\n{"body": "b", "kind": "1"}\n{"body": "c", "kind": 1.0}\n'
    )
    label = LabelSpec("single_label", values={"0": "ham", "1": "spam", "1.0": "spam"})
    data = files(str(path), label=label, splits=Splits(0, 0))
    data.setup("fit")
    assert data.label_counts == {"ham": 1, "spam": 2}


def test_a_list_among_texts_is_a_bad_row(tmp_path):
    path = tmp_path / "mail.jsonl"
    path.write_text('{"body": ["a"], "kind": "ham"}\n{"body": "b", "kind": "spam"}\n')
    with pytest.raises(ValueError, match=r"mail.jsonl, line 1, column 'body': no text"):
        files(str(path)).setup("fit")


def test_a_single_name_among_lists_of_names_is_a_list(tmp_path):
    path = tmp_path / "mail.jsonl"
    path.write_text('{"body": "a", "kind": "x"}\n{"body": "b", "kind": ["x", "y"]}\n')
    data = files(str(path), label=LabelSpec("multi_label"), splits=Splits(0, 0))
    data.setup("fit")
    assert data.label_counts == {"x": 2, "y": 1}


def test_parquet_may_have_lists_of_labels(tmp_path):
    table = pa.table({"body": ["a", "b", "c"], "kind": [["x"], ["x", "y"], []]})
    pq.write_table(table, tmp_path / "mail.parquet")
    data = files(
        str(tmp_path / "mail.parquet"), label=LabelSpec("multi_label"), splits=Splits(0, 0)
    )
    data.setup("fit")
    assert data.label_counts == {"x": 2, "y": 1}


@pytest.mark.parametrize("as_mapping", [True, False])
@pytest.mark.parametrize("dev", ["validation", "valid", "val", "dev"])
def test_splits_of_a_folder_or_mapping_are_kept(tmp_path, as_mapping, dev):
    paths = {
        "train": write_csv(tmp_path / "train.csv", ROWS[:20]),
        "validation": write_csv(tmp_path / f"{dev}.tsv", ROWS[20:25], delimiter="\t"),
        "test": write_csv(tmp_path / "test.csv", ROWS[25:]),
    }
    (tmp_path / "README.md").write_text("about the data")
    data = files(paths if as_mapping else str(tmp_path))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (20, 5, 5)
    assert {row.split(",")[0] for row in data.rows("test")["row"]} == {"test.csv"}
    for split, path in paths.items():
        for row in data.rows(split)["row"]:
            assert row.split(",")[0] in path


def test_a_missing_split_is_drawn_from_the_training_rows(tmp_path):
    write_csv(tmp_path / "train.csv", ROWS[:20])
    write_csv(tmp_path / "test.csv", ROWS[20:])
    data = files(str(tmp_path), splits=Splits(val=0.1, test=0.5))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (18, 2, 10)


def test_a_test_file_alone_can_be_used_for_testing(tmp_path):
    data = files({"test": write_csv(tmp_path / "mail.csv")})
    data.setup("test")
    assert (data.n_train, data.n_test) == (0, 30)
    with pytest.raises(ValueError, match=r"mail.csv: no train rows"):
        data.setup("fit")


def test_bad_bytes_are_an_error_with_their_line_or_skipped(tmp_path, caplog):
    path = tmp_path / "mail.csv"
    text = "\n".join(["body,kind", *(",".join(row) for row in ROWS)]).encode()
    path.write_bytes(text.replace(b"mail number 4,", b"mail n\xffumber 4,"))
    with pytest.raises(ValueError, match=r"mail.csv, line 6: "):
        files(str(path)).setup("fit")
    with caplog.at_level(logging.WARNING):
        data = files(str(path), on_bad_row="skip")
        data.setup("fit")
    assert data.n_train + data.n_val + data.n_test == 29
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(text="boddy", label="kind"),
            r"mail.csv: no column 'boddy' for the text; set data.columns.text to one of body, "
            r"kind; did you mean body\?",
        ),
        (
            Columns(text="body"),
            "mail.csv: no column 'label' for the label; .*columns.label to one of body, kind",
        ),
        (
            Columns("body", "kind", group="who"),
            "no column 'who' for the group; set data.columns.group to one of body, kind",
        ),
        (Columns("body", "kind", "other"), "no column 'other' for the text_pair;"),
    ],
)
def test_a_missing_column_is_an_error_with_the_columns_of_the_file(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        files(write_csv(tmp_path / "mail.csv"), columns=columns).setup("fit")


def test_a_bad_label_is_an_error_with_its_line(tmp_path):
    path = write_csv(tmp_path / "mail.csv", [*ROWS, ("late", "spma")])
    message = "^mail.csv, line 32, column 'kind': unknown label 'spma'; known: ham, spam; did you"
    with pytest.raises(ValueError, match=message):
        files(path).setup("fit")


def test_a_missing_source_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"no file given; set data.source to a csv"):
        files(None).setup("fit")


def test_a_missing_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mial.csv"):
        files(str(tmp_path / "mial.csv")).setup("fit")


def test_an_unknown_split_in_a_mapping_is_an_error(tmp_path):
    path = write_csv(tmp_path / "mail.csv")
    with pytest.raises(
        ValueError, match="source must be one of train, validation, test, got dev, tst"
    ):
        files({"train": path, "tst": path, "dev": path}).setup("fit")


def test_a_folder_without_split_files_is_an_error_with_its_content(tmp_path):
    write_csv(tmp_path / "mail.csv")
    with pytest.raises(FileNotFoundError, match=r"has no train, .* it contains mail.csv"):
        files(str(tmp_path)).setup("fit")


def test_two_files_of_one_split_are_an_error(tmp_path):
    for name in ("train.csv", "train.tsv"):
        write_csv(tmp_path / name)
    with pytest.raises(ValueError, match=r"two files of train rows, train.csv and train.tsv; ch"):
        files(str(tmp_path)).setup("fit")
