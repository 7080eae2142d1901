"""Measurement of several sides in turn."""

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
    """Result of one run of one side.

    Args:
        value: Measured value, such as seconds; less is better.
        score: Accuracy on the test rows, in [0, 1], or None.
    """

    value: float
    score: float | None = None


SIZES = (1, 8, 16, 32, 64, 128)
"""Batch sizes to choose from for a peer."""
Side = Callable[[int], Result]
"""Function that runs one side with a seed."""


def in_turn(sides: Mapping[str, Side], *, repeats: int) -> dict[str, list[Result]]:
    """Run all sides one after the other, ``repeats`` times.

    If the machine becomes slower meanwhile, it does so for all sides. Repeat r has seed r.

    Args:
        sides: Sides by name, in the order of their runs.
        repeats: Number of runs of each side, >= 1.
    """
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            gc.collect()  # otherwise a side would collect the garbage of the one before it
            result = side(repeat)
            found[name].append(result)
            score = "" if result.score is None else f", score {result.score:.3f}"
            # Progress goes to standard error; the table alone to standard output.
            print(f"{repeat + 1}/{repeats} {name}: {result.value:.4g}{score}", file=sys.stderr)
    return found


def median(results: Sequence[Result]) -> float:
    """Return the median of the measured values."""
    return statistics.median(result.value for result in results)


def mean_score(results: Sequence[Result]) -> float | None:
    """Return the mean of the scores, None without scores."""
    scores = [result.score for result in results if result.score is not None]
    return statistics.fmean(scores) if scores else None


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Measure the seconds of a block; the yielded list contains them after the block.

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
    """Return the batch size of ``SIZES`` with the fastest ``run(texts, size)``."""
    run(texts, SIZES[-1])  # warm-up
    seconds = {}
    for size in SIZES:
        start = time.perf_counter()
        run(texts, size)
        seconds[size] = time.perf_counter() - start
    return min(SIZES, key=lambda size: seconds[size])


def run_child(script: Path, arguments: Sequence[str]) -> dict:
    """Run a script in a separate process, and return the JSON of its last output line.

    Args:
        script: Python file.
        arguments: Arguments of the script.

    Raises:
        RuntimeError: If the process fails; the message contains its standard error.
    """
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
