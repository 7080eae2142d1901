"""From rows of text to batches: splits, subsets, tokens, order."""

import logging
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
from lightning_transfer.data.batching.tokenized_split import Collate, TokenizedSplit, mark_full
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.domain_arguments import check_arguments, one_path
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Rows, Table, check_rows
from lightning_transfer.data.splits.corpus import Corpus
from lightning_transfer.data.splits.split_spec import Splits
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.splits.subset import check_train_size
from lightning_transfer.data.tokenization.token_cache import cached_tokens
from lightning_transfer.data.tokenization.token_checks import check_not_empty, say_cut
from lightning_transfer.data.tokenization.token_table import TokenTable, need_tokenizer
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import Labels

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class TextDataModule(DistributedLoaders, LightningDataModule):
    """Base of all domains: a domain says where its rows come from, the rest is here.

    Rows are split once, by a hash of their text, before anything else looks at them, so that no
    text (of pairs, no first text) and no group is in two splits, also where the data come split,
    and every run tests on the same rows. They are tokenized once, and
    cached. Training batches hold rows of like length and can be resumed in mid-epoch.

    Set ``tokenizer`` before the loaders are asked for, and ``seed`` for another draw of the
    training subset and of the batch order. In Lightning under several devices, use
    ``Trainer(use_distributed_sampler=False)``: the batches are dealt out to the ranks here.

    Args:
        source: Where the rows come from; what it may be is up to the domain, ``None`` is its own
            data.
        columns: Which column is what; ``None``: the domain's own.
        label: What the label column holds; ``None``: the domain's own.
        train_size: Training rows to use: a count (int) or a fraction of the training split
            (float), drawn with ``seed`` so that the classes keep their shares; ``8/class``: as
            many of each class; ``None``: all.
        splits: How many rows are held back for validation and test, and their seed.
        tokens: Length of the token sequences and how longer texts are cut; ``None``: the
            domain's own.
        batch_size: Rows per device and batch, at most.
        max_tokens: Tokens per device and batch at most, padding counted, also in validation and
            test: long rows then come in smaller batches. A row that is longer has a batch of its
            own. ``None``: as long as its rows are.
        on_bad_row: ``error``, or ``skip`` to leave bad rows out, counted in one warning.

    Raises:
        ValueError: If an argument is out of range or the domain has no label of its own.

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
    default_label: ClassVar[Any] = None  # of the class below
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
                f"{type(self).__name__} has no label of its own; say what the label column holds "
                "with label=LabelSpec(...) (data.label.kind=... on the command line)"
            )
        if not isinstance(label, self.label_class):
            raise ValueError(
                f"the label of a {type(self).__name__} is said by a {self.label_class.__name__}, "
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
        self.label: Any = label  # a LabelSpec, or of the label_class of a subclass
        self.train_size = train_size
        self.splits = splits or Splits()
        self.tokens = tokens or self.default_tokens
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.on_bad_row = on_bad_row
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.seed = 0
        # A rank without a row to predict of does not keep the others waiting.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._corpus: Corpus | None = None
        self._train: tuple[tuple[int, str], np.ndarray] | None = None  # seed and size; their rows
        self._table: tuple[PreTrainedTokenizerBase, TokenTable] | None = None
        self._said: TokenTable | None = None  # the table whose cut rows were told

    def load_rows(self) -> Table:
        """Return all rows; the one method that a domain has to write.

        Returns:
            The columns ``text`` (str) and ``label`` (raw, see ``LabelSpec``), as a mapping of lists
            or a ``datasets.Dataset``, and optionally ``text_pair`` (str), ``group`` (rows of one
            group stay in one split), ``split`` (``train``, ``validation`` or ``test``, for data
            that come split) and ``row`` (where the row came from, for messages:
            ``"reviews.csv, line 12"``).
        """
        raise NotImplementedError(f"{type(self).__name__} must define load_rows()")

    @property
    def where(self) -> str:
        """Name of the data in messages."""
        return self.source if isinstance(self.source, str) else type(self).__name__

    @property
    def source_path(self) -> Path | None:
        """The source as a path, for domains that take one file or folder.

        Raises:
            ValueError: If the source is several files.
        """
        return one_path(self.source, type(self).__name__)

    @property
    def labels(self) -> Labels:
        """The label contract; known before ``setup`` if the label names were given."""
        labels = self._corpus.rows.labels if self._corpus else self.label.stated()
        if labels is None:
            raise RuntimeError("the label names are in the data: call setup() first")
        return labels

    @property
    def reads_pairs(self) -> bool:
        """Whether its rows are pairs of texts."""
        return self._load().rows.pairs is not None

    @property
    def n_train(self) -> int:
        """Training rows in use."""
        return len(self._positions("train"))

    @property
    def n_val(self) -> int:
        """Validation rows."""
        return len(self._positions("validation"))

    @property
    def n_test(self) -> int:
        """Test rows."""
        return len(self._positions("test"))

    @property
    def label_counts(self) -> dict[str, int]:
        """Training rows of each class; of each band for a rating, empty without bands."""
        return self._load().label_counts(self._positions("train"))

    @property
    def token_table(self) -> TokenTable:
        """Tokens of all rows, whatever their split; ``row`` in a batch counts in it.

        Raises:
            RuntimeError: If nothing has been tokenized for the present tokenizer.
        """
        if self._table is None or self._table[0] is not self.tokenizer:
            raise RuntimeError("no tokens yet: set data.tokenizer, then call setup()")
        return self._table[1]

    def rows(self, split: str) -> "Dataset":
        """Return ``text``, ``label`` (the target) and ``row`` of a split's rows.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Returns:
            A data set in the order of ``index`` in the batches.
        """
        return self._load().table(self._positions(split))

    def prepare_data(self) -> None:
        """Download and tokenize into the cache; Lightning calls it on one process only."""
        self._load()
        if self.tokenizer is not None:
            self._tokenize(self.tokenizer)

    def setup(self, stage: str) -> None:
        """Load, split and tokenize; does nothing that is done already.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``. It only decides which split must
                not be empty.

        Raises:
            ValueError: If the data are bad (see ``check_rows``), or the split that the stage needs
                is empty or, for training, holds one class only, or a process would have no row to
                evaluate.
        """
        corpus = self._load()
        drawn = (self.seed, str(self.train_size))
        if self._train is None or self._train[0] != drawn:
            check_train_size(self.train_size)
            self._train = (drawn, corpus.training_subset(self.train_size, seed=self.seed))
        self._check_split({"fit": "train", "validate": "validation"}.get(stage, "test"))
        check_ranks_have_rows(
            stage, lambda split: len(self._positions(split)), trainer=self.trainer, where=self.where
        )
        if self.tokenizer is not None:
            self._say_cut(self._tokenize(self.tokenizer))

    def predict_dataloader(self) -> DataLoader:
        """Return the test batches for ``Trainer.predict``; ``index`` says which row is which."""
        return prediction_loader(*self._loader_parts("test"))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mark each batch that has no padding (see :func:`mark_full`)."""
        return mark_full(batch)

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
        """Return a split's rows with their targets."""
        return TokenizedSplit(table, self._positions(split), self._load().rows.tensor_targets())

    def _collate(self, tokenizer: PreTrainedTokenizerBase) -> Collate:
        """Return what makes a batch of rows."""
        return Collate(tokenizer)

    def _positions(self, split: str) -> np.ndarray:
        check_split_name(split)
        if self._corpus is None or self._train is None:
            raise RuntimeError("the rows are not loaded yet: call setup() first")
        return self._train[1] if split == "train" else self._corpus.positions[split]

    def _check_split(self, split: str) -> None:
        positions = self._positions(split)
        if not len(positions):
            raise ValueError(
                f"{self.where}: no {split} rows; change train_size, splits.val or splits.test"
            )
        if split == "train" and self.labels.kind in ("single_label", "tags"):
            there = [name for name, count in self.label_counts.items() if count]
            if len(there) < 2:
                raise ValueError(
                    f"{self.where}: all of the {len(positions)} training rows are {there[0]!r}; "
                    "raise train_size or lower splits.val, splits.test"
                )

    def _tokenize(self, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        if self._table is not None and self._table[0] is tokenizer:
            return self._table[1]
        rows = self._load().rows
        table = self._make_table(rows, tokenizer)
        check_not_empty(table, rows.texts, rows.places, self.columns.text)
        self._table = (tokenizer, table)
        return table

    def _say_cut(self, table: TokenTable) -> None:
        if table is self._said:
            return
        self._said = table
        positions = {name: self._positions(name) for name in SPLITS}
        tokenizer = need_tokenizer(self.tokenizer)
        say_cut(table, positions, tokens=self.tokens, tokenizer=tokenizer, where=self.where)

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
