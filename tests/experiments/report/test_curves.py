"""Plots: training curves over epochs, and test scores over the number of training rows."""

import csv
import logging
import math
import os
from pathlib import Path
from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_transfer.experiments.report.curves import (
    SizeCurve,
    plot_size_curves,
    plot_training_curves,
)
from lightning_transfer.experiments.results import Metric

Rows = list[dict[str, Any]]

TWO_EPOCHS: Rows = [
    {"epoch": 0, "step": 1, "train/loss": 1.0},
    {"epoch": 0, "step": 3, "train/loss": 0.8},
    {"epoch": 0, "step": 3, "val/pearson": 0.5, "val/loss": 0.9},
    {"epoch": 1, "step": 5, "train/loss": 0.6},
    {"epoch": 1, "step": 7, "val/pearson": 0.7, "val/loss": 0.8},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Saved figures in their order."""
    figures: list[Figure] = []
    save = matplotlib.figure.Figure.savefig

    def savefig(self: Figure, *args: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return figures


def log_file(path: Path, rows: Rows) -> Path:
    columns = sorted({column for row in rows for column in row})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines_of(figure: Figure, panel: int) -> list[list[tuple[float, float]]]:
    axes = figure.axes[panel]
    lines = [line for line in axes.lines if line.get_linestyle() != "None"]
    return [
        [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # type: ignore[arg-type]
        for line in lines
    ]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_loss_and_metric_are_plotted_over_epochs(tmp_path: Path, drawn: list[Figure]) -> None:
    file = log_file(tmp_path / "metrics.csv", TWO_EPOCHS)
    plot_training_curves({"source · seed 0": file}, tmp_path / "curves.png", metric="pearson")
    (figure,) = drawn
    assert lines_of(figure, 0) == [[(0.5, 1.0), (1.0, 0.8), (1.5, 0.6)]]
    assert lines_of(figure, 1) == [[(1.0, 0.5), (2.0, 0.7)]]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Training loss",
        "Validation pearson",
    ]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "metrics.csv"]


def test_seeds_of_a_stage_share_a_colour_and_differ_in_dashes(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    file = log_file(tmp_path / "metrics.csv", TWO_EPOCHS)
    labels = ["source · seed 0", "target · seed 0", "source · seed 1"]
    plot_training_curves(dict.fromkeys(labels, file), tmp_path / "curves.png", metric="val/pearson")
    (figure,) = drawn
    assert legend_of(figure) == labels
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    colours = [line.get_color() for line in lines]
    assert colours[0] == colours[2] != colours[1]
    assert lines[0].get_linestyle() == lines[1].get_linestyle() != lines[2].get_linestyle()


def test_a_single_point_is_visible(tmp_path: Path, drawn: list[Figure]) -> None:
    file = log_file(tmp_path / "metrics.csv", [{"epoch": 0, "step": 9, "train/loss": 1.5}])
    plot_training_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    (figure,) = drawn
    assert [line.get_marker() for line in figure.axes[0].lines][-1] == "o"
    assert [text.get_text() for text in figure.axes[1].texts] == ["not logged"]


@pytest.mark.parametrize("content", ["", "epoch,step,train/loss\n", None])
def test_a_file_without_rows_is_a_warning_and_left_out(
    tmp_path: Path, drawn: list[Figure], caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    empty = tmp_path / "empty.csv"
    if content is not None:
        empty.write_text(content)
    files = {"empty": empty, "full": log_file(tmp_path / "full.csv", TWO_EPOCHS)}
    with caplog.at_level(logging.WARNING):
        plot_training_curves(files, tmp_path / "curves.png", metric="pearson")
    (message,) = caplog.messages
    assert "no training curve for 'empty'" in message
    assert legend_of(drawn[0]) == ["full"]


def test_without_runs_the_panels_say_not_logged(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training_curves({}, tmp_path / "curves.png", metric="pearson")
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert texts == ["not logged", "not logged"]
    assert (tmp_path / "curves.png").exists()


def test_the_last_value_of_a_repeated_step_counts(tmp_path: Path, drawn: list[Figure]) -> None:
    repeated: Rows = [{"epoch": 0, "step": 3, "train/loss": 0.9}]
    file = log_file(tmp_path / "metrics.csv", TWO_EPOCHS + repeated)
    plot_training_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    assert lines_of(drawn[0], 0) == [[(0.5, 1.0), (1.0, 0.9), (1.5, 0.6)]]


def test_cells_without_a_finite_number_are_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: Rows = [
        {"epoch": 0, "step": step, "train/loss": loss}
        for step, loss in enumerate(["nan", "inf", "1.5", "broken"])
    ]
    file = log_file(tmp_path / "metrics.csv", rows)
    plot_training_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    assert lines_of(drawn[0], 0) == [[(0.75, 1.5)]]


def test_losses_logged_by_step_are_plotted(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: Rows = [{"epoch": 0, "step": 0, "train/loss_step": 1.5, "train/loss_epoch": 9.0}]
    plot_training_curves(
        {"fit": log_file(tmp_path / "m.csv", rows)}, tmp_path / "curves.png", metric="pearson"
    )
    assert lines_of(drawn[0], 0) == [[(1.0, 1.5)]]


def test_a_log_without_steps_is_plotted_over_its_epochs(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    rows: Rows = [{"epoch": 0, "val/f1": 0.1}, {"epoch": 1, "val/f1": 0.2}]
    plot_training_curves(
        {"fit": log_file(tmp_path / "m.csv", rows)}, tmp_path / "c.png", metric="f1"
    )
    assert lines_of(drawn[0], 1) == [[(1.0, 0.1), (2.0, 0.2)]]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "curves.png"
    out.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        plot_training_curves({}, out, metric="pearson")
    assert (os.listdir(tmp_path), out.read_bytes()) == (["curves.png"], b"old")


def test_no_pyplot_figure_is_opened(tmp_path: Path) -> None:
    before = matplotlib.pyplot.get_fignums()
    plot_training_curves({}, tmp_path / "curves.png", metric="pearson")
    assert matplotlib.pyplot.get_fignums() == before


GROWING = SizeCurve(
    "transfer",
    {(256, "128/class"): Metric((0.9, 0.92, 0.94)), (16, "8/class"): Metric((0.5, 0.6, 0.7))},
)
LEVEL = SizeCurve("zero_shot", {None: Metric((0.4,))})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Calls of the axes by name: their positional and keyword arguments."""
    calls: dict[str, list[Any]] = {}
    for name in ("errorbar", "axhline", "axhspan", "set_xticks"):
        real = getattr(matplotlib.axes.Axes, name)

        def spy(axes: Any, *given: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            calls.setdefault(name, []).append((given, options))
            return real(axes, *given, **options)

        monkeypatch.setattr(matplotlib.axes.Axes, name, spy)
    return calls


def test_means_and_intervals_are_plotted_over_the_training_rows(
    calls: dict[str, list[Any]], tmp_path: Path
) -> None:
    plot_size_curves([GROWING, LEVEL], tmp_path / "a.png", metric="macro_f1")
    [((rows, means), options)] = calls["errorbar"]
    assert rows == [16, 256]
    assert means == pytest.approx([0.6, 0.92])
    [below, above] = options["yerr"]
    # 4.30265 is the quantile of Student's t with two degrees of freedom.
    half = [4.30265 * deviation / math.sqrt(3) for deviation in (0.1, 0.02)]
    assert below == pytest.approx(half, abs=1e-5)
    assert above == pytest.approx(half, abs=1e-5)
    assert options["label"] == "transfer"
    [((ticks, names), _)] = calls["set_xticks"]
    assert dict(zip(ticks, names, strict=True)) == {16: "16\n8/class", 256: "256\n128/class"}
    [((level,), options)] = calls["axhline"]
    assert (level, options["label"]) == (0.4, "zero_shot")
    assert "axhspan" not in calls  # one value has no interval
    assert imread(tmp_path / "a.png").shape[1] == 768


def test_one_seed_has_error_bars_without_length(
    calls: dict[str, list[Any]], tmp_path: Path
) -> None:
    curve = SizeCurve("target", {(8, "8"): Metric((0.7,))})
    plot_size_curves([curve], tmp_path / "a.png", metric="mcc")
    [(_, options)] = calls["errorbar"]
    assert options["yerr"] == [[0.0], [0.0]]
    [((_, names), _)] = calls["set_xticks"]
    assert names == ["8"]


def test_the_interval_of_a_level_is_a_band(calls: dict[str, list[Any]], tmp_path: Path) -> None:
    level = SizeCurve("zero_shot", {None: Metric((1, 3))})
    plot_size_curves([level, GROWING], tmp_path / "a.png", metric="r")
    [((low, high), _)] = calls["axhspan"]
    assert (low + high) / 2 == pytest.approx(2)
    assert high - low == pytest.approx(2 * 12.7062, abs=1e-4)


def test_an_undefined_mean_leaves_a_gap(tmp_path: Path) -> None:
    curve = SizeCurve("transfer", {(8, "8"): Metric((math.nan,)), (16, "16"): Metric((0.5,))})
    plot_size_curves([curve], tmp_path / "a.png", metric="pearson")
    assert (tmp_path / "a.png").stat().st_size
