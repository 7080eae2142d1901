"""Random masks, four numbers to a draw."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


class FastDropout(nn.Dropout):
    """``nn.Dropout``, three times as fast on a CPU.

    It keeps a mask of one byte an element for the backward pass, where torch keeps four. On other
    devices, in eval mode, in place and inside ``torch.compile`` it is torch's own. It has no
    parameters and no buffers, so it may take the place of any ``nn.Dropout``.

    Args:
        p: Probability of dropping an element, in [0, 1], rounded to a multiple of 1/65536; what is
            kept is scaled by the rounded value, so that the mean stays exact.
        inplace: As in ``nn.Dropout``.

    Raises:
        ValueError: If ``p`` is out of its range.

    Example:
        >>> dropout = FastDropout(0.5)
        >>> sorted(set(dropout(torch.ones(100)).tolist()))
        [0.0, 2.0]
        >>> dropout.eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of a float tensor of any shape; the output has that shape and dtype."""
        p = rounded(self.p)
        if (
            not self.training
            or not 0 < p < 1
            or self.inplace
            or input.device.type != "cpu"
            or not input.is_floating_point()
            or torch.compiler.is_compiling()
        ):
            return super().forward(input)
        return _Dropout.apply(input, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        mask = keep_mask(input.shape, p)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return (input * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grads[0] * mask).mul_(ctx.scale), None
