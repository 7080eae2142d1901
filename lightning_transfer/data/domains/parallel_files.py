"""The user's own pairs: aligned text files, or tables with two columns."""

import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import STEMS, split_mapping
from lightning_transfer.data.readers.table_files import ROW, SUFFIXES, read_batches
from lightning_transfer.data.text_to_text import TextToText

_PACKED = ".gz"


class ParallelFiles(TextToText):
    r"""Pairs out of two files whose lines belong together, or out of a table.

    ``source`` names the files without what tells them apart: with ``source=corpus`` and
    ``columns=TargetColumns("en", "de")`` line n of ``corpus.en`` belongs to line n of
    ``corpus.de``; either may be packed as ``.gz``. A csv, tsv, jsonl or parquet file is a table
    with these two columns. A folder holds ``train`` and, if they exist, ``validation`` (``valid``,
    ``val``, ``dev``) and ``test``, of either form; a mapping says for ``train``, ``validation`` and
    ``test`` what they are. Splits that have no file are cut from the training rows.

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
            ValueError: If a column is missing, aligned files differ in length, or a mapping names
                something that is no split.
        """
        table: dict[str, list[Any]] = {name: [] for name in (*self.columns.named, "row", "split")}
        for split, path in self._paths().items():
            rows = self._table_rows(path) if path.is_file() else self._line_rows(path)
            for row in rows:
                for name, value in row.items():
                    table[name].append(value)
                table["split"].append(split)
        return table

    @property
    def where(self) -> str:
        """Name of the data in messages: what the files are called."""
        if isinstance(self.source, Mapping):
            return ", ".join(Path(path).name for path in self.source.values())
        return Path(self.source or type(self).__name__).name

    def _paths(self) -> dict[str, Path]:
        """Return split -> a table, or what a pair of files is called."""
        if not self.source:
            raise FileNotFoundError(
                "no files given; set source to a table, to the common name of two aligned files, "
                "or to a folder of them (data.source=... on the command line)"
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
            if any(_find(folder / stem, self.columns.named[side]) for side in ("text", "target")):
                found.append(folder / stem)
            if len(found) > 1 or (found and split in paths):
                names = ", ".join(path.name for path in [*found, paths.get(split)] if path)
                raise ValueError(
                    f"{folder} has several files of {split} rows: {names}; say which with a "
                    "mapping: source={train: ..., validation: ..., test: ...}"
                )
            if found:
                paths[split] = found[0]
        if "train" not in paths:
            raise FileNotFoundError(
                f"{folder} holds no train.{self.columns.text} and no table called train "
                f"({', '.join(SUFFIXES)}); it has {_listed(folder)}"
            )
        return paths

    def _table_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        batches = read_batches(path, on_bad_row=self.on_bad_row)
        first = next(batches, [])
        # A jsonl row may leave out what is empty, so a column counts if any row has it.
        there = dict.fromkeys(itertools.chain.from_iterable(first))
        self.columns.check([name for name in there if name != ROW], path.name)
        for row in itertools.chain(first, itertools.chain.from_iterable(batches)):
            cells = {ours: row.get(theirs) for ours, theirs in self.columns.named.items()}
            yield {**cells, "row": row[ROW]}

    def _line_rows(self, prefix: Path) -> Iterator[dict[str, Any]]:
        if self.columns.group is not None:
            raise ValueError(
                f"columns.group={self.columns.group!r} is a column of a table, and {prefix.name} "
                "is a pair of files; leave columns.group out"
            )
        paths = [_need(prefix, ending) for ending in (self.columns.text, self.columns.target)]
        counts = [0, 0]
        for number, pair in enumerate(itertools.zip_longest(*map(_lines, paths)), start=1):
            counts = [n + (line is not None) for n, line in zip(counts, pair, strict=True)]
            if None not in pair:
                place = f"{paths[0].name}, line {number}"
                yield {"text": pair[0], "target": pair[1], "row": place}
        if counts[0] != counts[1]:
            raise ValueError(
                f"line n of {paths[0].name} belongs to line n of {paths[1].name}, but they have "
                f"{counts[0]:,} and {counts[1]:,} lines; mend the files, or give a table with two "
                "columns"
            )


def _find(prefix: Path, ending: str) -> Path | None:
    """Return one of an aligned pair of files, plain or packed."""
    plain = prefix.with_name(f"{prefix.name}.{ending}")
    packed = plain.with_name(plain.name + _PACKED)
    return next((path for path in (plain, packed) if path.is_file()), None)


def _need(prefix: Path, ending: str) -> Path:
    path = _find(prefix, ending)
    if path is None:
        name = f"{prefix.name}.{ending}"
        raise FileNotFoundError(
            f"no file {name} or {name}{_PACKED} in {prefix.parent.absolute()}, and {prefix.name} "
            f"is no table; it has {_listed(prefix.parent)}"
        )
    return path


def _listed(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; nothing but a line feed ends one.

    Raises:
        ValueError: If a line is not UTF-8, or a packed file no gzip or damaged.
    """
    number = 0
    try:
        with _open(path) as file:
            for line in file:
                yield line.rstrip("\r\n")
                number += 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}, behind line {number}: {error}; save it as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is no whole gzip file: {error}; pack it again") from None


def _open(path: Path) -> TextIO:
    if path.suffix == _PACKED:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")
