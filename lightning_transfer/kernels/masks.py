"""Random masks, four numbers to a draw."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LANES, _LANE = 4, 65536  # 16-bit numbers in an int64, and how many values one has


def rounded(p: float) -> float:
    """Return the probability, a multiple of 1/65536 in [0, 1], that a mask has for ``p``."""
    return round(p * _LANE) / _LANE


def keep_mask(shape: Sequence[int], p: float) -> Tensor:
    """Draw which elements are kept.

    torch draws 64 bits for each element, one after the other on one core, and that is most of the
    cost of its dropout on a CPU. Here a draw of 64 bits serves four elements. It is taken from
    torch's global generator, so seeds and resumed runs are as exact as they are with torch's own.

    Args:
        shape: Of the mask.
        p: Probability that an element is dropped, with ``rounded(p)`` in [0, 1): ``rounded(p)`` is
            what it is taken for.

    Returns:
        1 where an element is kept and 0 where it is dropped, uint8, on the CPU.

    Example:
        >>> keep_mask((2, 3), 0.0).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    size = math.prod(shape)
    draws = torch.empty(-(-size // _LANES), dtype=torch.int64)
    draws.random_(-(2**63), None)  # the whole range: the default leaves the topmost bit 0
    lanes = draws.view(torch.int16)[:size].view(tuple(shape))
    threshold = round(p * _LANE) - _LANE // 2  # lanes are signed
    mask = torch.empty(lanes.shape, dtype=torch.uint8)  # five times as fast as bool, and as small
    return torch.ge(lanes, threshold, out=mask)
