"""Labelled texts from a user's own files."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import source_name, split_files
from lightning_transfer.data.readers.table_files import ROW, SUFFIXES, column_names, read_batches
from lightning_transfer.data.text_data_module import TextDataModule


class Files(TextDataModule):
    r"""Rows of csv, tsv, jsonl or parquet files. Delimiter and encoding are detected.

    ``source`` is one of:

    - a file;
    - a folder with ``train.csv`` and optionally ``validation.csv`` (also ``valid``, ``val``,
      ``dev``) and ``test.csv``, in any of the formats;
    - a mapping of ``train``, ``validation`` and ``test`` to files.

    Splits without a file are drawn from the training rows. ``label`` has no default, see
    ``LabelSpec``.

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
            FileNotFoundError: If there is no source, or a folder has no file named after a split.
            ValueError: If a column is missing, or a mapping has an unknown split.
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
        """Name of the data in messages: the name of the file."""
        return source_name(self.source)

    def _batches(self, path: Path) -> Iterable[list[dict[str, Any]]]:
        batches = read_batches(path, on_bad_row=self.on_bad_row)
        # Columns are checked once, on the first batch, before the rest of the file is read.
        first = next(batches, [])
        self.columns.check(column_names(first), path.name)
        return itertools.chain([first], batches)


def _one_type(column: list[Any], name: str) -> list[Any]:
    """Convert the values of a column to one type.

    Types may differ within a jsonl file, or between a csv and a jsonl file. 1, 1.0 and "1" are the
    same label.
    """
    kinds = {type(value) for value in column if value is not None}
    if len(kinds) < 2:
        return column
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in column]
    if name != "label":
        # A list among texts is no text. None makes it a bad row.
        return [None if isinstance(value, list | dict | None) else str(value) for value in column]
    # Labels from here on: a name among lists of names is a list with one name.
    if list in kinds:
        return [value if isinstance(value, list | None) else [value] for value in column]
    return [None if value is None else str(value) for value in column]
