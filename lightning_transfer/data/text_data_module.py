"""Base DataModule for labelled texts: rows, columns, splits, tokens, batches."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.batching.loaders import (
    DistributedLoaders,
    check_ranks_have_rows,
    distribute_to_ranks,
    prediction_loader,
)
from lightning_transfer.data.batching.tokenized_split import Collate, TokenizedSplit, mark_unpadded
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.domain_arguments import check_arguments, one_path
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Rows, Table, check_rows
from lightning_transfer.data.splits.corpus import Corpus
from lightning_transfer.data.splits.split_spec import Splits
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.splits.subset import check_train_size
from lightning_transfer.data.tokenization.token_cache import cached_tokens
from lightning_transfer.data.tokenization.token_checks import check_not_empty, log_truncation
from lightning_transfer.data.tokenization.token_table import TokenTable, need_tokenizer
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import Labels

if TYPE_CHECKING:
    from datasets import Dataset


class TextDataModule(DistributedLoaders, LightningDataModule):
    """Base of the DataModules for labelled texts.

    A subclass defines ``load_rows`` only. This class checks the rows, splits them, tokenizes them
    once into a cache, and builds batches of texts of similar length. Training batches can be
    resumed in the middle of an epoch.

    Rows are split by a hash of their text, so all runs are tested on the same rows. No text and no
    group is in two splits, also if the data come with splits. For pairs, this holds for the first
    text.

    Set ``tokenizer`` before the first loader is built. Set ``seed`` to change the training subset
    and the order of the batches. With several devices in plain Lightning, use
    ``Trainer(use_distributed_sampler=False)``, because this class distributes the batches to the
    ranks.

    Args:
        source: Source of the rows. The subclass defines the allowed values; ``None`` selects its
            packaged data, if any.
        columns: Column names in the source; ``None``: the default of the subclass.
        label: Content of the label column; ``None``: the default of the subclass.
        train_size: Training rows to use: a count (int) or a fraction of the training split (float),
            drawn with ``seed`` in the proportions of the classes; ``8/class`` for 8 rows of each
            class; ``None``: all.
        splits: Sizes of the validation and test splits, and their seed.
        tokens: Length of the token sequences, and truncation of longer texts; ``None``: the default
            of the subclass.
        batch_size: Rows per device and batch, at most.
        max_tokens: Tokens per device and batch at most, including padding, in all splits. Batches
            of long rows are then smaller. A row with more tokens is a batch by itself. ``None``: no
            limit.
        on_bad_row: ``error``, or ``skip`` to leave bad rows out and log their number in one
            warning.

    Raises:
        ValueError: If an argument is out of range, or neither ``label`` nor a default is given.

    Example:
        >>> class Weather(TextDataModule):
        ...     default_label = LabelSpec("single_label", names=["dry", "wet"])
        ...
        ...     def load_rows(self):
        ...         days = [f"day {day}" for day in range(10)]
        ...         return {"text": days, "label": ["dry", "wet"] * 5}
        >>> data = Weather(splits=Splits(val=2, test=3))
        >>> data.setup("fit")
        >>> data.n_train, data.n_test, data.labels.names
        (5, 3, ('dry', 'wet'))
    """

    default_columns: ClassVar[Columns] = Columns()
    default_label: ClassVar[Any] = None  # an instance of label_class
    label_class: ClassVar[type] = LabelSpec
    default_tokens: ClassVar[Tokens] = Tokens()

    def __init__(
        self,
        source: str | Mapping[str, str] | None = None,
        *,
        columns: Columns | None = None,
        label: Any = None,
        train_size: int | float | str | None = None,
        splits: Splits | None = None,
        tokens: Tokens | None = None,
        batch_size: int = 32,
        max_tokens: int | None = None,
        on_bad_row: str = "error",
    ) -> None:
        """See the class."""
        super().__init__()
        label = label or self.default_label
        if label is None:
            raise ValueError(
                f"{type(self).__name__} has no default label; pass label=LabelSpec(...), or set "
                "data.label.kind=... on the command line"
            )
        if not isinstance(label, self.label_class):
            raise ValueError(
                f"label of {type(self).__name__} must be a {self.label_class.__name__}, "
                f"got {label!r}"
            )
        check_arguments(
            train_size=train_size,
            batch_size=batch_size,
            max_tokens=max_tokens,
            on_bad_row=on_bad_row,
        )
        self.source = source
        self.columns = columns or self.default_columns
        self.label: Any = label  # of label_class, which a subclass may replace
        self.train_size = train_size
        self.splits = splits or Splits()
        self.tokens = tokens or self.default_tokens
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.on_bad_row = on_bad_row
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.seed = 0
        # With fewer test rows than ranks, a rank has nothing to predict. Without this flag,
        # Lightning then refuses the loader.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._corpus: Corpus | None = None
        # (seed, size) of the last draw, and its rows: both may be changed between two setups.
        self._train: tuple[tuple[int, str], np.ndarray] | None = None
        self._table: tuple[PreTrainedTokenizerBase, TokenTable] | None = None
        self._logged_table: TokenTable | None = None  # table with the truncation already logged

    def load_rows(self) -> Table:
        """Return all rows. Every subclass must define this method.

        Returns:
            A mapping of lists or a ``datasets.Dataset`` with the columns ``text`` (str) and
            ``label`` (see ``LabelSpec``). Optional columns: ``text_pair`` (str), ``group`` (the
            rows of a group stay in one split), ``split`` (``train``, ``validation`` or ``test``,
            for data that come with splits), and ``row`` (place of the row in its source, for
            messages, such as ``"reviews.csv, line 12"``).
        """
        raise NotImplementedError(f"{type(self).__name__} must define load_rows()")

    @property
    def where(self) -> str:
        """Name of the data in messages."""
        return self.source if isinstance(self.source, str) else type(self).__name__

    @property
    def source_path(self) -> Path | None:
        """Source as a path, for subclasses with a single file or folder.

        Raises:
            ValueError: If the source is a mapping of several files.
        """
        return one_path(self.source, type(self).__name__)

    @property
    def labels(self) -> Labels:
        """Labels of the data, known before ``setup`` if their names were given."""
        labels = self._corpus.rows.labels if self._corpus else self.label.declared_labels()
        if labels is None:
            raise RuntimeError("the label names are read from the data: call setup() first")
        return labels

    @property
    def reads_pairs(self) -> bool:
        """True if the rows are pairs of texts."""
        return self._load().rows.pairs is not None

    @property
    def n_train(self) -> int:
        """Number of training rows in use."""
        return len(self._positions("train"))

    @property
    def n_val(self) -> int:
        """Number of validation rows."""
        return len(self._positions("validation"))

    @property
    def n_test(self) -> int:
        """Number of test rows."""
        return len(self._positions("test"))

    @property
    def label_counts(self) -> dict[str, int]:
        """Number of training rows of each class or bin; empty for numbers without bins."""
        return self._load().label_counts(self._positions("train"))

    @property
    def token_table(self) -> TokenTable:
        """Tokens of the rows of all splits. ``row`` in a batch is a position in this table.

        Raises:
            RuntimeError: If the rows are not tokenized with the current tokenizer.
        """
        if self._table is None or self._table[0] is not self.tokenizer:
            raise RuntimeError("no tokens yet: set data.tokenizer, then call setup()")
        return self._table[1]

    def rows(self, split: str) -> "Dataset":
        """Return the rows of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Returns:
            Columns ``text``, ``label`` (the target) and ``row`` (place in the source), in the order
            of ``index`` in the batches.
        """
        return self._load().table(self._positions(split))

    def prepare_data(self) -> None:
        """Download the data, and tokenize them into the cache.

        Lightning calls this on one process only.
        """
        self._load()
        if self.tokenizer is not None:
            self._tokenize(self.tokenizer)

    def setup(self, stage: str) -> None:
        """Load, split and tokenize the rows. Steps already done are not repeated.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``. It determines only the split that
                must not be empty.

        Raises:
            ValueError: If the data are bad (see ``check_rows``), the split for the stage is empty,
                the training rows are of a single class, or there are fewer rows to evaluate than
                processes.
        """
        corpus = self._load()
        # str, because 1 and 1.0 are equal, but mean one row and all rows.
        drawn = (self.seed, str(self.train_size))
        if self._train is None or self._train[0] != drawn:
            check_train_size(self.train_size)  # again: a learning curve changes the attribute
            self._train = (drawn, corpus.training_subset(self.train_size, seed=self.seed))
        # Prediction uses the test rows.
        self._check_split({"fit": "train", "validate": "validation"}.get(stage, "test"))
        check_ranks_have_rows(
            stage, lambda split: len(self._positions(split)), trainer=self.trainer, where=self.where
        )
        if self.tokenizer is not None:
            self._log_truncation(self._tokenize(self.tokenizer))

    def predict_dataloader(self) -> DataLoader:
        """Return the test batches for ``Trainer.predict``. ``index`` identifies the rows."""
        return prediction_loader(*self._loader_parts("test"))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mark a batch without padding (see :func:`mark_unpadded`)."""
        return mark_unpadded(batch)

    def _load(self) -> Corpus:
        if self._corpus is None:
            self._corpus = Corpus(self._check(self.load_rows()), self.splits, where=self.where)
        return self._corpus

    def _check(self, table: Table) -> Rows:
        """Return the good rows of a table."""
        return check_rows(
            table, self.label, self.columns, where=self.where, on_bad_row=self.on_bad_row
        )

    def _make_table(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        """Return the tokens of all rows."""
        return cached_tokens(rows.texts, rows.pairs, tokenizer=tokenizer, tokens=self.tokens)

    def _make_split(self, split: str, table: TokenTable) -> TokenizedSplit:
        """Return the rows of a split with their targets."""
        return TokenizedSplit(table, self._positions(split), self._load().rows.tensor_targets())

    def _collate(self, tokenizer: PreTrainedTokenizerBase) -> Collate:
        """Return the collate function of the loaders."""
        return Collate(tokenizer)

    def _positions(self, split: str) -> np.ndarray:
        check_split_name(split)
        if self._corpus is None or self._train is None:
            raise RuntimeError("the rows are not loaded yet: call setup() first")
        # Only the training rows depend on seed and train_size.
        return self._train[1] if split == "train" else self._corpus.positions[split]

    def _check_split(self, split: str) -> None:
        positions = self._positions(split)
        if not len(positions):
            raise ValueError(
                f"{self.where}: no {split} rows; change data.train_size, data.splits.val or "
                "data.splits.test"
            )
        # A single class would train without an error, to a model that predicts it always.
        if split == "train" and self.labels.kind in ("single_label", "tags"):
            present = [name for name, count in self.label_counts.items() if count]
            if len(present) < 2:
                raise ValueError(
                    f"{self.where}: all of the {len(positions)} training rows are {present[0]!r}; "
                    "raise data.train_size, or lower data.splits.val or data.splits.test"
                )

    def _tokenize(self, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        if self._table is not None and self._table[0] is tokenizer:
            return self._table[1]
        rows = self._load().rows
        # All rows at once: the cached table is shared by all splits, seeds and training sizes.
        table = self._make_table(rows, tokenizer)
        check_not_empty(table, rows.texts, rows.places, self.columns.text)
        self._table = (tokenizer, table)
        return table

    def _log_truncation(self, table: TokenTable) -> None:
        # Lightning calls setup once per stage; the numbers are the same each time.
        if table is self._logged_table:
            return
        self._logged_table = table
        positions = {name: self._positions(name) for name in SPLITS}
        tokenizer = need_tokenizer(self.tokenizer)
        log_truncation(table, positions, tokens=self.tokens, tokenizer=tokenizer, where=self.where)

    def _loader_parts(self, split: str) -> tuple[TokenizedSplit, LengthBatchSampler, Collate]:
        tokenizer = need_tokenizer(self.tokenizer)
        rows = self._make_split(split, self._tokenize(tokenizer))
        sampler = distribute_to_ranks(
            rows.lengths,
            self.batch_size,
            seed=self.seed,
            shuffle=split == "train",
            trainer=self.trainer,
            max_tokens=self.max_tokens,
        )
        return rows, sampler, self._collate(tokenizer)
