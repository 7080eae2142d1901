"""Plots of a run: training curves over epochs, and test scores over the number of training rows."""

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

# Okabe and Ito's palette, made for colour-blind readers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
# Lightning adds a suffix to a loss that is logged both by step and by epoch.
_LOSS_COLUMNS = ("train/loss", "train/loss_step", "train/loss_epoch")


@dataclass(frozen=True)
class SizeCurve:
    """Test scores of one row of the results over the number of training rows.

    Args:
        name: Name of the row without a size, such as ``transfer`` or ``no_source``.
        points: Number of training rows and the configured size (``8/class``) to the test score. The
            key None holds the score of a row without training rows of the target, such as
            ``zero_shot``.
    """

    name: str
    points: dict[tuple[int, str] | None, Metric]


def plot_training_curves(files: Mapping[str, Path], out: Path, *, metric: str) -> None:
    """Plot training loss and validation metric of each stage run over its epochs.

    Names that are equal up to their last ``·`` share a colour and differ in their dashes, so that
    the seeds of one stage form a group. A run is left out of a panel if its file lacks the column.
    A missing or empty file is logged as a warning.

    Args:
        files: Name of the curve, such as ``"source · seed 0"``, to ``metrics.csv`` of Lightning's
            ``CSVLogger``.
        out: PNG file, written atomically.
        metric: Validation metric, such as ``"pearson"`` or ``"val/pearson"``.

    Raises:
        OSError: If ``out`` cannot be written.
    """
    name = metric if "/" in metric else f"val/{metric}"
    runs = [_LoggedRun.read(label, Path(path)) for label, path in files.items()]
    styles = _styles(list(files))
    figure = _make_figure(11, padding=0.12)
    left, right = figure.subplots(1, 2)
    handles: dict[str, Artist] = {}
    for axes, columns, title in (
        (left, _LOSS_COLUMNS, "Training loss"),
        (right, (name,), f"Validation {name.rpartition('/')[2]}"),
    ):
        for run, (colour, dash) in zip(runs, styles, strict=True):
            epochs, values = run.curve(columns)
            if values:
                (handles[run.label],) = axes.plot(
                    epochs, values, color=colour, linestyle=dash, linewidth=1.4
                )
                if len(values) <= 20:  # a single point has no line, and is invisible without it
                    axes.plot(epochs, values, "o", color=colour, markersize=3.5)
        _set_epoch_axis(axes)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    _add_legend(figure, {label: handles[label] for label in files if label in handles})
    _save(figure, out)


def plot_size_curves(curves: Sequence[SizeCurve], out: Path, *, metric: str) -> None:
    """Plot mean test scores with their 95 % intervals over the number of training rows.

    The score of a row without training rows of the target is a horizontal line.

    Args:
        curves: One curve per row of the results.
        out: PNG file, written atomically.
        metric: Name of the metric, for the title.

    Raises:
        OSError: If ``out`` cannot be written.
    """
    figure = _make_figure(6.4)
    axes = figure.subplots()
    sizes: dict[int, str] = {}
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        points = sorted((at, score) for at, score in curve.points.items() if at is not None)
        sizes |= dict(at for at, _ in points)
        if points:
            _plot_points(axes, curve.name, [(at[0], score) for at, score in points], colour)
        for score in [score for at, score in curve.points.items() if at is None]:
            _plot_level(axes, curve.name, score, colour)
    axes.set_xscale("log")  # sizes usually double
    axes.set_xticks(list(sizes), [_tick_label(*size) for size in sizes.items()])
    axes.minorticks_off()
    axes.set_xlabel("training rows")
    axes.set_title(f"Test {metric}, mean and 95 % interval", loc="left", fontsize=11)
    _set_style(axes)
    axes.legend(frameon=False, fontsize=9)
    _save(figure, out)


@dataclass(frozen=True)
class _LoggedRun:
    """Log of one stage run.

    Args:
        label: Name of the curve.
        rows: Numbers by column, one mapping per row of the log.
        steps_per_epoch: Optimizer steps per epoch; 0 if the log has no steps.
    """

    label: str
    rows: Sequence[Mapping[str, float]]
    steps_per_epoch: float

    @classmethod
    def read(cls, label: str, path: Path) -> "_LoggedRun":
        """Read a log; one without rows if the file cannot be read."""
        try:
            with path.open(newline="", encoding="utf-8", errors="replace") as stream:
                rows = [_numbers(row) for row in csv.DictReader(stream)]
        except (OSError, csv.Error) as error:
            log.warning("no training curve for %r: %s", label, error)
            return cls(label, [], 0.0)
        if not rows:
            log.warning("no training curve for %r: %s has no rows", label, path)
        return cls(label, rows, _steps_per_epoch(rows))

    def curve(self, columns: Sequence[str]) -> tuple[list[float], list[float]]:
        """Return epochs and values of the first logged column."""
        for column in columns:
            # A resumed run logs the steps since its resume point again: the last value counts.
            points = {self._epoch(row): row[column] for row in self.rows if column in row}
            if points:
                return sorted(points), [points[epoch] for epoch in sorted(points)]
        return [], []

    def _epoch(self, row: Mapping[str, float]) -> float:
        """Return the number of finished epochs with their fraction, from the step of a row."""
        # Lightning counts steps and epochs from 0.
        if "step" not in row or not self.steps_per_epoch:
            return row.get("epoch", 0.0) + 1
        return (row["step"] + 1) / self.steps_per_epoch


def _steps_per_epoch(rows: Sequence[Mapping[str, float]]) -> float:
    # Exact if a row was logged at the end of an epoch, as validation does. Rows within an epoch
    # give less.
    complete = [row for row in rows if "step" in row and "epoch" in row]
    return max(((row["step"] + 1) / (row["epoch"] + 1) for row in complete), default=0.0)


def _numbers(row: Mapping[str | None, object]) -> dict[str, float]:
    """Return the finite numbers of a csv row by column."""
    numbers = {}
    for column, text in row.items():
        try:
            number = float(str(text))
        except ValueError:
            continue  # Lightning leaves a cell empty if its metric was not logged at this step
        # The column is None for the surplus fields of a line.
        if isinstance(column, str) and math.isfinite(number):
            numbers[column] = number
    return numbers


def _styles(labels: Sequence[str]) -> list[tuple[str, object]]:
    """Return colour and dashes of each name: a colour per stage, dashes per seed."""
    groups: dict[str, int] = {}
    styles: list[tuple[str, object]] = []
    for label in labels:
        stage = label.rpartition("·")[0].strip() or label
        groups[stage] = groups.get(stage, -1) + 1
        colour = _COLOURS[list(groups).index(stage) % len(_COLOURS)]
        styles.append((colour, _DASHES[groups[stage] % len(_DASHES)]))
    return styles


def _plot_points(
    axes: "Axes", name: str, points: Sequence[tuple[int, Metric]], colour: str
) -> None:
    """Plot means over numbers of training rows, with their intervals as error bars."""
    means = [score.mean for _, score in points]
    ends = [_interval_ends(score) for _, score in points]
    bars = [
        [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
        [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
    ]
    rows = [rows for rows, _ in points]
    axes.errorbar(rows, means, yerr=bars, color=colour, marker="o", capsize=3, label=name)


def _interval_ends(score: Metric) -> tuple[float, float]:
    """Return the interval; for a single seed the mean twice, a bar without length."""
    low, high = score.ci95
    return (score.mean, score.mean) if low is None or high is None else (low, high)


def _plot_level(axes: "Axes", name: str, score: Metric, colour: str) -> None:
    """Plot a mean as a horizontal line, with its interval as a band."""
    axes.axhline(score.mean, color=colour, linestyle=(0, (5, 1.5)), linewidth=1.4, label=name)
    low, high = score.ci95
    if low is not None and high is not None:
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def _tick_label(rows: int, size: str) -> str:
    """Return the number of rows, with the configured size below it if that is another text."""
    return str(rows) if size == str(rows) else f"{rows}\n{size}"


def _make_figure(width: float, *, padding: float | None = None) -> "Figure":
    """Return an empty figure with a height of 4.2 inches.

    Args:
        width: Width in inches.
        padding: Space around each panel in inches; None: matplotlib's default.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine()
    if padding is not None:
        layout.set(w_pad=padding, h_pad=padding)
    # Without pyplot, which keeps every figure open and depends on the backend of the user.
    return Figure(figsize=(width, 4.2), dpi=120, layout=layout)


def _save(figure: "Figure", out: Path) -> None:
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png")  # regardless of the suffix of `out`


def _set_style(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _set_epoch_axis(axes: "Axes") -> None:
    """Set style and x axis of a panel over epochs; an empty one gets the text "not logged"."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epochs of the stage")
    _set_style(axes)
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
            ncols=math.ceil(len(handles) / 18),  # the height of the figure has room for 18 entries
        )
