"""Tagged sentences from jsonl and parquet files."""

from typing import Any

from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.split_files import name_of, split_files
from lightning_transfer.data.readers.table_files import ROW, read_batches
from lightning_transfer.data.tagged_text import TaggedText

SUFFIXES = (".jsonl", ".json", ".parquet")


class TaggedFiles(TaggedText):
    r"""Sentences from jsonl or parquet files, as lists of words and of tags.

    ``source`` is one file; or a folder that holds ``train.jsonl`` and, if they exist,
    ``validation.jsonl`` (``valid``, ``val``, ``dev``) and ``test.jsonl``; or a mapping of
    ``train``, ``validation``, ``test`` to files. Splits that have no file of their own are cut from
    the training rows.

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
            FileNotFoundError: If there is no source, or a folder holds no file of a known name.
            ValueError: If a column is missing, or a mapping names something that is no split.
        """
        table: dict[str, list[Any]] = {name: [] for name in (*self.columns.named, "row", "split")}
        for split, path in split_files(self.source, SUFFIXES).items():
            for batch in read_batches(path, on_bad_row=self.on_bad_row):
                there = dict.fromkeys(name for row in batch for name in row if name != ROW)
                self.columns.check(list(there), path.name)
                for ours, theirs in self.columns.named.items():
                    table[ours] += [row.get(theirs) for row in batch]
                table["row"] += [row[ROW] for row in batch]
                table["split"] += [split] * len(batch)
        return table

    @property
    def where(self) -> str:
        """Name of the data in messages: the file's name."""
        return name_of(self.source)
