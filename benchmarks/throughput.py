"""Time of full fine-tuning, against Hugging Face's Trainer and a plain loop.

python benchmarks/throughput.py --scaling --json throughput.json --plot throughput.png

One epoch over movie snippets in float32. All sides have the same model, rows, batch size, learning
rate and optimizer, without validation and checkpoints. A share is the time of the matrix products
alone, at the speed measured in the same run, divided by the time of a side.

``--scaling`` adds the time per token for growing data and models, compared with the smallest size.
There are fewer than 32k snippets, so they are repeated with a number at the end of each copy. The
models with 2 to 12 layers have the hidden size of MiniLM and random weights.
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
from _settings import Work, make_parser, parse
from _turns import Result, Side

WORK = "all layers trained"
OURS, OFF, LOOP = "ours", "ours, cache off", "plain loop, batches by length"
TRAINER, GROUPED = "Trainer", "Trainer, grouped by length"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table."""
    parser = make_parser(__doc__, rows=2048, epochs=1)
    parser.add_argument("--scaling", action="store_true", help="add the time per token by size")
    parser.add_argument("--scale-rows", type=int, nargs="+", default=[1024, 4096, 16384, 32768])
    parser.add_argument("--scale-layers", type=int, nargs="+", default=[2, 4, 6, 12])
    options = parse(parser, arguments)
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
    """Return a row for each peer and one for the matrix-multiply limit."""
    measured = measure(partial(sides, folder=folder), work, repeats=options.repeats)
    limit, found = measured.limit, measured.found
    fastest = limit.time_of(limit.train(measured.lengths) * work.epochs)
    rows = compare(WORK, found, ours=OURS, peers=[TRAINER, GROUPED, LOOP], limit=fastest)
    rows += compare(f"{WORK}, cache off", found, ours=OFF, peers=[LOOP], limit=fastest)
    # The limit as a peer: the ratio is our share of it.
    mine = rows[0]
    share = Row(WORK, "the matrix-multiply limit", "s", mine.ours, fastest, mine.ours_score)
    return [*rows, share]


def sides(work: Work, folder: Path) -> Mapping[str, Side]:
    """Return our side and the peers by name."""

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
        OFF: Ours(work, folder, use_cache=False),
    }


if __name__ == "__main__":
    main()
