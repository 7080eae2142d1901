"""Dropout with cheap random masks: one draw of 64 bits for four elements."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LANES, _LANE = 4, 65536  # 16-bit numbers in an int64, and the number of their values


def rounded(p: float) -> float:
    """Return the drop probability of a mask for ``p``: the nearest multiple of 1/65536."""
    return round(p * _LANE) / _LANE


def keep_mask(shape: Sequence[int], p: float) -> Tensor:
    """Draw a random mask of the elements to keep.

    torch's dropout on the CPU draws 64 bits for each element, on one core, which is most of its
    cost. Here 64 bits serve four elements. They come from torch's global generator, so a seed or a
    resumed run reproduces the masks.

    Args:
        shape: Shape of the mask.
        p: Probability of dropping an element; ``rounded(p)``, in [0, 1), is used.

    Returns:
        1 for elements to keep and 0 for elements to drop, uint8, on the CPU.

    Example:
        >>> keep_mask((2, 3), 0.0).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    size = math.prod(shape)
    draws = torch.empty(-(-size // _LANES), dtype=torch.int64)
    draws.random_(-(2**63), None)  # the whole range: by default the highest bit stays 0
    lanes = draws.view(torch.int16)[:size].view(tuple(shape))
    threshold = round(p * _LANE) - _LANE // 2  # lanes are signed
    mask = torch.empty(lanes.shape, dtype=torch.uint8)  # five times as fast as bool, same size
    return torch.ge(lanes, threshold, out=mask)


class FastDropout(nn.Dropout):
    """``nn.Dropout`` that is three times as fast on a CPU.

    The backward pass stores a mask of one byte per element, instead of four in torch. On other
    devices, in eval mode, in place and under ``torch.compile`` torch's own dropout runs. The class
    has no parameters and buffers, so it can replace any ``nn.Dropout``.

    Args:
        p: Probability of dropping an element, in [0, 1], rounded to a multiple of 1/65536. Other
            elements are scaled by the rounded value, so that the mean is exact.
        inplace: As in ``nn.Dropout``.

    Raises:
        ValueError: If ``p`` is not in [0, 1].

    Example:
        >>> dropout = FastDropout(0.5)
        >>> sorted(set(dropout(torch.ones(100)).tolist()))
        [0.0, 2.0]
        >>> dropout.eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of a float tensor of any shape; shape and dtype do not change."""
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
