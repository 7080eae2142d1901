"""From rows of text and target text to batches, for models that write."""

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
    mark_full,
)
from lightning_transfer.data.columns import TargetColumns
from lightning_transfer.data.domain_arguments import check_arguments, one_path
from lightning_transfer.data.readers.rows import Table, check_target_rows
from lightning_transfer.data.splits.corpus import TargetCorpus
from lightning_transfer.data.splits.split_spec import Splits
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.tokenization.token_cache import cached_targets, cached_tokens
from lightning_transfer.data.tokenization.token_checks import check_not_empty, say_cut
from lightning_transfer.data.tokenization.token_table import TokenTable, need_tokenizer
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import Labels

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = ("text", "target")
"""The two sides of a pair."""


class TextToText(DistributedLoaders, LightningDataModule):
    """Base of the domains whose target is a text: a translation, a summary, a headline.

    As with :class:`TextDataModule` a domain says where its rows come from, rows are split once, and
    tokens are cached; set ``tokenizer`` before the loaders are asked for, ``target_tokenizer`` too
    if targets have another, and ``seed`` for another draw. No text and no target lies in two
    splits. Batches hold pairs of like length on both sides.

    Args:
        source: Where the rows come from; what it may be is up to the domain, ``None`` is its own
            data.
        columns: Which column is what; ``None``: the domain's own.
        train_size: Training rows to use: a count (int) or a fraction (float), drawn with ``seed``;
            ``None``: all. Of one seed the larger draw holds the smaller.
        splits: How many rows are held back for validation and test, and their seed.
        tokens: Length of the texts in tokens, how longer ones are cut, and a prefix;
            ``None``: the domain's own.
        target_tokens: The same of the target texts, the end token counted.
        batch_size: Rows per device and batch, at most.
        max_tokens: Tokens per device and batch at most, both sides and padding counted;
            ``None``: any number.
        on_bad_row: ``error``, or ``skip`` to leave bad rows out, counted in one warning.

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
        # A rank without a row to predict of does not keep the others waiting.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._corpus: TargetCorpus | None = None
        self._train: tuple[tuple[int, str], np.ndarray] | None = None  # seed and size; their rows
        self._tables: tuple[Sequence[PreTrainedTokenizerBase], Sequence[TokenTable]] | None = None
        self._said: Sequence[TokenTable] | None = None  # the tables whose cut rows were told

    def load_rows(self) -> Table:
        """Return all rows; the one method that a domain has to write.

        Returns:
            The columns ``text`` and ``target`` (str), as a mapping of lists or a
            ``datasets.Dataset``, and optionally ``group`` (rows of one group stay in one split),
            ``split`` (``train``, ``validation`` or ``test``, for data that come split), ``key``
            (a str that decides in which split a row lies, in all data that have it) and ``row``
            (where the row came from, for messages).
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
    def n_train(self) -> int:
        """Training rows in use."""
        return len(self._positions("train"))

    @property
    def n_texts(self) -> int:
        """Training rows in use, under the name that raw text has for its documents."""
        return self.n_train

    @property
    def n_val(self) -> int:
        """Validation rows."""
        return len(self._positions("validation"))

    @property
    def n_test(self) -> int:
        """Test rows."""
        return len(self._positions("test"))

    @property
    def token_table(self) -> TokenTable:
        """Tokens of the texts of all rows, whatever their split; ``row`` in a batch counts in it.

        Raises:
            RuntimeError: If there is no tokenizer.
        """
        return self._tokenize()[0]

    def rows(self, split: str) -> "Dataset":
        """Return ``text``, ``target`` and ``row`` (its place) of a split's rows.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Returns:
            A data set in the order of ``index`` in the batches.
        """
        return self._load().table(self._positions(split))

    def training_texts(self, sides: Sequence[str] = SIDES) -> Iterator[str]:
        """Yield the training texts in use one by one, to train a tokenizer on.

        Args:
            sides: ``text``, ``target`` or both.

        Raises:
            ValueError: If there is no such side.
        """
        if unknown := sorted({*sides} - {*SIDES}):
            raise ValueError(f"sides may be {' and '.join(SIDES)}, got {', '.join(unknown)}")
        rows = self._load().rows
        columns = {"text": rows.texts, "target": rows.targets}
        for row in np.sort(self._positions("train")):
            yield from (columns[side][row] for side in sides)

    def training_digest(self, sides: Sequence[str] = SIDES) -> str:
        """Return a hash of the training texts of these sides."""
        state = hashlib.sha256()
        for text in self.training_texts(sides):
            content = text.encode()
            state.update(len(content).to_bytes(8, "little") + content)
        return state.hexdigest()

    def prepare_data(self) -> None:
        """Download and tokenize into the cache; Lightning calls it on one process only."""
        self._load()
        if self.tokenizer is not None:
            self._tokenize()

    def setup(self, stage: str) -> None:
        """Load, split and tokenize; does nothing that is done already.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``. It only decides which split must
                not be empty.

        Raises:
            ValueError: If the data are bad (see ``check_target_rows``), or the split that the stage
                needs is empty, or a process would have no row to evaluate.
        """
        split = {"fit": "train", "validate": "validation"}.get(stage, "test")
        if not len(self._positions(split)):
            raise ValueError(
                f"{self.where}: no {split} rows; change train_size, splits.val or splits.test"
            )
        check_ranks_have_rows(
            stage, lambda split: len(self._positions(split)), trainer=self.trainer, where=self.where
        )
        if self.tokenizer is not None:
            self._say_cut(self._tokenize())

    def predict_dataloader(self) -> DataLoader:
        """Return the test batches for ``Trainer.predict``; ``index`` says which row is which."""
        return prediction_loader(*self._loader_parts("test"))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mark each batch whose texts have no padding (see :func:`mark_full`)."""
        return mark_full(batch)

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
        drawn = (self.seed, str(self.train_size))
        if self._train is None or self._train[0] != drawn:
            self._train = (drawn, corpus.training_subset(self.train_size, seed=self.seed))
        return self._train[1]

    def _tokenize(self) -> Sequence[TokenTable]:
        """Return the tokens of the texts and of the targets."""
        tokenizer = need_tokenizer(self.tokenizer)
        pair = (tokenizer, self.target_tokenizer or tokenizer)
        known = self._tables
        if known is not None and all(a is b for a, b in zip(known[0], pair, strict=True)):
            return known[1]
        rows = self._load().rows
        texts = cached_tokens(rows.texts, None, tokenizer=pair[0], tokens=self.tokens)
        check_not_empty(texts, rows.texts, rows.places, self.columns.text)
        targets = cached_targets(rows.targets, tokenizer=pair[1], tokens=self.target_tokens)
        self._tables = (pair, (texts, targets))
        return self._tables[1]

    def _say_cut(self, tables: Sequence[TokenTable]) -> None:
        if tables is self._said:
            return
        self._said = tables
        positions = {name: self._positions(name) for name in SPLITS}
        tokenizer = need_tokenizer(self.tokenizer)
        for table, tokens, option, used in (
            (tables[0], self.tokens, "tokens", tokenizer),
            (tables[1], self.target_tokens, "target_tokens", self.target_tokenizer or tokenizer),
        ):
            say_cut(
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
