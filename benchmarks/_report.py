"""The table of a benchmark, its JSON and its picture."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _turns import Result, mean_score, median

LIMIT = "limit, GFLOP/s"
"""Name of the turns in which the machine's matrix multiply is measured."""


@dataclass(frozen=True)
class Row:
    """One piece of work: ours against a peer's.

    Args:
        work: What is done.
        peer: Who else does it.
        unit: Of both figures; less is better.
        ours: Our figure, > 0.
        theirs: The peer's, > 0.
        ours_score: Accuracy that we reach, in [0, 1], or None.
        theirs_score: Accuracy that the peer reaches, or None.
        limit: What the machine's matrix multiply alone would take, in the same unit, or None.
    """

    work: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ours_score: float | None = None
    theirs_score: float | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float:
        """How many times better we are; above 1 we are better."""
        return self.theirs / self.ours

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the row as it is written to JSON."""
        return {
            "work": self.work,
            "peer": self.peer,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "ours_score": self.ours_score,
            "theirs_score": self.theirs_score,
        }


def compare(
    work: str,
    found: Mapping[str, Sequence[Result]],
    *,
    ours: str = "ours",
    peers: Sequence[str] | None = None,
    unit: str = "s",
    limit: float | None = None,
) -> list[Row]:
    """Return a row for each peer: medians of what was measured, means of the scores.

    Args:
        work: What was done.
        found: Results by side, as ``in_turn`` returns them.
        ours: Which side is ours.
        peers: The others; None: all but the measurements of the limit.
        unit: Of the measured values.
        limit: See :class:`Row`.
    """
    own = found[ours]
    if peers is None:
        peers = [name for name in found if name not in (ours, LIMIT)]
    return [
        Row(
            work,
            peer,
            unit,
            median(own),
            median(found[peer]),
            mean_score(own),
            mean_score(found[peer]),
            limit,
        )
        for peer in peers
    ]


Curves = Mapping[str, Mapping[int, float]]
"""Title of each further picture, and its points."""


def report(
    rows: Sequence[Row], options: argparse.Namespace, *, curves: Curves | None = None
) -> None:
    """Print the table; write JSON and picture, if the options ask for them.

    Args:
        rows: Of the table.
        options: As ``parse`` returns them.
        curves: Drawn beside the table's rows.
    """
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.to_dict() for row in rows], indent=2) + "\n")
    if options.plot:
        plot(rows, options.plot, curves=curves)


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table; a share is that of the machine's matrix-multiply limit."""
    lines = [
        "| work | peer | unit | ours | theirs | ratio | our score | theirs | our share | theirs |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [
            *(row.work, row.peer, row.unit),
            *(_number(row.ours), _number(row.theirs), f"{row.ratio:.2f}"),
            *(_score(row.ours_score), _score(row.theirs_score)),
            *(_share(row.limit, row.ours), _share(row.limit, row.theirs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Return a figure with three digits that count, and all before the point."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _share(limit: float | None, value: float) -> str:
    return "" if limit is None else f"{limit / value:.0%}"


def plot(rows: Sequence[Row], path: Path, *, curves: Curves | None = None) -> None:
    """Draw a pair of bars for each row with the ratio beside it, and the curves below."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    curves = curves or {}
    heights = [1 + 0.7 * len(rows), *[3.0] * len(curves)]
    figure, [[axes], *further] = pyplot.subplots(
        len(heights),
        squeeze=False,
        figsize=(9, sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    _bars(axes, rows)
    for [below], (title, points) in zip(further, curves.items(), strict=True):
        below.plot(list(points), list(points.values()), marker="o")
        below.set_xscale("log", base=2)
        below.set_xticks(list(points), [f"{x:,}" for x in points])
        below.set_ylim(0, 1.2 * max(points.values()))
        below.set_title(title, fontsize=10)
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        # Of each pair the longer bar has length 1: seconds and MiB share one picture.
        longest = max(row.ours, row.theirs)
        axes.barh(place - 0.2, row.ours / longest, 0.38, color="tab:blue")
        axes.barh(place + 0.2, row.theirs / longest, 0.38, color="tab:gray")
        axes.text(1.02, place, f"{row.ratio:.2f}×", va="center")
        for offset, value in ((-0.2, row.ours), (0.2, row.theirs)):
            axes.text(0.01, place + offset, f"{_number(value)} {row.unit}", va="center", fontsize=8)
    names = [f"{row.work}\nagainst {row.peer}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("ours (blue) and theirs (grey), as a share of the longer; shorter is better")
