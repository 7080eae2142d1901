"""Sentences with a tag for each word, as batches."""

from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.masking import IGNORED
from lightning_transfer.data.batching.tokenized_split import Collate, TokenizedSplit
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.readers.rows import Rows, Table
from lightning_transfer.data.readers.tagged_rows import TaggedRows, check_tagged_rows
from lightning_transfer.data.tag_spec import TagSpec, inside_of
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokenization.token_cache import cached_words
from lightning_transfer.data.tokenization.token_table import TokenTable
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.data.tokenization.word_tokens import word_targets


class TaggedSplit(TokenizedSplit):
    """Rows of one split with a target for each token.

    Args:
        table: Tokens of the whole data set.
        positions: Rows of the table that belong to the split, int64 ``(rows,)``.
        targets: Of each token of the table, int64 ``(tokens,)``.
    """

    def __init__(self, table: TokenTable, positions: np.ndarray, targets: np.ndarray) -> None:
        """See the class."""
        super().__init__(table, positions, None)
        self.token_targets = targets

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        """Return one row or several, as a :class:`TokenizedSplit`, with ``labels`` of tokens."""
        rows = np.atleast_1d(self.positions[index])
        return {**super().__getitem__(index), "labels": self.token_targets[self.table.places(rows)]}


class TaggedText(TextDataModule):
    """Base of domains whose words have tags: named entities, parts of speech.

    All of :class:`TextDataModule` holds: a sentence lies in one split and there once, tokens are
    cached, batches hold rows of like length and can be resumed. ``load_rows`` returns the columns
    ``text`` (a list of words) and ``label`` (a list of as many tags).

    The first token of a word carries its target, the others none (see ``TagSpec.label_all``). Of a
    sentence longer than ``tokens.max_length`` the words beyond are neither learned nor counted; a
    line tells how many sentences that are.

    Args:
        source: See :class:`TextDataModule`, as for the rest.
        columns: ``text`` holds the words, ``label`` the tags.
        label: What the tags are: a :class:`TagSpec`.
        train_size: Sentences to train on.
        splits: In sentences.
        tokens: Length of the token sequences and how longer sentences are cut.
        batch_size: Sentences per device and batch, at most.
        max_tokens: Tokens per device and batch at most, padding counted.
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
        # Only words are counted: evaluation has no target but on the first token of each.
        inside = inside_of(rows.labels) if self.label.label_all and split == "train" else None
        targets = word_targets(table, rows.targets, inside=inside)
        return TaggedSplit(table, self._positions(split), targets)

    def _collate(self, tokenizer: PreTrainedTokenizerBase) -> Collate:
        return Collate(tokenizer, of_tokens={"labels": IGNORED})
