"""Time of gradual unfreezing, against plain Lightning, and of AutoFreeze, against full fine-tuning.

python benchmarks/gradual.py --json gradual.json --plot gradual.png

Gradual unfreezing trains the head, then the top two layers too, then all layers, over eight epochs
of movie snippets. The peer is the same schedule in plain Lightning with its default loader. The
learning rate is constant on both sides, because Lightning's unfreezing breaks schedules.

AutoFreeze and full fine-tuning train on movie snippets from the same model, trained once on news.
Shorter intervals freeze earlier. ``--every`` compares several lengths; with ``--val`` the scores
are those of validation rows, so that no test row is used to choose a length.
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
from _settings import Work, make_parser, parse
from _turns import Result, Side

from lightning_transfer.callbacks import GradualUnfreezing

WORKS = ["schedule", "autofreeze"]
FULL = "our full fine-tuning"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sides and print the table."""
    parser = make_parser(__doc__, rows=2048, epochs=8)
    parser.add_argument("--news", type=int, default=2048, help="rows of news (%(default)s)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="works to measure")
    parser.add_argument(
        "--every", nargs="+", default=["10 %"], help="AutoFreeze's intervals, by default 10 %%"
    )
    parser.add_argument(
        "--val", type=int, default=0, help="validation rows for AutoFreeze's score (%(default)s)"
    )
    options = parse(parser, arguments)
    with session(options) as (work, folder):
        rows = [row for name in options.works for row in ROWS[name](work, folder, options)]
        report(rows, options)


def schedule(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return the row of gradual unfreezing."""

    def sides(work: Work) -> Mapping[str, Side]:
        top, all_from = starts(work.epochs)
        # Depths in place of "head > top 2 > all", to start the phases in the peer's epochs.
        phases = [
            {"from_depth": "head"},
            {"from_depth": -2, "at_epoch": top},
            {"from_depth": 0, "at_epoch": all_from},
        ]

        def lightning(seed: int) -> Result:
            data = movies(work, seed=seed)
            rows, test = rows_of(data), rows_of(data, "test")
            return _lightning.gradual(work, rows, test, seed=seed, top=top, all_from=all_from)

        ours = Ours(work, folder, decay=False, make_callbacks=lambda: [GradualUnfreezing(phases)])
        return {"ours": ours, "Lightning, the same schedule": lightning}

    measured = measure(sides, work, repeats=options.repeats)
    limit, lengths = measured.limit, measured.lengths
    top, all_from = starts(work.epochs)
    fastest = limit.time_of(
        limit.forward(lengths)  # the frozen layers, once; the head is negligible
        + (all_from - top) * limit.train(lengths, layers=2)
        + (work.epochs - all_from) * limit.train(lengths)
    )
    return compare("head, top 2, all", measured.found, limit=fastest)


def starts(epochs: int) -> tuple[int, int]:
    """Return the first epochs of the top two layers and of all layers, for phases of a third."""
    return max(1, round(epochs / 3)), max(2, round(2 * epochs / 3))


def freezing(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Return the rows of AutoFreeze, one for each interval."""
    # Trained once, because both sides start from the same weights.
    work = dataclasses.replace(work, val=options.val)
    source = learn_news(work, folder, rows=options.news)

    def sides(work: Work) -> Mapping[str, Side]:
        frozen = {
            every: Ours(work, folder, make_callbacks=partial(autofreeze, every), start=source)
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
