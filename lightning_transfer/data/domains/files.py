"""The user's own files."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import name_of, split_files
from lightning_transfer.data.readers.table_files import ROW, SUFFIXES, read_batches
from lightning_transfer.data.text_data_module import TextDataModule


class Files(TextDataModule):
    r"""Rows from csv, tsv, jsonl or parquet files; delimiter and encoding are detected.

    ``source`` is one file; or a folder that holds ``train.csv`` and, if they exist,
    ``validation.csv`` (``valid``, ``val``, ``dev``) and ``test.csv``, in any of the formats; or a
    mapping of ``train``, ``validation``, ``test`` to files. Splits that have no file of their own
    are cut from the training rows. ``label`` has no default, see ``LabelSpec``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mail.csv"
        >>> _ = path.write_text("body,kind\nwin now,spam\nlunch?,ham\nbuy,spam\nhi,ham\n")
        >>> from lightning_transfer.data import Columns, LabelSpec, Splits
        >>> data = Files(
        ...     str(path),
        ...     columns=Columns(text="body", label="kind"),
        ...     label=LabelSpec("single_label"),
        ...     splits=Splits(val=0, test=1),
        ... )
        >>> data.setup("test")
        >>> data.n_test, data.labels.names
        (1, ('ham', 'spam'))
    """

    def load_rows(self) -> Table:
        """Return the rows of all files.

        Raises:
            FileNotFoundError: If there is no source, or a folder holds no file of a known name.
            ValueError: If a column is missing, or a mapping names something that is no split.
        """
        table: dict[str, list[Any]] = {name: [] for name in (*self.columns.named, "row", "split")}
        for split, path in split_files(self.source, tuple(SUFFIXES)).items():
            for batch in self._batches(path):
                for ours, theirs in self.columns.named.items():
                    table[ours] += [row.get(theirs) for row in batch]
                table["row"] += [row[ROW] for row in batch]
                table["split"] += [split] * len(batch)
        return {name: _one_type(column, name) for name, column in table.items()}

    @property
    def where(self) -> str:
        """Name of the data in messages: the file's name."""
        return name_of(self.source)

    def _batches(self, path: Path) -> Iterable[list[dict[str, Any]]]:
        batches = read_batches(path, on_bad_row=self.on_bad_row)
        first = next(batches, [])
        # A jsonl row may leave out what is empty, so a column counts if any row has it.
        there = dict.fromkeys(itertools.chain.from_iterable(first))
        self.columns.check([name for name in there if name != ROW], path.name)
        return itertools.chain([first], batches)


def _one_type(column: list[Any], name: str) -> list[Any]:
    """Return the column with one type: 1 and 1.0 are one label, and so are 1 and "1"."""
    kinds = {type(value) for value in column if value is not None}
    if len(kinds) < 2:
        return column
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in column]
    if name != "label":
        # A text among lists is text; a list among texts is none, and becomes a bad row.
        return [None if isinstance(value, list | dict | None) else str(value) for value in column]
    if list in kinds:
        return [value if isinstance(value, list | None) else [value] for value in column]
    return [None if value is None else str(value) for value in column]
