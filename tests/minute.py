"""Time limit of one minute of computing, independent of the machine and of its other load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_REFERENCE = 0.7  # seconds of `_work` on one idle core of the reference machine, rounded up


@contextmanager
def within_a_minute() -> Iterator[None]:
    """Fail if the block would compute for more than a minute on one core of the reference machine.

    Process time is counted, without waiting. A fixed amount of work before and after the block
    measures how much slower this machine is, or how busy.
    """
    before, start = _work(), time.process_time()
    yield
    took = time.process_time() - start
    slower = max(1.0, (before + _work()) / 2 / _REFERENCE)
    assert took <= 60 * slower, f"{took:.0f} s of computing on a machine {slower:.1f} times as slow"


def _work() -> float:
    """Do a fixed amount of work in Python and torch; return its seconds of process time."""
    square = torch.ones(1024, 1024)
    start = time.process_time()
    for _ in range(20):
        square @ square
    for _ in range(200):
        sum(len(str(number)) for number in range(10_000))
    return time.process_time() - start
