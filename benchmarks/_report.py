"""Table, JSON file and plot of a benchmark."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _turns import Result, mean_score, median

LIMIT = "limit, GFLOP/s"
"""Name of the side that measures the matrix-multiply limit."""


@dataclass(frozen=True)
class Row:
    """Row of the table: our value and a peer's for the same work.

    Args:
        work: Name of the work.
        peer: Name of the peer.
        unit: Unit of both values; less is better.
        ours: Our value, > 0.
        theirs: The peer's value, > 0.
        ours_score: Our accuracy, in [0, 1], or None.
        theirs_score: The peer's accuracy, in [0, 1], or None.
        limit: Value of the matrix-multiply limit in the same unit, or None.
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
        """Ratio of the peer's value to ours; above 1 ours is better."""
        return self.theirs / self.ours

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the row in the form of the JSON file."""
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
    """Return a row for each peer, with medians of the values and means of the scores.

    Args:
        work: Name of the work.
        found: Results by side, returned by ``in_turn``.
        ours: Name of our side.
        peers: Names of the peers; None for all other sides except the limit.
        unit: Unit of the values.
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
"""Title of each curve to its points."""


def report(
    rows: Sequence[Row], options: argparse.Namespace, *, curves: Curves | None = None
) -> None:
    """Print the table, and write the JSON file and the plot if the options name them.

    Args:
        rows: Rows of the table.
        options: Options returned by ``parse``.
        curves: Curves to plot below the rows.
    """
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row.to_dict() for row in rows], indent=2) + "\n")
    if options.plot:
        plot(rows, options.plot, curves=curves)


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table; a share is the limit divided by the value."""
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
    """Return a number with three significant digits, and all digits before the point."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _share(limit: float | None, value: float) -> str:
    return "" if limit is None else f"{limit / value:.0%}"


def plot(rows: Sequence[Row], path: Path, *, curves: Curves | None = None) -> None:
    """Plot two bars and the ratio for each row, and the curves below."""
    import matplotlib

    matplotlib.use("Agg")  # opens no window
    from matplotlib import pyplot

    curves = curves or {}
    # Heights in inches: the bars of all rows, then the curves.
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
        below.set_xscale("log", base=2)  # sizes grow by factors
        below.set_xticks(list(points), [f"{x:,}" for x in points])
        # From zero, so that small differences do not look large.
        below.set_ylim(0, 1.2 * max(points.values()))
        below.set_title(title, fontsize=10)
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        # The longer bar of each pair has length 1, so that seconds and MiB fit into one plot.
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
    axes.set_xlabel("ours (blue) and theirs (grey), as a fraction of the longer; shorter is better")
