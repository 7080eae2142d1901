"""DataModule for sentences with one tag per word."""

from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.tokenized_split import Collate, TokenizedSplit
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import Rows, Table
from lightning_transfer.data.readers.tagged_rows import TaggedRows, check_tagged_rows
from lightning_transfer.data.tag_spec import TagSpec, continuation_tags
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokenization.token_cache import cached_words
from lightning_transfer.data.tokenization.token_table import TokenTable
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.data.tokenization.word_tokens import word_targets
from lightning_transfer.utils import IGNORED


class TaggedSplit(TokenizedSplit):
    """Rows of one split with one target per token.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table in the split, int64 ``(rows,)``.
        targets: Target of each token of the table, int64 ``(tokens,)``.
    """

    def __init__(self, table: TokenTable, positions: np.ndarray, targets: np.ndarray) -> None:
        """See the class."""
        super().__init__(table, positions, None)
        self.token_targets = targets

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one or several rows as in :class:`TokenizedSplit`, with ``labels`` per token."""
        rows = np.atleast_1d(self.positions[index])  # (rows,), for a single index too
        targets = self.token_targets[self.table.token_indices(rows)]  # (tokens,)
        return {**super().__getitem__(index), "labels": targets}


class TaggedText(TextDataModule):
    """Base of the DataModules for tagged words, such as named entities or parts of speech.

    Rows, splits, cache and batches are those of :class:`TextDataModule`; a row is a sentence.
    ``load_rows`` returns the columns ``text`` (list of words) and ``label`` (list of as many tags).

    Only the first token of a word has a target, unless ``TagSpec.label_all`` is set. A sentence
    longer than ``tokens.max_length`` is truncated: the removed words are neither trained on nor
    evaluated. The number of truncated sentences is logged.

    Args:
        source: Source of the rows, see :class:`TextDataModule`.
        columns: Column names: ``text`` for the words, ``label`` for the tags.
        label: Content of the tag column, a :class:`TagSpec`.
        train_size: Number (int) or fraction (float) of sentences to train on; ``None``: all.
        splits: Sizes of the splits in sentences, and their seed.
        tokens: Length of the token sequences, and truncation of longer sentences.
        batch_size: Sentences per device and batch, at most.
        max_tokens: Tokens per device and batch at most, including padding; ``None``: no limit.
        on_bad_row: ``error``, or ``skip`` to leave bad sentences out.
    """

    default_columns = Columns(text="tokens", label="tags")
    default_label = TagSpec()
    label_class: ClassVar[type] = TagSpec
    default_tokens = Tokens(max_length=256)

    def _check(self, table: Table) -> Rows:
        return check_tagged_rows(
            table, self.label, self.columns, where=self.where, on_bad_row=self.on_bad_row
        )

    def _make_table(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        return cached_words(rows.words, tokenizer=tokenizer, tokens=self.tokens)

    def _make_split(self, split: str, table: TokenTable) -> TokenizedSplit:
        rows = self._load().rows
        assert isinstance(rows, TaggedRows)
        # Evaluation counts words, so only training may have targets on further tokens of a word.
        train_on_all = self.label.label_all and split == "train"
        inside = continuation_tags(rows.labels) if train_on_all else None
        targets = word_targets(table, rows.targets, inside=inside)
        return TaggedSplit(table, self._positions(split), targets)

    def _collate(self, tokenizer: PreTrainedTokenizerBase) -> Collate:
        return Collate(tokenizer, token_padding={"labels": IGNORED})
