import gzip
import json

import pytest

from lightning_transfer.data import ParallelFiles, Splits, TargetColumns

EN_DE = TargetColumns("en", "de")


def write(path, lines, *, compressed=False):
    content = "".join(f"{line}\n" for line in lines).encode()
    if compressed:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)


def pairs(name, count):
    return [f"{name} dog {n}" for n in range(count)], [f"{name} Hund {n}" for n in range(count)]


@pytest.fixture
def folder(tmp_path):
    for name, count in (("train", 12), ("val", 3), ("test", 4)):
        for ending, lines in zip(("en", "de"), pairs(name, count), strict=True):
            write(tmp_path / f"{name}.{ending}", lines, compressed=name == "train")
    return tmp_path


def ready(source, columns=EN_DE, **arguments):
    data = ParallelFiles(source, columns=columns, **arguments)
    data.setup("fit")
    return data


def test_files_of_a_folder_are_the_splits(folder):
    data = ready(str(folder))
    assert (data.n_train, data.n_val, data.n_test) == (12, 3, 4)
    assert sorted(data.rows("test"), key=lambda row: row["text"])[2] == {
        "text": "test dog 2",
        "target": "test Hund 2",
        "row": "test.en, line 3",
    }
    assert data.where == folder.name


def test_the_columns_determine_the_direction(folder):
    data = ready(str(folder), TargetColumns("de", "en"))
    assert min(data.rows("test")["target"]) == "test dog 0"


def test_a_mapping_selects_the_files_of_each_split(folder):
    (folder / "test.en").rename(folder / "test_2016_flickr.en")
    (folder / "test.de").rename(folder / "test_2016_flickr.de")
    names = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    data = ready({split: str(folder / name) for split, name in names.items()})
    assert (data.n_train, data.n_val, data.n_test) == (12, 3, 4)
    assert data.where == "train, val, test_2016_flickr"
    with pytest.raises(ValueError, match="source must be one of train, validation, test, got dev"):
        ready({"dev": str(folder / "val")})


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_has_one_column_per_text(tmp_path, form):
    texts, targets = pairs("one,", 8)
    path = tmp_path / f"corpus.{form}"
    if form == "jsonl":
        rows = [{"en": text, "de": target} for text, target in zip(texts, targets, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.table({"en": texts, "de": targets}), path)
    else:
        mark = {"csv": ",", "tsv": "\t"}[form]
        lines = [f'"{text}"{mark}"{target}"' for text, target in zip(texts, targets, strict=True)]
        path.write_text("\n".join([f"en{mark}de", *lines]))
    data = ready(str(path), splits=Splits(val=0, test=2))
    assert (data.n_train, data.n_test) == (6, 2)
    assert sorted([*data.rows("train")["target"], *data.rows("test")["target"]]) == targets
    with pytest.raises(
        ValueError, match=rf"corpus.{form}: no column 'fr' for the target; set data"
    ):
        ready(str(path), TargetColumns("en", "fr"))


def test_aligned_files_of_different_lengths_are_an_error(tmp_path):
    write(tmp_path / "corpus.en", ["a dog", "a cat", "a cow"])
    write(tmp_path / "corpus.de", ["ein Hund", "eine Katze"], compressed=True)
    with pytest.raises(
        ValueError, match=r"corpus.en and corpus.de.gz must have equally many lines, got 3 and 2"
    ):
        ready(str(tmp_path / "corpus"))


def test_a_blank_line_is_a_bad_row(tmp_path, caplog):
    write(tmp_path / "corpus.en", ["a dog", "a cat", "a cow", "a hen"])
    write(tmp_path / "corpus.de", ["ein Hund", "", "eine Kuh", "ein Huhn"])
    with pytest.raises(ValueError, match=r"corpus.en, line 2, column 'de': empty text"):
        ready(str(tmp_path / "corpus"))
    data = ready(str(tmp_path / "corpus"), on_bad_row="skip", splits=Splits(0, 0))
    assert data.n_train == 3


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "corpus.en").write_bytes("\ufeffa\u2028dog\r\na\x0ccat\n".encode())
    (tmp_path / "corpus.de").write_bytes(b"ein Hund\neine Katze")
    data = ready(str(tmp_path / "corpus"), splits=Splits(0, 0))
    assert sorted(data.rows("train")["text"]) == ["a\x0ccat", "a\u2028dog"]


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    write(tmp_path / "corpus.en", ["a dog", "a caf"])
    (tmp_path / "corpus.de").write_bytes("ein Hund\nein Café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"corpus.de, after line \d: .*; save it as UTF-8"):
        ready(str(tmp_path / "corpus"))


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: b"ein Hund\neine Katze\n",  # not compressed
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: content[: len(content) // 2],
        lambda content: content[:20] + b"\xff\xff\xff\xff" + content[24:],
        lambda content: content[:-8] + bytes(8),  # its checksum
    ],
)
def test_a_damaged_gzip_file_is_an_error(tmp_path, damaged):
    write(tmp_path / "corpus.en", [f"dog {n**5}" for n in range(200)])
    write(tmp_path / "corpus.de", [f"Hund {n**5}" for n in range(200)], compressed=True)
    path = tmp_path / "corpus.de.gz"
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(ValueError, match=r"corpus\.de\.gz.*(compress it again|and 0; corr)"):
        ready(str(tmp_path / "corpus"))


def test_byte_order_marks_are_removed(tmp_path):
    write(tmp_path / "corpus.en", ["\ufeffa dog", "a cat"], compressed=True)
    write(tmp_path / "corpus.de", ["\ufeffein Hund", "eine Katze"])
    rows = ready(str(tmp_path / "corpus"), splits=Splits(0, 0)).rows("train")
    assert sorted(rows["text"]) == ["a cat", "a dog"]
    assert sorted(rows["target"]) == ["ein Hund", "eine Katze"]


def test_missing_or_ambiguous_files_are_an_error(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no files given; set data.source to"):
        ready(None)
    with pytest.raises(
        FileNotFoundError, match=r"no file none.en or none.en.gz in .*; the folder contains"
    ):
        ready(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"has no train.fr and no table train"):
        ready(str(folder), TargetColumns("fr", "it"))
    with pytest.raises(FileNotFoundError, match=r"no file train.fr or train.fr.gz in"):
        ready(str(folder), TargetColumns("en", "fr"))
    (folder / "train.csv").write_text("en,de\n")
    with pytest.raises(ValueError, match=r"several files of train rows: train.csv, train"):
        ready(str(folder))
    with pytest.raises(ValueError, match=r"columns.group='g' needs a table"):
        ready(str(folder / "val"), TargetColumns("en", "de", group="g"))
