"""Transfer of token and position embeddings, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.layer_layout import first_position
from lightning_transfer.weight_transfer.vocabularies import Vocabularies
from lightning_transfer.weight_transfer.weight_transfer_report import PartStatus, TransferredPart


@dataclass(frozen=True)
class TokenSource:
    """Table of token embeddings in the weights, with both vocabularies.

    Args:
        table: Table of the weights, float (old tokens, width).
        vocabularies: Vocabularies of the weights and of the stage. None: unknown, so tables of
            equal size are taken to hold the same tokens.
    """

    table: nn.Embedding
    vocabularies: Vocabularies | None

    def vocabularies_for(self, new: nn.Embedding) -> Vocabularies | None:
        """Return the vocabularies if both tables have a row for each token, else None."""
        # A tokenizer with ids beyond the table cannot be the one of the model.
        known = self.vocabularies
        sizes = len(self.table.weight), len(new.weight)
        return known if known is not None and known.fit_tables(*sizes) else None


def copy_tokens(
    sources: Sequence[TokenSource], new: nn.Embedding, part: str, status: PartStatus
) -> tuple[TransferredPart, str]:
    """Fill a table of token embeddings, with rows matched by token string.

    Args:
        sources: Tables to copy from. Two if the encoder and the decoder of the backbone share one
            table and those of the weights do not; the second fills only tokens that the first one
            does not have.
        new: Table to fill in place, float (tokens, width). Rows of tokens without a source keep
            their values.
        part: Name of the table in the report.
        status: Status in the report if nothing is copied.

    Returns:
        The entry of the report, and the reason of a mismatch (empty if the tables fit).
    """
    old = sources[0].table
    rows, size = new.weight.shape[0], new.weight.numel()
    if old.weight.shape[1] != new.weight.shape[1]:
        widths = _widths(old, new)
        return TransferredPart(part, status, size, widths), f"the {part} have {widths}"
    known = sources[0].vocabularies_for(new)
    if known is None or known.same:
        if old.weight.shape == new.weight.shape:
            _copy(new.weight, old.weight)
            return TransferredPart(part, "transferred", size), ""
        if known is None:
            counts = f"{len(old.weight):,} rows in the weights and {rows:,} in the backbone"
            return TransferredPart(part, status, size, counts), f"the {part} have {counts}"
    copied, unused = _copy_rows(sources, new)
    # Not a mismatch: the layers still fit if two vocabularies have no token in common.
    if not copied:
        return TransferredPart(part, status, size, "no token in common with the weights"), ""
    rest = f", {unused:,} not transferred" if unused else ""
    why = f"{copied:,} of {len(known.new):,} tokens matched by string{rest}"
    return TransferredPart(part, "resized", size, why), ""


@torch.no_grad()
def _copy_rows(sources: Sequence[TokenSource], new: nn.Embedding) -> tuple[int, int]:
    """Copy the rows of common tokens; return the counts of copied and of unused tokens."""
    filled = torch.zeros(len(new.weight), dtype=torch.bool)  # (tokens,)
    unused: set[str] = set()
    for source in sources:
        vocabularies = source.vocabularies_for(new)
        if vocabularies is None or source.table.weight.shape[1] != new.weight.shape[1]:
            continue
        old_rows, new_rows = vocabularies.shared_rows
        # The first source has priority for tokens of both.
        fresh = ~filled[new_rows]  # (shared tokens,)
        new.weight[new_rows[fresh]] = source.table.weight[old_rows[fresh]].to(new.weight)
        filled[new_rows] = True
        unused |= vocabularies.old.keys() - vocabularies.new.keys()
    return int(filled.sum()), len(unused)


def copy_positions(
    old: nn.Embedding | None, new: nn.Embedding | None, part: str, status: PartStatus
) -> tuple[list[TransferredPart], str]:
    """Fill a table of position embeddings, up to the length of the shorter table.

    Args:
        old: Table of the weights, float (old positions, width); None for models with relative or
            rotary positions.
        new: Table to fill in place, float (positions, width), or None.
        part: Name of the table in the report.
        status: Status in the report if nothing is copied.

    Returns:
        The entry of the report (none without ``new``), and the reason of a mismatch (empty if the
        tables fit). Tables of different lengths are a mismatch, but the common rows are copied.
    """
    if new is None:
        return [], ""
    size = new.weight.numel()
    # Sinusoids, as in Marian, have the right values for any length as soon as they are built.
    if not new.weight.requires_grad:
        return [TransferredPart(part, "transferred", size, "computed, not learned")], ""
    if old is None:
        missing = TransferredPart(part, status, size, "not in the weights")
        return [missing], f"the weights have no {part}"
    if old.weight.shape[1] != new.weight.shape[1]:
        widths = _widths(old, new)
        return [TransferredPart(part, status, size, widths)], f"the {part} have {widths}"
    if old.weight.shape == new.weight.shape and first_position(old) == first_position(new):
        _copy(new.weight, old.weight)
        return [TransferredPart(part, "transferred", size)], ""
    # Rows before the first position differ between models: RoBERTa begins after the padding id.
    old_rows, new_rows = old.weight[first_position(old) :], new.weight[first_position(new) :]
    shared = min(len(old_rows), len(new_rows))
    _copy(new_rows[:shared], old_rows[:shared])
    if len(old_rows) == len(new_rows):
        return [TransferredPart(part, "transferred", size)], ""
    why = f"{shared:,} of {len(new_rows):,}, the weights have {len(old_rows):,}"
    error = f"the weights have {len(old_rows):,} positions, the backbone has {len(new_rows):,}"
    return [TransferredPart(part, "resized", size, why)], error


def _widths(old: nn.Embedding, new: nn.Embedding) -> str:
    return f"width {old.weight.shape[1]} in the weights and {new.weight.shape[1]} in the backbone"


def _copy(new: Tensor, old: Tensor) -> None:
    with torch.no_grad():
        new.copy_(old)
