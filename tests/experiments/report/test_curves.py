import csv
import logging
import os
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.pyplot
import pytest
from matplotlib.figure import Figure

from lightning_transfer.experiments.report.curves import plot_curves

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
    """Figures that were saved, in order."""
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


def test_loss_and_metric_are_drawn_over_epochs(tmp_path: Path, drawn: list[Figure]) -> None:
    file = log_file(tmp_path / "metrics.csv", TWO_EPOCHS)
    plot_curves({"source · seed 0": file}, tmp_path / "curves.png", metric="pearson")
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
    plot_curves(dict.fromkeys(labels, file), tmp_path / "curves.png", metric="val/pearson")
    (figure,) = drawn
    assert legend_of(figure) == labels
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    colours = [line.get_color() for line in lines]
    assert colours[0] == colours[2] != colours[1]
    assert lines[0].get_linestyle() == lines[1].get_linestyle() != lines[2].get_linestyle()


def test_a_single_point_is_visible(tmp_path: Path, drawn: list[Figure]) -> None:
    file = log_file(tmp_path / "metrics.csv", [{"epoch": 0, "step": 9, "train/loss": 1.5}])
    plot_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    (figure,) = drawn
    assert [line.get_marker() for line in figure.axes[0].lines][-1] == "o"
    assert [text.get_text() for text in figure.axes[1].texts] == ["not logged"]


@pytest.mark.parametrize("content", ["", "epoch,step,train/loss\n", None])
def test_a_file_without_rows_is_told_and_left_out(
    tmp_path: Path, drawn: list[Figure], caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    empty = tmp_path / "empty.csv"
    if content is not None:
        empty.write_text(content)
    files = {"empty": empty, "full": log_file(tmp_path / "full.csv", TWO_EPOCHS)}
    with caplog.at_level(logging.WARNING):
        plot_curves(files, tmp_path / "curves.png", metric="pearson")
    (message,) = caplog.messages
    assert "no learning curve of 'empty'" in message
    assert legend_of(drawn[0]) == ["full"]


def test_nothing_at_all_still_gives_a_picture_that_says_so(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    plot_curves({}, tmp_path / "curves.png", metric="pearson")
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert texts == ["not logged", "not logged"]
    assert (tmp_path / "curves.png").exists()


def test_a_step_that_was_logged_twice_counts_as_the_resumed_run_saw_it(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    again: Rows = [{"epoch": 0, "step": 3, "train/loss": 0.9}]
    file = log_file(tmp_path / "metrics.csv", TWO_EPOCHS + again)
    plot_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    assert lines_of(drawn[0], 0) == [[(0.5, 1.0), (1.0, 0.9), (1.5, 0.6)]]


def test_cells_that_are_no_numbers_are_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: Rows = [
        {"epoch": 0, "step": step, "train/loss": loss}
        for step, loss in enumerate(["nan", "inf", "1.5", "broken"])
    ]
    file = log_file(tmp_path / "metrics.csv", rows)
    plot_curves({"fit": file}, tmp_path / "curves.png", metric="pearson")
    assert lines_of(drawn[0], 0) == [[(0.75, 1.5)]]


def test_losses_logged_by_step_are_found(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: Rows = [{"epoch": 0, "step": 0, "train/loss_step": 1.5, "train/loss_epoch": 9.0}]
    plot_curves(
        {"fit": log_file(tmp_path / "m.csv", rows)}, tmp_path / "curves.png", metric="pearson"
    )
    assert lines_of(drawn[0], 0) == [[(1.0, 1.5)]]


def test_without_steps_the_epoch_itself_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    rows: Rows = [{"epoch": 0, "val/f1": 0.1}, {"epoch": 1, "val/f1": 0.2}]
    plot_curves({"fit": log_file(tmp_path / "m.csv", rows)}, tmp_path / "c.png", metric="f1")
    assert lines_of(drawn[0], 1) == [[(1.0, 0.1), (2.0, 0.2)]]


def test_a_failed_save_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "curves.png"
    out.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        plot_curves({}, out, metric="pearson")
    assert (os.listdir(tmp_path), out.read_bytes()) == (["curves.png"], b"old")


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    before = matplotlib.pyplot.get_fignums()
    plot_curves({}, tmp_path / "curves.png", metric="pearson")
    assert matplotlib.pyplot.get_fignums() == before
