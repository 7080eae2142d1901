"""Base DataModule for texts with target texts: rows, columns, splits, tokens, batches."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
from lightning_transfer.data.batching.tokenized_split import (
    TargetCollate,
    TargetSplit,
    TokenizedSplit,
    mark_unpadded,
)
from lightning_transfer.data.columns import TargetColumns
from lightning_transfer.data.domain_arguments import check_arguments, one_path
from lightning_transfer.data.readers.rows import Table, check_target_rows
from lightning_transfer.data.splits.corpus import TargetCorpus
from lightning_transfer.data.splits.split_spec import Splits
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.tokenization.token_cache import cached_targets, cached_tokens
from lightning_transfer.data.tokenization.token_checks import check_not_empty, log_truncation
from lightning_transfer.data.tokenization.token_table import TokenTable, need_tokenizer
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import Labels

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = ("text", "target")
"""Names of the two texts of a pair."""


class TextToText(DistributedLoaders, LightningDataModule):
    """Base of the DataModules with target texts: translations, summaries, headlines.

    As for :class:`TextDataModule`, a subclass defines ``load_rows`` only; rows are split once and
    tokens are cached. No text and no target text is in two splits. Batches have pairs of similar
    length in both texts.

    Set ``tokenizer`` before the first loader is built, and ``target_tokenizer`` if the target texts
    need another one. Set ``seed`` to change the training subset and the order of the batches.

    Args:
        source: Source of the rows. The subclass defines the allowed values; ``None`` selects its
            packaged data, if any.
        columns: Column names in the source; ``None``: the default of the subclass.
        train_size: Training rows to use: a count (int) or a fraction of the training split (float),
            drawn with ``seed``; ``None``: all. For one seed, a larger draw contains a smaller one.
        splits: Sizes of the validation and test splits, and their seed.
        tokens: Length of the texts in tokens, truncation of longer texts, and prefix; ``None``: the
            default of the subclass.
        target_tokens: The same for the target texts, including the end token.
        batch_size: Rows per device and batch, at most.
        max_tokens: Tokens per device and batch at most, including both texts and padding; ``None``:
            no limit.
        on_bad_row: ``error``, or ``skip`` to leave bad rows out and log their number in one
            warning.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> class Numbers(TextToText):
        ...     def load_rows(self):
        ...         digits = [str(number) for number in range(10)]
        ...         return {"text": digits, "target": [f"number {digit}" for digit in digits]}
        >>> data = Numbers(splits=Splits(val=2, test=3))
        >>> data.setup("fit")
        >>> data.n_train, data.n_test, data.labels.kind
        (5, 3, 'text')
    """

    default_columns: ClassVar[TargetColumns] = TargetColumns()
    default_tokens: ClassVar[Tokens] = Tokens()
    default_target_tokens: ClassVar[Tokens] = Tokens()

    def __init__(
        self,
        source: str | Mapping[str, str] | None = None,
        *,
        columns: TargetColumns | None = None,
        train_size: int | float | None = None,
        splits: Splits | None = None,
        tokens: Tokens | None = None,
        target_tokens: Tokens | None = None,
        batch_size: int = 32,
        max_tokens: int | None = None,
        on_bad_row: str = "error",
    ) -> None:
        """See the class."""
        super().__init__()
        check_arguments(
            train_size=train_size,
            batch_size=batch_size,
            max_tokens=max_tokens,
            on_bad_row=on_bad_row,
        )
        self.source = source
        self.columns = columns or self.default_columns
        self.train_size = train_size
        self.splits = splits or Splits()
        self.tokens = tokens or self.default_tokens
        self.target_tokens = target_tokens or self.default_target_tokens
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.on_bad_row = on_bad_row
        self.labels = Labels("text")
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.target_tokenizer: PreTrainedTokenizerBase | None = None
        self.seed = 0
        # With fewer test rows than ranks, a rank has nothing to predict. Without this flag,
        # Lightning then refuses the loader.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._corpus: TargetCorpus | None = None
        # (seed, size) of the last draw, and its rows: both may be changed between two setups.
        self._train: tuple[tuple[int, str], np.ndarray] | None = None
        self._tables: tuple[Sequence[PreTrainedTokenizerBase], Sequence[TokenTable]] | None = None
        # The tables with the truncation already logged.
        self._logged_tables: Sequence[TokenTable] | None = None

    def load_rows(self) -> Table:
        """Return all rows. Every subclass must define this method.

        Returns:
            A mapping of lists or a ``datasets.Dataset`` with the columns ``text`` and ``target``
            (str). Optional columns: ``group`` (the rows of a group stay in one split), ``split``
            (``train``, ``validation`` or ``test``, for data that come with splits), ``key`` (str,
            alone determines the split of a row, in all data with this key), and ``row`` (place of
            the row in its source, for messages).
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
    def n_train(self) -> int:
        """Number of training rows in use."""
        return len(self._positions("train"))

    @property
    def n_texts(self) -> int:
        """Number of training rows in use, under the same name as in :class:`RawText`."""
        return self.n_train

    @property
    def n_val(self) -> int:
        """Number of validation rows."""
        return len(self._positions("validation"))

    @property
    def n_test(self) -> int:
        """Number of test rows."""
        return len(self._positions("test"))

    @property
    def token_table(self) -> TokenTable:
        """Tokens of the texts of all splits. ``row`` in a batch is a position in this table.

        Raises:
            RuntimeError: If no tokenizer is set.
        """
        return self._tokenize()[0]

    def rows(self, split: str) -> "Dataset":
        """Return the rows of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Returns:
            Columns ``text``, ``target`` and ``row`` (place in the source), in the order of
            ``index`` in the batches.
        """
        return self._load().table(self._positions(split))

    def training_texts(self, sides: Sequence[str] = SIDES) -> Iterator[str]:
        """Yield the training texts in use one by one, to train a tokenizer on.

        Args:
            sides: ``text``, ``target`` or both.

        Raises:
            ValueError: If a side is unknown.
        """
        if unknown := sorted({*sides} - {*SIDES}):
            raise ValueError(f"sides must be {' or '.join(SIDES)}, got {', '.join(unknown)}")
        rows = self._load().rows
        columns = {"text": rows.texts, "target": rows.targets}
        # In the order of the table, so that the digest does not depend on the order of the draw.
        for row in np.sort(self._positions("train")):
            yield from (columns[side][row] for side in sides)

    def training_digest(self, sides: Sequence[str] = SIDES) -> str:
        """Return a hash of the training texts.

        Args:
            sides: ``text``, ``target`` or both.
        """
        state = hashlib.sha256()
        for text in self.training_texts(sides):
            content = text.encode()
            # With the length, two texts "ab", "c" and "a", "bc" have different hashes.
            state.update(len(content).to_bytes(8, "little") + content)
        return state.hexdigest()

    def prepare_data(self) -> None:
        """Download the data, and tokenize them into the cache.

        Lightning calls this on one process only.
        """
        self._load()
        if self.tokenizer is not None:
            self._tokenize()

    def setup(self, stage: str) -> None:
        """Load, split and tokenize the rows. Steps already done are not repeated.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``. It determines only the split that
                must not be empty.

        Raises:
            ValueError: If the data are bad (see ``check_target_rows``), the split for the stage is
                empty, or there are fewer rows to evaluate than processes.
        """
        split = {"fit": "train", "validate": "validation"}.get(stage, "test")
        if not len(self._positions(split)):
            raise ValueError(
                f"{self.where}: no {split} rows; change data.train_size, data.splits.val or "
                "data.splits.test"
            )
        check_ranks_have_rows(
            stage, lambda split: len(self._positions(split)), trainer=self.trainer, where=self.where
        )
        if self.tokenizer is not None:
            self._log_truncation(self._tokenize())

    def predict_dataloader(self) -> DataLoader:
        """Return the test batches for ``Trainer.predict``. ``index`` identifies the rows."""
        return prediction_loader(*self._loader_parts("test"))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mark a batch without padding in the input texts (see :func:`mark_unpadded`)."""
        return mark_unpadded(batch)

    def _load(self) -> TargetCorpus:
        if self._corpus is None:
            rows = check_target_rows(
                self.load_rows(), self.columns, where=self.where, on_bad_row=self.on_bad_row
            )
            self._corpus = TargetCorpus(rows, self.splits, where=self.where)
        return self._corpus

    def _positions(self, split: str) -> np.ndarray:
        check_split_name(split)
        corpus = self._load()
        if split != "train":
            return corpus.positions[split]
        # Drawn here and not in setup: before setup, a tokenizer may be trained on these texts.
        # str, because 1 and 1.0 are equal, but mean one row and all rows.
        drawn = (self.seed, str(self.train_size))
        if self._train is None or self._train[0] != drawn:
            self._train = (drawn, corpus.training_subset(self.train_size, seed=self.seed))
        return self._train[1]

    def _tokenize(self) -> Sequence[TokenTable]:
        """Return the tokens of the texts and of the target texts."""
        tokenizer = need_tokenizer(self.tokenizer)
        pair = (tokenizer, self.target_tokenizer or tokenizer)
        known = self._tables
        if known is not None and all(a is b for a, b in zip(known[0], pair, strict=True)):
            return known[1]
        rows = self._load().rows
        # All rows at once: the cached tables are shared by all splits, seeds and training sizes.
        texts = cached_tokens(rows.texts, None, tokenizer=pair[0], tokens=self.tokens)
        check_not_empty(texts, rows.texts, rows.places, self.columns.text)
        targets = cached_targets(rows.targets, tokenizer=pair[1], tokens=self.target_tokens)
        self._tables = (pair, (texts, targets))
        return self._tables[1]

    def _log_truncation(self, tables: Sequence[TokenTable]) -> None:
        # Lightning calls setup once per stage; the numbers are the same each time.
        if tables is self._logged_tables:
            return
        self._logged_tables = tables
        positions = {name: self._positions(name) for name in SPLITS}
        tokenizer = need_tokenizer(self.tokenizer)
        for table, tokens, option, used in (
            (tables[0], self.tokens, "tokens", tokenizer),
            (tables[1], self.target_tokens, "target_tokens", self.target_tokenizer or tokenizer),
        ):
            log_truncation(
                table, positions, tokens=tokens, tokenizer=used, where=self.where, option=option
            )

    def _loader_parts(self, split: str) -> tuple[TargetSplit, LengthBatchSampler, TargetCollate]:
        texts, targets = self._tokenize()
        rows = TargetSplit(TokenizedSplit(texts, self._positions(split), None), targets)
        sampler = distribute_to_ranks(
            rows.lengths,
            self.batch_size,
            seed=self.seed,
            shuffle=split == "train",
            trainer=self.trainer,
            max_tokens=self.max_tokens,
        )
        return rows, sampler, TargetCollate(need_tokenizer(self.tokenizer))
