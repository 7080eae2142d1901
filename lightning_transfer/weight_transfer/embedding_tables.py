"""Tables of tokens and of positions, taken row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.layer_layout import first_position
from lightning_transfer.weight_transfer.vocabularies import Vocabularies
from lightning_transfer.weight_transfer.weight_transfer_report import PartStatus, TransferredPart


@dataclass(frozen=True)
class TokenSource:
    """A table of tokens to take from.

    Args:
        table: Rows of the weights, float (old tokens, width).
        words: The tokens of both; None: not known, so tables of one size hold the same tokens.
    """

    table: nn.Embedding
    words: Vocabularies | None

    def fits(self, new: nn.Embedding) -> Vocabularies | None:
        """Return the tokens of both if the tables can be theirs."""
        sizes = len(self.table.weight), len(new.weight)
        return self.words if self.words is not None and self.words.fit(*sizes) else None


def take_tokens(
    sources: Sequence[TokenSource], new: nn.Embedding, part: str, other: PartStatus
) -> tuple[TransferredPart, str]:
    """Fill a table of tokens from others, by the tokens' strings where they differ.

    Args:
        sources: One; or two, where a table that two sides have in common is filled from two: the
            second fills in the tokens that the first does not know.
        new: Filled in place, float (tokens, width); rows of tokens that the weights do not know
            stay as the model has made them.
        part: What the table is called.
        other: What is said of a table that stays as it is.

    Returns:
        What became of it; and why it does not fit, which is empty if it does.
    """
    old = sources[0].table
    rows, size = new.weight.shape[0], new.weight.numel()
    if old.weight.shape[1] != new.weight.shape[1]:
        widths = f"{old.weight.shape[1]} wide in the weights and {new.weight.shape[1]} here"
        return TransferredPart(part, other, size, widths), f"the {part} are {widths}"
    known = sources[0].fits(new)
    if known is None or known.same:
        if old.weight.shape == new.weight.shape:
            _copy(new.weight, old.weight)
            return TransferredPart(part, "transferred", size), ""
        if known is None:
            unlike = f"{len(old.weight):,} rows in the weights and {rows:,} here"
            return TransferredPart(part, other, size, unlike), f"the {part} have {unlike}"
    found, left = _take_rows(sources, new)
    if not found:
        return TransferredPart(part, other, size, "no token in common with the weights"), ""
    behind = f", {left:,} left behind" if left else ""
    told = f"{found:,} of {len(known.new):,} tokens by string{behind}"
    return TransferredPart(part, "resized", size, told), ""


@torch.no_grad()
def _take_rows(sources: Sequence[TokenSource], new: nn.Embedding) -> tuple[int, int]:
    """Fill in the rows of tokens that are known; return how many, and how many old ones are not."""
    filled = torch.zeros(len(new.weight), dtype=torch.bool)  # (tokens,)
    left: set[str] = set()
    for source in sources:
        words = source.fits(new)
        if words is None or source.table.weight.shape[1] != new.weight.shape[1]:
            continue
        there, here = words.shared
        fresh = ~filled[here]  # (shared tokens,)
        new.weight[here[fresh]] = source.table.weight[there[fresh]].to(new.weight)
        filled[here] = True
        left |= words.old.keys() - words.new.keys()
    return int(filled.sum()), len(left)


def take_positions(
    old: nn.Embedding | None, new: nn.Embedding | None, part: str, other: PartStatus
) -> tuple[list[TransferredPart], str]:
    """Fill a table of positions from another, up to the shorter.

    Tables that no training changes, such as Marian's sinusoids, are right as they are built.

    Args:
        old: Of the weights; None without one, as where positions are relative or rotary.
        new: Filled in place; None without one.
        part: What the table is called.
        other: What is said of a table that stays as it is.

    Returns:
        What became of it, if there is one; and why it does not fit, which is empty if it does. Of
        tables of unlike length the shorter one's rows are filled in all the same.
    """
    if new is None:
        return [], ""
    size = new.weight.numel()
    if not new.weight.requires_grad:
        return [TransferredPart(part, "transferred", size, "computed, not learned")], ""
    if old is None:
        return [TransferredPart(part, other, size, "none in the weights")], f"they have no {part}"
    if old.weight.shape[1] != new.weight.shape[1]:
        widths = f"{old.weight.shape[1]} wide in the weights and {new.weight.shape[1]} here"
        return [TransferredPart(part, other, size, widths)], f"the {part} are {widths}"
    if old.weight.shape == new.weight.shape and first_position(old) == first_position(new):
        _copy(new.weight, old.weight)
        return [TransferredPart(part, "transferred", size)], ""
    there, here = old.weight[first_position(old) :], new.weight[first_position(new) :]
    both = min(len(there), len(here))
    _copy(here[:both], there[:both])
    if len(there) == len(here):
        return [TransferredPart(part, "transferred", size)], ""
    told = f"{both:,} of {len(here):,}, of {len(there):,} in the weights"
    unlike = f"they have {len(there):,} positions and the backbone {len(here):,}"
    return [TransferredPart(part, "resized", size, told)], unlike


def _copy(new: Tensor, old: Tensor) -> None:
    with torch.no_grad():
        new.copy_(old)
