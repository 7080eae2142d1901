"""How fast the machine multiplies matrices, and what of the work is matrix multiply."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch


class MatmulLimit:
    """The time that the bare matrix multiplies of some work would take.

    It is measured at the shapes of the model, forward and backward, in float32, each time that
    :meth:`measure` is called: call it in turn with the sides. Only real tokens are counted, no
    padding, at all layers and tokens of the model; a side that leaves some of that out can
    exceed the limit.

    Args:
        config: A BERT config.
        tokens: Tokens of a typical batch.
        seconds: Time that each shape is measured for.
    """

    def __init__(self, config: Any, *, tokens: int, seconds: float = 0.1) -> None:
        """See the class."""
        self.config = config
        self.tokens = tokens
        self.seconds = seconds
        self._rates: list[float] = []

    @property
    def gflops(self) -> float:
        """Median rate of what was measured, in GFLOP/s."""
        return statistics.median(self._rates)

    def measure(self) -> float:
        """Measure the rate over one layer's matrix multiplies, and return it in GFLOP/s."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
        timed = {shape: self._seconds(*shape) for shape in set(shapes)}
        flops = sum(6 * self.tokens * wide * out for wide, out in shapes)
        self._rates.append(flops / sum(timed[shape] for shape in shapes) / 1e9)
        return self._rates[-1]

    def _seconds(self, wide: int, out: int) -> float:
        """Return the time of ``y = x w``, of its gradient by ``x`` and of that by ``w``."""
        x, w = torch.randn(self.tokens, wide), torch.randn(wide, out)
        y, dx, dw = torch.empty(self.tokens, out), torch.empty_like(x), torch.empty_like(w)
        products = ((x, w, y), (y, w.T, dx), (x.T, y, dw))
        calls = [partial(torch.mm, one, other, out=into) for one, other, into in products]
        return sum(_best(call, self.seconds / len(calls)) for call in calls)

    def time_of(self, flops: float) -> float:
        """Return the seconds that so many floating-point operations take at the limit."""
        return flops / self.gflops / 1e9

    def forward(self, lengths: Sequence[int], *, layers: int | None = None) -> float:
        """Return the operations of a forward pass.

        Args:
            lengths: Tokens of each text.
            layers: Layers that run; None: all of the model's.
        """
        return sum(self._layer(length) for length in lengths) * self._count(layers)

    def train(self, lengths: Sequence[int], *, layers: int | None = None) -> float:
        """Return the operations of a forward and a backward pass, which costs twice as much.

        Args:
            lengths: Tokens of each text.
            layers: Layers that run, from the top down; None: all of the model's.
        """
        return 3 * self.forward(lengths, layers=layers)

    def _count(self, layers: int | None) -> int:
        return self.config.num_hidden_layers if layers is None else layers

    def _layer(self, length: int) -> float:
        """Return the operations of one layer for a text: projections, feed-forward, attention."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        return 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden


def _best(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of a call among those that fit into ``seconds``, at least ten."""
    call()
    timed: list[float] = []
    end = time.perf_counter() + seconds
    while len(timed) < 10 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        timed.append(time.perf_counter() - start)
    return min(timed)
