"""What the scripts that train in their own process have in common."""

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
    """What came out of all sides' turns.

    Args:
        found: Results of each side by name.
        limit: The machine's matrix multiply, measured in turn with the sides.
        lengths: Tokens of each training row, int64 ``(rows,)``.
    """

    found: Mapping[str, list[Result]]
    limit: MatmulLimit
    lengths: np.ndarray


def measure(sides: Callable[[Work], Mapping[str, Side]], work: Work, *, repeats: int) -> Measured:
    """Warm all sides up, and let them take turns.

    Args:
        sides: Called with the work that is to be done; returns the sides by name.
        work: What is measured; the warm-up is the same with two batches and three epochs at most.
        repeats: Runs of each side.
    """
    lengths = movies(work, seed=0).train_dataloader().dataset.lengths
    config = AutoConfig.from_pretrained(work.model)
    limit = MatmulLimit(config, tokens=int(lengths.mean() * work.batch_size))
    small = dataclasses.replace(work, rows=2 * work.batch_size, epochs=min(3, work.epochs))
    for side in sides(small).values():
        side(0)  # first calls find memory and choose kernels
    turns = {LIMIT: lambda seed: Result(limit.measure()), **sides(work)}
    found = in_turn(turns, repeats=repeats)
    print(f"{limit.gflops:.0f} GFLOP/s, {lengths.mean():.1f} tokens a row")
    return Measured(found, limit, lengths)
