"""What is said of tokens before they are used: empty rows, cut ones, too long ones."""

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
    """Check that the tokenizer found something in each text.

    Args:
        table: The tokens.
        texts: The texts.
        places: Where each was read, for the message.
        column: Their column, for the message.

    Raises:
        ValueError: If a text has no token.
    """
    empty = np.flatnonzero(table.lengths == 0)
    if len(empty):
        raise ValueError(
            f"{places[empty[0]]}, column {column!r}: the tokenizer finds no token in "
            f"{texts[empty[0]]!r}; take the row out"
        )


def say_cut(
    table: TokenTable,
    positions: Mapping[str, np.ndarray],
    *,
    tokens: Tokens,
    tokenizer: PreTrainedTokenizerBase,
    where: str,
    option: str = "tokens",
) -> None:
    """Say how many rows of each split were cut, and warn of rows too long for most models.

    Args:
        table: The tokens.
        positions: Split name -> rows of the table.
        tokens: How they were cut.
        tokenizer: Says the longest row that its model takes.
        where: What the data are called in messages.
        option: The argument that ``tokens`` came from.
    """
    cut = {name: table.cut[positions[name]] for name in SPLITS}
    rank_zero_only(log.info)(
        "%s: %scut to %d tokens, %s kept: %s rows",
        where,
        "" if option == "tokens" else "targets ",
        tokens.max_length,
        tokens.truncation,
        ", ".join(f"{sum(rows):,} of {len(rows):,} {name}" for name, rows in cut.items()),
    )
    limit = getattr(tokenizer, "model_max_length", None)
    if limit and max(table.lengths, default=0) > limit:
        rank_zero_only(log.warning)(
            "%s: rows of up to %d tokens, the tokenizer states a limit of %d: most models fail "
            "beyond it; lower %s.max_length",
            where,
            max(table.lengths),
            limit,
            option,
        )
