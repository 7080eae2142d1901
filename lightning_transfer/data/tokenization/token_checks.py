"""Checks of tokenized rows: empty rows, truncated rows, and rows too long for the model."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.splits.splitter import SPLITS
from lightning_transfer.data.tokenization.token_table import TokenTable
from lightning_transfer.data.tokenization.tokens import Tokens

log = logging.getLogger(__name__)


def check_not_empty(
    table: TokenTable, texts: Sequence[str], places: Sequence[str], column: str
) -> None:
    """Check that each text has at least one token.

    Args:
        table: Tokens of the texts.
        texts: Text of each row.
        places: Place of each row in its source, for the message.
        column: Name of the column, for the message.

    Raises:
        ValueError: If a text has no tokens.
    """
    empty = np.flatnonzero(table.lengths == 0)
    if len(empty):
        raise ValueError(
            f"{places[empty[0]]}, column {column!r}: the tokenizer finds no token in "
            f"{texts[empty[0]]!r}; remove the row"
        )


def log_truncation(
    table: TokenTable,
    positions: Mapping[str, np.ndarray],
    *,
    tokens: Tokens,
    tokenizer: PreTrainedTokenizerBase,
    where: str,
    option: str = "tokens",
) -> None:
    """Log the number of truncated rows of each split, and warn of rows too long for the model.

    Args:
        table: Tokens of the rows.
        positions: Split name -> rows of the table, int64 ``(rows,)``.
        tokens: Length and truncation of the rows.
        tokenizer: Tokenizer of the rows. Its ``model_max_length`` is the limit of the model.
        where: Name of the data in messages.
        option: Name of the argument with ``tokens``, for messages: ``tokens`` or
            ``target_tokens``.
    """
    truncated = {name: table.truncated[positions[name]] for name in SPLITS}
    rank_zero_only(log.info)(
        "%s: %struncated to %d tokens, %s kept: %s rows",
        where,
        "" if option == "tokens" else "targets ",
        tokens.max_length,
        tokens.truncation,
        ", ".join(f"{sum(rows):,} of {len(rows):,} {name}" for name, rows in truncated.items()),
    )
    # A warning and not an error: models with relative positions, such as T5, accept longer rows.
    # Tokenizers without a limit report a very large number.
    limit = getattr(tokenizer, "model_max_length", None)
    if limit and max(table.lengths, default=0) > limit:
        rank_zero_only(log.warning)(
            "%s: the longest row has %d tokens, the limit of the tokenizer is %d, and most models "
            "fail beyond it; set data.%s.max_length=%d",
            where,
            max(table.lengths),
            limit,
            option,
            limit,
        )
