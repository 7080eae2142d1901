"""The gradients of a stretch of steps, summed a layer, and what their norms say of the layers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

_SMALL = 4096  # values of a tensor up to which all are summed
_LINE, _EVERY = 16, 11  # of larger ones every eleventh line of so many values


class GradientSums:
    """The sum of each parameter's gradients over a stretch of steps, on a sample of its values.

    A sum of all values would cost memory and a checkpoint as large as the model, and up to two
    percent of a step, so the norm is estimated: from all values of a small tensor, and of a large
    one from every eleventh line of 16 values as they lie in memory (a line of the processor's
    cache, so that the others are not even read). Eleven divides the lines in a row of hardly any
    model, so that every row and every column of a matrix is met. A sample is scaled by the root of
    its share: without that biases and norms, which are small tensors, would count eleven times.
    """

    def __init__(self) -> None:
        """See the class."""
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, gradient: Tensor, *, scale: Tensor | None = None) -> None:
        """Add the gradient of one step.

        Args:
            name: The parameter's name.
            gradient: Of the parameter's shape, dense or sparse, of any float dtype.
            scale: What the gradient has been multiplied by, of shape ``()``; values that are not
                finite, as loss scaling brings them about, are then left out. None: nothing.
        """
        sample = _sample(gradient.detach())  # (values,) or (lines, 16)
        share = sample.numel() / gradient.numel() if gradient.numel() else 1.0
        if scale is not None:
            sample = sample.float().nan_to_num(0.0, 0.0, 0.0) / scale
        if name not in self.sums:
            self.sums[name] = torch.zeros(sample.shape, dtype=torch.float32, device=sample.device)
        elif self.sums[name].device != sample.device:  # it comes from a checkpoint
            self.sums[name] = self.sums[name].to(sample.device)
        self.sums[name].add_(sample, alpha=share**-0.5)

    def norms(self, depth_of: Mapping[str, int]) -> dict[int, float]:
        """Return the 2-norm of each layer's sum, estimated, for the layers that have one.

        Args:
            depth_of: The layer of each parameter.
        """
        depths = sorted({depth_of[name] for name in self.sums})
        if not depths:
            return {}
        squares = [
            torch.stack([s.square().sum() for name, s in self.sums.items() if depth_of[name] == d])
            for d in depths
        ]
        norms = torch.stack([square.sum().sqrt() for square in squares])  # (layers,)
        return dict(zip(depths, norms.tolist(), strict=True))

    def clear(self) -> None:
        """Begin another stretch."""
        self.sums = {}


def _sample(gradient: Tensor) -> Tensor:
    """Return the values that are summed, as a view where the gradient is dense."""
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    flat = gradient.reshape(-1)  # (values,)
    if flat.numel() <= _SMALL:
        return flat
    lines = flat.numel() // _LINE
    return flat[: lines * _LINE].view(lines, _LINE)[::_EVERY]  # (lines / 11, 16)


def changes(before: Mapping[int, float], now: Mapping[int, float]) -> dict[int, float]:
    """Return each layer's relative change of norm, >= 0.

    Equation 1 of the paper, ``| |before| - |now| | / |before|``; 0 where both are 0, infinite
    where only the first is.

    Args:
        before: Norm of each layer's gradient, summed over a stretch of steps.
        now: The same, over the stretch behind it; layers that are not in both have no change.
    """
    found = {}
    for depth, norm in now.items():
        if depth in before:
            moved = abs(before[depth] - norm)
            found[depth] = moved / before[depth] if before[depth] else (math.inf if moved else 0.0)
    return found


def resting(change: Mapping[int, float], percentile: float, depths: Sequence[int]) -> int:
    """Return up to where, from the input, the layers' gradients have come to rest.

    Args:
        change: Relative change of norm of each layer that trains, all of them.
        percentile: Layers below this percentile of the changes, in (0, 100], are at rest.
        depths: The layers that may be said to be at rest, in order. Those that have no change,
            since they have nothing to train, are passed over.

    Returns:
        The depth above the last layer of the unbroken run of layers at rest that begins with the
        first; the first of ``depths`` if there is none.
    """
    below = threshold(change, percentile)
    boundary = depths[0]
    for depth in depths:
        if depth in change:
            if change[depth] >= below:
                break
            boundary = depth + 1
    return boundary


def threshold(change: Mapping[int, float], percentile: float) -> float:
    """Return the percentile of the changes, between two of them on the line that joins them."""
    finite = np.nan_to_num(list(change.values()))  # the largest number for infinity
    return float(np.percentile(finite, percentile))
