"""Texts with target texts from a user's own files: aligned text files, or tables."""

import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import (
    STEMS,
    list_folder,
    source_name,
    split_mapping,
)
from lightning_transfer.data.readers.table_files import ROW, SUFFIXES, column_names, read_batches
from lightning_transfer.data.text_to_text import TextToText

_GZIP = ".gz"


class ParallelFiles(TextToText):
    r"""Pairs of texts from two aligned files, or from a table with two columns.

    ``source`` is one of:

    - the common name of two aligned files: with ``source=corpus`` and
      ``columns=TargetColumns("en", "de")``, line n of ``corpus.en`` belongs to line n of
      ``corpus.de``. Either file may be compressed (``corpus.en.gz``);
    - a csv, tsv, jsonl or parquet file with two columns;
    - a folder with ``train`` and optionally ``validation`` (also ``valid``, ``val``, ``dev``) and
      ``test``, each a pair of aligned files or a table;
    - a mapping of ``train``, ``validation`` and ``test`` to aligned files or tables.

    Splits without a file are drawn from the training rows.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "corpus.en").write_text("a dog\na cat\na cow\n")
        >>> _ = (folder / "corpus.de").write_text("ein Hund\neine Katze\neine Kuh\n")
        >>> from lightning_transfer.data import Splits, TargetColumns
        >>> data = ParallelFiles(
        ...     str(folder / "corpus"),
        ...     columns=TargetColumns("en", "de"),
        ...     splits=Splits(val=0, test=1),
        ... )
        >>> data.setup("fit")
        >>> data.n_train, data.n_test
        (2, 1)
    """

    def load_rows(self) -> Table:
        """Return the rows of all files.

        Raises:
            FileNotFoundError: If there is no source, or a file is missing.
            ValueError: If a column is missing, aligned files differ in length, or a mapping has an
                unknown split.
        """
        table: dict[str, list[Any]] = {name: [] for name in (*self.columns.named, "row", "split")}
        for split, path in self._paths().items():
            # A table is a file. The common name of two aligned files is usually none.
            rows = self._table_rows(path) if path.is_file() else self._line_rows(path)
            for row in rows:
                for name, value in row.items():
                    table[name].append(value)
                table["split"].append(split)
        return table

    @property
    def where(self) -> str:
        """Name of the data in messages: the names of the files."""
        return source_name(self.source) if self.source else type(self).__name__

    def _paths(self) -> dict[str, Path]:
        """Return split -> table, or common name of two aligned files."""
        if not self.source:
            raise FileNotFoundError(
                "no files given; set data.source to a table, to the common name of two aligned "
                "files, or to a folder of them"
            )
        if isinstance(self.source, Mapping):
            return split_mapping(self.source)
        path = Path(self.source).expanduser()
        return self._in_folder(path) if path.is_dir() else {"train": path}

    def _in_folder(self, folder: Path) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for stem, split in STEMS.items():
            tables = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
            found = [path for path in tables if path.is_file()]
            # One file is enough to find the pair. A missing second one is reported when it is read.
            if any(_find(folder / stem, self.columns.named[side]) for side in ("text", "target")):
                found.append(folder / stem)
            if len(found) > 1 or (found and split in paths):
                names = ", ".join(path.name for path in [*found, paths.get(split)] if path)
                raise ValueError(
                    f"{folder} has several files of {split} rows: {names}; choose one with "
                    "data.source={train: ..., validation: ..., test: ...}"
                )
            if found:
                paths[split] = found[0]
        if "train" not in paths:
            raise FileNotFoundError(
                f"{folder} has no train.{self.columns.text} and no table train "
                f"({', '.join(SUFFIXES)}); it contains {list_folder(folder)}"
            )
        return paths

    def _table_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        batches = read_batches(path, on_bad_row=self.on_bad_row)
        first = next(batches, [])
        self.columns.check(column_names(first), path.name)
        for row in itertools.chain(first, itertools.chain.from_iterable(batches)):
            cells = {ours: row.get(theirs) for ours, theirs in self.columns.named.items()}
            yield {**cells, "row": row[ROW]}

    def _line_rows(self, prefix: Path) -> Iterator[dict[str, Any]]:
        if self.columns.group is not None:
            raise ValueError(
                f"columns.group={self.columns.group!r} needs a table, but {prefix.name} is a pair "
                "of files; set data.columns.group=null"
            )
        paths = [_need(prefix, ending) for ending in (self.columns.text, self.columns.target)]
        counts = [0, 0]
        # Both files are read to the end, to report their lengths.
        for number, pair in enumerate(itertools.zip_longest(*map(_lines, paths)), start=1):
            counts = [n + (line is not None) for n, line in zip(counts, pair, strict=True)]
            # zip_longest fills the shorter file with None; the counts then differ.
            if None not in pair:
                place = f"{paths[0].name}, line {number}"
                yield {"text": pair[0], "target": pair[1], "row": place}
        if counts[0] != counts[1]:
            raise ValueError(
                f"{paths[0].name} and {paths[1].name} must have equally many lines, got "
                f"{counts[0]:,} and {counts[1]:,}; correct the files, or use a table with two "
                "columns"
            )


def _find(prefix: Path, ending: str) -> Path | None:
    """Return one of two aligned files, plain or compressed; None if it does not exist."""
    # Not with_suffix: it would replace a part of names such as news.2016.
    plain = prefix.with_name(f"{prefix.name}.{ending}")
    compressed = plain.with_name(plain.name + _GZIP)
    return next((path for path in (plain, compressed) if path.is_file()), None)


def _need(prefix: Path, ending: str) -> Path:
    path = _find(prefix, ending)
    if path is None:
        name = f"{prefix.name}.{ending}"
        raise FileNotFoundError(
            f"no file {name} or {name}{_GZIP} in {prefix.parent.absolute()}, and {prefix.name} is "
            f"not a table; the folder contains {list_folder(prefix.parent)}"
        )
    return path


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file. Only a line feed ends a line.

    Raises:
        ValueError: If a line is not UTF-8, or a compressed file is damaged.
    """
    number = 0
    try:
        with _open(path) as file:
            for line in file:
                yield line.rstrip("\r\n")
                number += 1
    except UnicodeDecodeError as error:
        # "After", because decoding is buffered: the error is somewhere in the next lines.
        raise ValueError(f"{path.name}, after line {number}: {error}; save it as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path.name} is not a complete gzip file: {error}; compress it again"
        ) from None


def _open(path: Path) -> TextIO:
    # newline="\n": other line ends, if within a line, would shift all later pairs.
    if path.suffix == _GZIP:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")
