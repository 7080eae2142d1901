"""Matrix-multiply limit: speed of the machine, and operations of a model."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch


class MatmulLimit:
    """Time of the matrix multiplications of a model, without anything else.

    The speed is measured at the shapes of the model, forward and backward, in float32, in each call
    of :meth:`measure`. Call it in turn with the sides. The operations are those of all layers over
    all tokens without padding. A side that computes less can be faster than the limit.

    Args:
        config: Config of a BERT model.
        tokens: Number of tokens in a typical batch.
        seconds: Measuring time of each shape, in seconds.
    """

    def __init__(self, config: Any, *, tokens: int, seconds: float = 0.1) -> None:
        """See the class."""
        self.config = config
        self.tokens = tokens
        self.seconds = seconds
        self._rates: list[float] = []

    @property
    def gflops(self) -> float:
        """Median of the measured speeds, in GFLOP/s."""
        return statistics.median(self._rates)

    def measure(self) -> float:
        """Measure the speed over the matrix products of one layer, and return it in GFLOP/s."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
        # Four products have the same shape, which is measured once.
        timed = {shape: self._seconds(*shape) for shape in set(shapes)}
        # 2 for a product and a sum, 3 for the forward pass and two gradients.
        flops = sum(6 * self.tokens * wide * out for wide, out in shapes)
        self._rates.append(flops / sum(timed[shape] for shape in shapes) / 1e9)
        return self._rates[-1]

    def _seconds(self, wide: int, out: int) -> float:
        """Return the seconds of ``y = x w`` and its gradients with respect to ``x`` and ``w``."""
        x, w = torch.randn(self.tokens, wide), torch.randn(wide, out)
        # Outputs are allocated before, so that the time is that of the products alone.
        y, dx, dw = torch.empty(self.tokens, out), torch.empty_like(x), torch.empty_like(w)
        products = ((x, w, y), (y, w.T, dx), (x.T, y, dw))
        calls = [partial(torch.mm, one, other, out=into) for one, other, into in products]
        return sum(_best(call, self.seconds / len(calls)) for call in calls)

    def time_of(self, flops: float) -> float:
        """Return the seconds of some floating-point operations at the measured speed."""
        return flops / self.gflops / 1e9

    def forward(self, lengths: Sequence[int], *, layers: int | None = None) -> float:
        """Return the floating-point operations of a forward pass.

        Args:
            lengths: Number of tokens of each text.
            layers: Number of layers; None for all of the model.
        """
        return sum(self._layer(length) for length in lengths) * self._count(layers)

    def train(self, lengths: Sequence[int], *, layers: int | None = None) -> float:
        """Return the floating-point operations of a forward and a backward pass.

        Args:
            lengths: Number of tokens of each text.
            layers: Number of layers, from the top down; None for all of the model.
        """
        # The backward pass has two products for each of the forward pass.
        return 3 * self.forward(lengths, layers=layers)

    def _count(self, layers: int | None) -> int:
        return self.config.num_hidden_layers if layers is None else layers

    def _layer(self, length: int) -> float:
        """Return the operations of one layer for a text of some length."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        # Projections of attention and feed-forward layers, then the two products of attention.
        return 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden


def _best(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of a call, repeated for ``seconds`` and at least ten times."""
    call()  # warm-up
    timed: list[float] = []
    end = time.perf_counter() + seconds
    while len(timed) < 10 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        timed.append(time.perf_counter() - start)
    return min(timed)  # longer times are those of interruptions by other processes
