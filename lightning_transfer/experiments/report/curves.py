"""Draws the learning curves of a run out of the csv files that Lightning's logger writes."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_transfer.experiments.results import Metric
from lightning_transfer.utils.atomic_files import atomic_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
_LOSS = ("train/loss", "train/loss_step", "train/loss_epoch")


def plot_curves(files: Mapping[str, Path], out: Path, *, metric: str) -> None:
    """Draw training loss and validation metric of each stage run over the epochs.

    Runs whose names agree up to their last ``·`` share a colour and differ in their dashes, so that
    the seeds of one stage are seen together. A file that is missing, empty or lacks a column is
    left out of that panel, and told in a warning if there is nothing in it to draw.

    Args:
        files: ``metrics.csv`` of Lightning's ``CSVLogger`` by the name of its line, such as
            ``"source · seed 0"``.
        out: PNG file to write, whole or not at all.
        metric: Validation metric, as ``"pearson"`` or ``"val/pearson"``.

    Raises:
        OSError: If ``out`` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    name = metric if "/" in metric else f"val/{metric}"
    runs = [_Run.read(label, Path(path)) for label, path in files.items()]
    styles = _styles(list(files))
    # A figure of our own: pyplot keeps its figures, and whatever backend its user has chosen.
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(11, 4.2), dpi=120, layout=layout)
    left, right = figure.subplots(1, 2)
    handles: dict[str, Artist] = {}
    for axes, columns, title in (
        (left, _LOSS, "Training loss"),
        (right, (name,), f"Validation {name.rpartition('/')[2]}"),
    ):
        for run, (colour, dash) in zip(runs, styles, strict=True):
            epochs, values = run.curve(columns)
            if values:
                (handles[run.label],) = axes.plot(
                    epochs, values, color=colour, linestyle=dash, linewidth=1.4
                )
                if len(values) <= 20:  # a single point would not show without
                    axes.plot(epochs, values, "o", color=colour, markersize=3.5)
        _dress(axes, title)
    _add_legend(figure, {label: handles[label] for label in files if label in handles})
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png")


@dataclass(frozen=True)
class _Run:
    """What one stage run logged: its rows, numbers only."""

    label: str
    rows: Sequence[Mapping[str, float]]
    steps_per_epoch: float

    @classmethod
    def read(cls, label: str, path: Path) -> "_Run":
        try:
            with path.open(newline="", encoding="utf-8", errors="replace") as stream:
                rows = [_numbers(row) for row in csv.DictReader(stream)]
        except (OSError, csv.Error) as error:
            log.warning("no learning curve of %r: %s", label, error)
            return cls(label, [], 0.0)
        if not rows:
            log.warning("no learning curve of %r: %s has no rows", label, path)
        return cls(label, rows, _steps_per_epoch(rows))

    def curve(self, columns: Sequence[str]) -> tuple[list[float], list[float]]:
        """Return epochs and values of the first of ``columns`` that was logged."""
        for column in columns:
            # A resumed run repeats the steps since its checkpoint: the last time counts.
            points = {self._epoch(row): row[column] for row in self.rows if column in row}
            if points:
                return sorted(points), [points[epoch] for epoch in sorted(points)]
        return [], []

    def _epoch(self, row: Mapping[str, float]) -> float:
        """Return how many epochs were done, with their fraction, from the row's step."""
        if "step" not in row or not self.steps_per_epoch:
            return row.get("epoch", 0.0) + 1
        return (row["step"] + 1) / self.steps_per_epoch


def _steps_per_epoch(rows: Sequence[Mapping[str, float]]) -> float:
    # Exact once one row was logged at an epoch's end, where validation logs its own.
    whole = [row for row in rows if "step" in row and "epoch" in row]
    return max(((row["step"] + 1) / (row["epoch"] + 1) for row in whole), default=0.0)


def _numbers(row: Mapping[str | None, object]) -> dict[str, float]:
    numbers = {}
    for column, text in row.items():
        try:
            number = float(str(text))
        except ValueError:
            continue  # Lightning leaves the cells of what wasn't logged in that row empty
        if isinstance(column, str) and math.isfinite(number):
            numbers[column] = number
    return numbers


def _styles(labels: Sequence[str]) -> list[tuple[str, object]]:
    groups: dict[str, int] = {}
    styles: list[tuple[str, object]] = []
    for label in labels:
        stage = label.rpartition("·")[0].strip() or label
        groups[stage] = groups.get(stage, -1) + 1
        colour = _COLOURS[list(groups).index(stage) % len(_COLOURS)]
        styles.append((colour, _DASHES[groups[stage] % len(_DASHES)]))
    return styles


def _dress(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epochs of the stage")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.03, y=0.08)
    if axes.lines:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="0.5")


def _add_legend(figure: "Figure", handles: Mapping[str, "Artist"]) -> None:
    if handles:
        figure.legend(
            handles.values(),
            handles,
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            handlelength=3,
            ncols=math.ceil(len(handles) / 18),  # as many as fit below each other
        )


if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
