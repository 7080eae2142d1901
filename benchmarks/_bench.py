"""Measurement of sides that train in the process of the script."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from _limit import MatmulLimit
from _ours import movies
from _report import LIMIT
from _settings import Work
from _turns import Result, Side, in_turn
from transformers import AutoConfig


@dataclass(frozen=True)
class Measured:
    """Results of all sides.

    Args:
        found: Results of each side by name.
        limit: Matrix-multiply limit of the machine, measured in turn with the sides.
        lengths: Number of tokens of each training row, int64 ``(rows,)``.
    """

    found: Mapping[str, list[Result]]
    limit: MatmulLimit
    lengths: np.ndarray


def measure(sides: Callable[[Work], Mapping[str, Side]], work: Work, *, repeats: int) -> Measured:
    """Warm up all sides, then measure them in turn.

    Args:
        sides: Called with the work; returns the sides by name.
        work: The work to measure. The warm-up has two batches and at most three epochs of it.
        repeats: Number of runs of each side.
    """
    # The rows of seed 0 serve for the limit of all seeds.
    lengths = movies(work, seed=0).train_dataloader().dataset.lengths
    config = AutoConfig.from_pretrained(work.model)
    limit = MatmulLimit(config, tokens=int(lengths.mean() * work.batch_size))
    small = dataclasses.replace(work, rows=2 * work.batch_size, epochs=min(3, work.epochs))
    for side in sides(small).values():
        side(0)  # the first calls allocate memory and select kernels
    # The limit is measured in turn too, because the speed of the machine varies.
    turns = {LIMIT: lambda seed: Result(limit.measure()), **sides(work)}
    found = in_turn(turns, repeats=repeats)
    print(f"{limit.gflops:.0f} GFLOP/s, {lengths.mean():.1f} tokens a row")
    return Measured(found, limit, lengths)
