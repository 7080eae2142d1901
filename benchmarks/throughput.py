"""Train all layers: ours against Hugging Face's Trainer and a plain loop.

python benchmarks/throughput.py --scaling --json throughput.json --plot throughput.png

One epoch of movie snippets in float32: same model, rows, batches, learning rate and optimizer on
each side, no evaluation and no checkpoint while the time runs. The share is that of the machine's
matrix multiply, measured at the shapes of the model in the same run.

``--scaling`` adds the time per token as data and model grow, each against the smallest size. There
are no 32k snippets: they are repeated, each time with another number behind them. The models of 2
to 12 layers have MiniLM's width and random weights.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import _hf
from _bench import measure
from _ours import Ours, movies, rows_of, session
from _report import Row, compare, report
from _scaling import time_per_token
from _settings import Work, parse, parser
from _turns import Result, Side

WORK = "all layers trained"
OURS, OFF, LOOP = "ours", "ours, store off", "plain loop, batches by length"
TRAINER, GROUPED = "Trainer", "Trainer, grouped by length"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    made = parser(__doc__, rows=2048, epochs=1)
    made.add_argument("--scaling", action="store_true", help="time per token as sizes grow, too")
    made.add_argument("--scale-rows", type=int, nargs="+", default=[1024, 4096, 16384, 32768])
    made.add_argument("--scale-layers", type=int, nargs="+", default=[2, 4, 6, 12])
    options = parse(made, arguments)
    with session(options) as (work, folder):
        rows = rows_of_table(work, folder, options)
        curves = {}
        if options.scaling:
            scaled, curves = time_per_token(
                work, folder, rows=options.scale_rows, layers=options.scale_layers
            )
            rows += scaled
        report(rows, options, curves=curves)


def rows_of_table(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return our epoch against the peers', and against the limit."""
    measured = measure(partial(sides, folder=folder), work, repeats=options.repeats)
    limit, found = measured.limit, measured.found
    fastest = limit.time_of(limit.train(measured.lengths) * work.epochs)
    rows = compare(WORK, found, ours=OURS, peers=[TRAINER, GROUPED, LOOP], limit=fastest)
    rows += compare(f"{WORK}, store off", found, ours=OFF, peers=[LOOP], limit=fastest)
    mine = rows[0]
    share = Row(WORK, "the matrix-multiply limit", "s", mine.ours, fastest, mine.ours_score)
    return [*rows, share]


def sides(work: Work, folder: Path) -> Mapping[str, Side]:
    """Return ours and the peers by name."""

    def peer(seed: int, run: str) -> Result:
        data = movies(work, seed=seed)
        rows, test = rows_of(data), rows_of(data, "test")
        if run == LOOP:
            return _hf.plain_loop(work, rows, test, seed=seed)
        return _hf.train(work, rows, test, seed=seed, grouped=run == GROUPED)

    return {
        OURS: Ours(work, folder),
        TRAINER: lambda seed: peer(seed, TRAINER),
        GROUPED: lambda seed: peer(seed, GROUPED),
        LOOP: lambda seed: peer(seed, LOOP),
        OFF: Ours(work, folder, use_store=False),
    }


if __name__ == "__main__":
    main()
