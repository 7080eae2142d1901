"""Sentences with tagged words from a user's own jsonl and parquet files."""

from typing import Any

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import source_name, split_files
from lightning_transfer.data.readers.table_files import ROW, column_names, read_batches
from lightning_transfer.data.tagged_text import TaggedText

SUFFIXES = (".jsonl", ".json", ".parquet")  # formats with lists


class TaggedFiles(TaggedText):
    r"""Sentences of jsonl or parquet files, each a list of words and a list of tags.

    ``source`` is one of:

    - a file;
    - a folder with ``train.jsonl`` and optionally ``validation.jsonl`` (also ``valid``, ``val``,
      ``dev``) and ``test.jsonl``;
    - a mapping of ``train``, ``validation`` and ``test`` to files.

    Splits without a file are drawn from the training rows.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lightning_transfer.data import Splits
        >>> path = Path(tempfile.mkdtemp()) / "news.jsonl"
        >>> _ = path.write_text(
        ...     '{"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]}\n'
        ...     '{"tokens": ["It", "rained"], "tags": ["O", "O"]}\n'
        ... )
        >>> data = TaggedFiles(str(path), splits=Splits(val=0, test=1))
        >>> data.setup("test")
        >>> data.labels.names
        ('O', 'B-PER')
    """

    def load_rows(self) -> Table:
        """Return the sentences of all files.

        Raises:
            FileNotFoundError: If there is no source, or a folder has no file named after a split.
            ValueError: If a column is missing, or a mapping has an unknown split.
        """
        table: dict[str, list[Any]] = {name: [] for name in (*self.columns.named, "row", "split")}
        for split, path in split_files(self.source, SUFFIXES).items():
            for batch in read_batches(path, on_bad_row=self.on_bad_row):
                self.columns.check(column_names(batch), path.name)
                for ours, theirs in self.columns.named.items():
                    table[ours] += [row.get(theirs) for row in batch]
                table["row"] += [row[ROW] for row in batch]
                table["split"] += [split] * len(batch)
        return table

    @property
    def where(self) -> str:
        """Name of the data in messages: the name of the file."""
        return source_name(self.source)
