"""Let the sides take turns, and measure each in the same way."""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What one run of one side has come to.

    Args:
        value: Seconds, or what else is measured; less is better.
        score: Accuracy on the test rows, in [0, 1]; None where there is no such thing.
    """

    value: float
    score: float | None = None


SIZES = (1, 8, 16, 32, 64, 128)
"""Batch sizes that a peer may choose from."""
Side = Callable[[int], Result]
"""Runs one side with a seed."""


def in_turn(sides: Mapping[str, Side], *, repeats: int) -> dict[str, list[Result]]:
    """Run each side ``repeats`` times, one after the other and from the start again.

    A machine that slows down meanwhile slows all of them down. Repeat r has seed r on each side.

    Args:
        sides: By name, in the order in which they run.
        repeats: Runs of each side, >= 1.
    """
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            gc.collect()  # or a side would pay for what the one before has left
            result = side(repeat)
            found[name].append(result)
            score = "" if result.score is None else f", score {result.score:.3f}"
            print(f"{repeat + 1}/{repeats} {name}: {result.value:.4g}{score}", file=sys.stderr)
    return found


def median(results: Sequence[Result]) -> float:
    """Return the median of the measured values."""
    return statistics.median(result.value for result in results)


def mean_score(results: Sequence[Result]) -> float | None:
    """Return the mean of the scores, None where there are none."""
    scores = [result.score for result in results if result.score is not None]
    return statistics.fmean(scores) if scores else None


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Time a block; the list that it gives holds the seconds once the block has ended.

    Example:
        >>> with stopwatch() as seconds:
        ...     pass
        >>> len(seconds)
        1
    """
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def best_size(run: Callable[[Sequence[str], int], object], texts: Sequence[str]) -> int:
    """Return the batch size with which ``run(texts, size)`` is fastest, of those in ``SIZES``."""
    run(texts, SIZES[-1])  # warm
    seconds = {}
    for size in SIZES:
        start = time.perf_counter()
        run(texts, size)
        seconds[size] = time.perf_counter() - start
    return min(SIZES, key=lambda size: seconds[size])


def child(script: Path, words: Sequence[str]) -> dict:
    """Run a script in a process of its own, and return the JSON in the last line that it prints.

    Raises:
        RuntimeError: If the process fails; the message holds what it has said.
    """
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
