"""A minute of computing, whatever machine the tests run on and whoever else is on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_QUIET = 0.7  # seconds of `_work` on one quiet core of the project's machine, rounded up


@contextmanager
def within_a_minute() -> Iterator[None]:
    """Fail if what is done inside would take more than a minute on one core of that machine.

    Computing is counted, not waiting. How much slower a machine is, or one that other tests share,
    is told by the same work done before and after.
    """
    before, start = _work(), time.process_time()
    yield
    took = time.process_time() - start
    slower = max(1.0, (before + _work()) / 2 / _QUIET)
    assert took <= 60 * slower, f"{took:.0f} s of computing on a machine {slower:.1f} times as slow"


def _work() -> float:
    """Do a bit of what training does, in Python and in torch; return the seconds of computing."""
    square = torch.ones(1024, 1024)
    start = time.process_time()
    for _ in range(20):
        square @ square
    for _ in range(200):
        sum(len(str(number)) for number in range(10_000))
    return time.process_time() - start
