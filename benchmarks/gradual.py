"""Unfreeze step by step, and freeze step by step: ours against plain Lightning and ourselves.

python benchmarks/gradual.py --json gradual.json --plot gradual.png

Head, then the top two layers, then all, over eight epochs of movie snippets, against the same
schedule written in plain Lightning with its default loader. The learning rate is constant on both
sides: Lightning's own unfreezing breaks schedules.

AutoFreeze against our own full fine-tuning, from news to movies: the model that both start from is
trained once on news. Shorter intervals freeze sooner; ``--every`` takes several lengths, and with
``--val`` they can be compared without looking at the test rows.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import _lightning
from _bench import measure
from _ours import Ours, autofreeze, learn_news, movies, rows_of, session
from _report import Row, compare, report
from _settings import Work, parse, parser
from _turns import Result, Side

from lightning_transfer.callbacks import GradualUnfreezing

WORKS = ["schedule", "autofreeze"]
FULL = "our full fine-tuning"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    made = parser(__doc__, rows=2048, epochs=8)
    made.add_argument("--news", type=int, default=2048, help="rows of the source (%(default)s)")
    made.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="which to measure")
    made.add_argument(
        "--every", nargs="+", default=["10 %"], help="AutoFreeze's intervals, by default 10 %%"
    )
    made.add_argument(
        "--val", type=int, default=0, help="rows of AutoFreeze's score that are no test rows"
    )
    options = parse(made, arguments)
    with session(options) as (work, folder):
        rows = [row for name in options.works for row in ROWS[name](work, folder, options)]
        report(rows, options)


def schedule(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return our gradual unfreezing against Lightning's."""

    def sides(work: Work) -> Mapping[str, Side]:
        top, all_from = starts(work.epochs)
        phases = [
            {"from_depth": "head"},
            {"from_depth": -2, "at_epoch": top},
            {"from_depth": 0, "at_epoch": all_from},
        ]

        def lightning(seed: int) -> Result:
            data = movies(work, seed=seed)
            rows, test = rows_of(data), rows_of(data, "test")
            return _lightning.gradual(work, rows, test, seed=seed, top=top, all_from=all_from)

        ours = Ours(work, folder, decay=False, strategy=lambda: [GradualUnfreezing(phases)])
        return {"ours": ours, "Lightning, the same schedule": lightning}

    measured = measure(sides, work, repeats=options.repeats)
    limit, lengths = measured.limit, measured.lengths
    top, all_from = starts(work.epochs)
    fastest = limit.time_of(
        limit.forward(lengths)  # the frozen layers, once; the head is nothing
        + (all_from - top) * limit.train(lengths, layers=2)
        + (work.epochs - all_from) * limit.train(lengths)
    )
    return compare("head, top 2, all", measured.found, limit=fastest)


def starts(epochs: int) -> tuple[int, int]:
    """Return the epochs with which the top two layers and all layers begin: a third each."""
    return max(1, round(epochs / 3)), max(2, round(2 * epochs / 3))


def freezing(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return AutoFreeze against our own full fine-tuning, both from a model of the news."""
    work = dataclasses.replace(work, val=options.val)
    source = learn_news(work, folder, rows=options.news)

    def sides(work: Work) -> Mapping[str, Side]:
        frozen = {
            every: Ours(work, folder, strategy=partial(autofreeze, every), start=source)
            for every in options.every
        }
        return {**frozen, FULL: Ours(work, folder, start=source)}

    found = measure(sides, work, repeats=options.repeats).found
    return [
        row
        for every in options.every
        for row in compare(
            f"AutoFreeze every {every}, news to movies", found, ours=every, peers=[FULL]
        )
    ]


ROWS = {"schedule": schedule, "autofreeze": freezing}


if __name__ == "__main__":
    main()
