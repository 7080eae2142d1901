"""Draws what was scored over the number of training rows that it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_transfer.files import atomic_path
from lightning_transfer.results import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's


@dataclass(frozen=True)
class Curve:
    """One way of getting to the target task, with more and more labels.

    Args:
        name: What it is called: ``transfer``, ``no_source`` …
        points: What was scored, by the number of training rows and the size as it was asked for;
            or by None alone, for what takes no labels of the target, such as ``zero_shot``.
    """

    name: str
    points: dict[tuple[int, str] | None, Metric]


def plot_sizes(curves: Sequence[Curve], out: Path, *, metric: str) -> None:
    """Draw means with their 95 % intervals over the number of training rows, as a PNG.

    What takes no rows is a level line.

    Args:
        curves: One line each.
        out: PNG file to write, whole or not at all.
        metric: Name of the metric, for the axis.

    Raises:
        OSError: If ``out`` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A figure of our own: pyplot keeps its figures, and whatever backend its user has chosen.
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout=ConstrainedLayoutEngine())
    axes = figure.subplots()
    sizes: dict[int, str] = {}
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = sorted((at, found) for at, found in curve.points.items() if at is not None)
        sizes |= dict(at for at, _ in placed)
        if placed:
            _draw(axes, curve.name, [(at[0], found) for at, found in placed], colour)
        for found in [found for at, found in curve.points.items() if at is None]:
            _draw_level(axes, curve.name, found, colour)
    axes.set_xscale("log")
    axes.set_xticks(list(sizes), [_tick(*size) for size in sizes.items()])
    axes.minorticks_off()
    axes.set_xlabel("training rows")
    axes.set_title(f"Test {metric}, mean and 95 % interval", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: "Axes", name: str, points: Sequence[tuple[int, Metric]], colour: str) -> None:
    means = [found.mean for _, found in points]
    ends = [_ends(found) for _, found in points]
    bars = [
        [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
        [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
    ]
    rows = [rows for rows, _ in points]
    axes.errorbar(rows, means, yerr=bars, color=colour, marker="o", capsize=3, label=name)


def _ends(found: Metric) -> tuple[float, float]:
    """Return the interval; without one, of a single seed, the bar has no length."""
    low, high = found.ci95
    return (found.mean, found.mean) if low is None or high is None else (low, high)


def _draw_level(axes: "Axes", name: str, found: Metric, colour: str) -> None:
    axes.axhline(found.mean, color=colour, linestyle=(0, (5, 1.5)), linewidth=1.4, label=name)
    low, high = found.ci95
    if low is not None and high is not None:
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def _tick(rows: int, size: str) -> str:
    """Return the number of rows, with the size below it where that was asked for otherwise."""
    return str(rows) if size == str(rows) else f"{rows}\n{size}"
