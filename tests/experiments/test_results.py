"""Results: intervals, comparisons, verdict sentences, files and tables."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_transfer.experiments.results import Comparison, Metric, Results, Row

T_975 = {1: 12.7062, 2: 4.30265}  # quantiles of Student's t by degrees of freedom


def row(name: str, *values: float, **metrics: tuple[float, ...]) -> Row:
    others = {key: Metric(other) for key, other in metrics.items()}
    return Row(name, "target", 128, 2121, 25.14, {"pearson": Metric(values)} | others)


def compare(*rows: Row, seeds: int = 3, missing: tuple[str, ...] = ()) -> Results:
    named = {row.name: row for row in rows}
    comparison = None
    if {"transfer", "no_source"} <= set(named):
        comparison = Comparison.between(named["transfer"], named["no_source"], metric="pearson")
    return Results("news_to_movies", tuple(range(seeds)), rows, comparison, missing)


SPREAD = compare(
    row("zero_shot", 0.66, 0.65, 0.67),
    row("no_source", 0.5, 0.5, 0.5),
    row("transfer", 0.6, 0.7, 0.8),
)


# Intervals


def test_the_interval_of_three_seeds_is_students_t() -> None:
    metric = Metric((0.6, 0.7, 0.8))  # standard deviation 0.1
    half = T_975[2] * 0.1 / math.sqrt(3)
    assert metric.mean == pytest.approx(0.7)
    assert metric.ci95 == pytest.approx((0.7 - half, 0.7 + half), abs=1e-6)
    assert str(metric) == "0.700 [0.452, 0.948]"


def test_the_interval_of_two_seeds_is_students_t() -> None:
    # mean 2, standard deviation sqrt(2), standard error 1
    assert Metric((1, 3)).ci95 == pytest.approx((2 - T_975[1], 2 + T_975[1]), abs=1e-4)


def test_one_seed_has_no_interval() -> None:
    metric = Metric((0.7123,))
    assert (metric.mean, metric.ci95, str(metric)) == (0.7123, (None, None), "0.712")


def test_equal_values_have_an_interval_without_width() -> None:
    assert Metric((0.5, 0.5)).ci95 == (0.5, 0.5)


def test_an_undefined_value_makes_the_mean_undefined() -> None:
    metric = Metric((0.5, math.nan))
    assert math.isnan(metric.mean)
    assert (metric.ci95, str(metric)) == ((None, None), "undefined")


def test_a_metric_without_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="values must hold at least one value, got none"):
        Metric(())


# Comparison


def test_the_difference_is_paired_by_seed() -> None:
    # Seeds differ by 0.3; within a seed, the two rows differ by only 0.01 to 0.03.
    comparison = Comparison.between(
        row("transfer", 0.41, 0.72, 0.13), row("no_source", 0.4, 0.7, 0.1), metric="pearson"
    )
    half = T_975[2] * 0.01 / math.sqrt(3)
    assert comparison.value == pytest.approx(0.02)
    assert comparison.ci95 == pytest.approx((0.02 - half, 0.02 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("transfer", "verdict"),
    [
        ((0.60, 0.61, 0.62), "positive"),
        ((0.40, 0.39, 0.38), "negative"),
        ((0.60, 0.40, 0.55), "not significant"),
        ((0.60,), "not significant"),
        ((math.nan, 0.6, 0.6), "not significant"),
    ],
)
def test_the_verdict_follows_the_interval(transfer: tuple[float, ...], verdict: str) -> None:
    comparison = Comparison.between(
        row("transfer", *transfer), row("no_source", 0.5, 0.5, 0.5), metric="pearson"
    )
    assert (comparison.verdict, comparison.baseline, comparison.metric) == (
        verdict,
        "no_source",
        "pearson",
    )


def test_an_interrupted_row_is_paired_with_the_first_values() -> None:
    comparison = Comparison.between(
        row("transfer", 0.6, 0.7), row("no_source", 0.5, 0.5, 9.0), metric="pearson"
    )
    assert comparison.value == pytest.approx(0.15)


def test_a_comparison_needs_a_metric_of_both_rows() -> None:
    with pytest.raises(
        ValueError, match=r"unknown metric 'accuracy' of row 'b'\. Metrics: pearson"
    ):
        Comparison.between(row("a", 0.5, accuracy=(0.5,)), row("b", 0.5), metric="accuracy")


def test_a_comparison_in_a_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="higher is better, got 'test/loss'"):
        Comparison.between(row("a", 0.5), row("b", 0.5), metric="test/loss")


def test_rows_with_equal_names_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"row names must be unique, got \['a', 'a'\]"):
        compare(row("a", 0.1), row("a", 0.2))


# Verdict


def test_the_verdict_of_a_positive_transfer_has_its_numbers() -> None:
    results = compare(row("no_source", 0.50, 0.50, 0.50), row("transfer", 0.70, 0.71, 0.69))
    assert results.sentence() == (
        "Positive transfer: pearson is 0.700 with transfer and 0.500 with no_source, a difference "
        "of +0.200 (95 % interval +0.175 to +0.225 over 3 seeds)."
    )


def test_an_interval_around_zero_is_not_significant() -> None:
    assert SPREAD.sentence() == (
        "Transfer is not significant: pearson is 0.700 with transfer and 0.500 with no_source, a "
        "difference of +0.200 (95 % interval -0.048 to +0.448 over 3 seeds)."
    )


def test_the_verdict_of_a_negative_transfer_blames_the_source() -> None:
    results = compare(row("no_source", 0.70, 0.71, 0.69), row("transfer", 0.5, 0.5, 0.5))
    assert results.sentence().startswith("Negative transfer, the source stage hurts: pearson is ")
    assert "-0.200 (95 % interval -0.225 to -0.175 over 3 seeds)." in results.sentence()


def test_the_verdict_counts_the_seeds_of_the_row_with_several_values() -> None:
    pair = row("transfer", 0.7, 0.71, 0.69), row("no_source", 0.5, 0.5, 0.5)
    comparison = Comparison.between(*pair, metric="pearson")
    results = Results("x", (0, 1, 2), (pair[0], row("no_source", 0.5)), comparison)
    assert results.sentence().endswith("(95 % interval +0.175 to +0.225 over 3 seeds).")


def test_the_verdict_without_rows_has_the_difference_only() -> None:
    results = Results("x", (0, 1, 2), (), SPREAD.comparison)
    assert "pearson changes by +0.200 (95 % interval -0.048 to" in results.sentence()


def test_the_verdict_names_another_candidate() -> None:
    rows = row("plain", 0.5, 0.5), row("adapted", 0.7, 0.7), row("transfer", 0.9, 0.9)
    comparison = Comparison.between(rows[1], rows[0], metric="pearson")
    results = Results("x", (0, 1), rows, comparison)
    assert results.sentence().startswith(
        "Positive transfer: pearson is 0.700 with adapted and 0.500 with plain, a difference of"
    )
    assert "adapted - plain: pearson +0.200" in results.to_markdown()
    assert json.loads(results.to_json())["comparison"]["candidate"] == "adapted"
    assert Results.from_json(results.to_json()) == results


def test_the_verdict_of_one_seed_has_no_interval() -> None:
    results = compare(row("no_source", 0.5), row("transfer", 0.7), seeds=1)
    assert results.sentence() == (
        "Transfer is not significant: pearson is 0.700 with transfer and 0.500 with no_source, a "
        "difference of +0.200, but one seed gives no interval."
    )
    assert "one seed: no interval" in results.to_markdown()


def test_an_undefined_difference_is_not_significant() -> None:
    results = compare(row("no_source", 0.5, math.nan), row("transfer", 0.7, 0.7), seeds=2)
    assert results.sentence() == (
        "Transfer is not significant: pearson is undefined in at least one run."
    )


def test_an_interrupted_run_without_comparison_names_the_missing_rows() -> None:
    results = compare(row("zero_shot", 0.6, 0.6, 0.6), missing=("no_source", "transfer"))
    assert results.comparison is None
    assert results.sentence() == (
        "No verdict on the transfer: the run was interrupted (no_source, transfer missing)."
    )
    assert "zero_shot" in results.to_markdown()


def test_an_interrupted_run_with_comparison_has_a_preliminary_verdict() -> None:
    rows = row("no_source", 0.5, 0.5, 0.5), row("transfer", 0.70, 0.71)
    results = compare(*rows, missing=("transfer (seed 2)",))
    assert results.sentence().startswith("Positive transfer: ")
    assert results.sentence().endswith(
        "over 2 seeds); the run was interrupted (transfer (seed 2) missing), so this may change."
    )


def test_there_is_no_verdict_without_a_baseline() -> None:
    assert compare(row("transfer", 0.6)).sentence() == (
        "No verdict on the transfer: there is no baseline to compare it with."
    )


# Files


def test_json_has_exactly_the_documented_keys() -> None:
    results = compare(row("no_source", 0.5, 0.5), row("transfer", 0.7, 0.7), seeds=2)
    data = json.loads(results.to_json())
    metrics = {"pearson": {"mean": 0.7, "ci95": [0.7, 0.7], "values": [0.7, 0.7]}}
    assert list(data) == ["experiment", "seeds", "rows", "comparison"]
    assert (data["experiment"], data["seeds"]) == ("news_to_movies", [0, 1])
    assert data["rows"][1] == {
        "name": "transfer",
        "stage": "target",
        "n_train": 128,
        "n_test": 2121,
        "seconds": 25.14,
        "metrics": metrics,
    }
    comparison = data["comparison"]
    assert list(comparison) == ["metric", "baseline", "value", "ci95", "verdict"]
    assert comparison["value"] == 0.7 - 0.5
    assert comparison["ci95"] == [0.7 - 0.5] * 2
    assert (comparison["metric"], comparison["baseline"], comparison["verdict"]) == (
        "pearson",
        "no_source",
        "positive",
    )


def test_json_has_numbers_at_full_precision() -> None:
    value = 0.1 + 0.2
    assert str(value) in compare(row("transfer", value)).to_json()


def test_nan_is_null_in_json() -> None:
    results = compare(row("no_source", 0.5, math.nan), row("transfer", 0.7, 0.7), seeds=2)
    data = json.loads(results.to_json(), parse_constant=pytest.fail)
    assert data["rows"][0]["metrics"]["pearson"] == {
        "mean": None,
        "ci95": [None, None],
        "values": [0.5, None],
    }
    assert data["comparison"]["value"] is None
    assert math.isnan(Results.from_json(results.to_json()).rows[0].metrics["pearson"].mean)


@pytest.mark.parametrize(
    "results",
    [
        SPREAD,
        compare(row("a|b", 0.1, r2=(-0.5,)), seeds=1),
        compare(row("no_source", 0.1, 0.2), missing=("transfer",)),
        compare(seeds=0),
    ],
)
def test_results_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    assert Results.from_json(results.to_json()) == results
    results.write(tmp_path / "run")
    assert Results.read(tmp_path / "run") == results
    assert Results.read(tmp_path / "run" / "results.json") == results
    assert (tmp_path / "run" / "results.md").read_text("utf-8") == results.to_markdown()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not in the format of results.json: JSONDecodeError"),
        ("[]", "not in the format of results.json"),
        ('{"experiment": "x"}', r"KeyError\('seeds'\)"),
        (
            '{"experiment": "x", "seeds": [], "rows": [{"name": "a"}], "comparison": null}',
            "'metrics'",
        ),
    ],
)
def test_another_file_is_an_error_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Results.read(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)


def test_a_failed_write_keeps_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SPREAD.write(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        compare(row("other", 0.1)).write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["results.json", "results.md"]
    assert Results.read(tmp_path) == SPREAD


# Tables


def render(results: Results, width: int) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))
    with console.file:
        console.print(results.to_table())
        return console.export_text()


def test_a_wide_table_loses_no_digit() -> None:
    many: dict[str, Any] = {f"measure{n}": (512.25, 591.5) for n in range(6)}
    rows = row("zero_shot", 0.65), row("no_source", 0.5, 0.5), row("transfer", 0.7, 0.71, **many)
    results = compare(*rows, seeds=2)
    assert "…" not in render(results, 80)
    needed = Console().measure(results.to_table()).minimum
    cells = render(results, needed).split()
    assert cells.count("551.875") == len(many)


@pytest.mark.parametrize("width", [80, 100])
def test_a_table_with_three_metrics_fits_into_80_columns(width: int) -> None:
    three: dict[str, Any] = {"accuracy": (0.7, 0.72), "macro_f1": (0.61, 0.6312)}
    rows = row("zero_shot", 0.65), row("no_source", 0.5, 0.5), row("transfer", 0.7, 0.71, **three)
    text = render(compare(*rows, seeds=2), width)
    header, *_ = (line for line in text.splitlines() if "n_train" in line)
    assert header.split() == [
        "run",
        "pearson",
        "accuracy",
        "macro_f1",
        "n_train",
        "n_test",
        "seconds",
    ]
    assert "transfer           0.705          0.710          0.621     128   2121    25.1" in text
    assert "[0.641, 0.769] [0.583, 0.837] [0.486, 0.755]" in text
    assert "transfer - no_source: pearson +0.205 [+0.141, +0.269]" in text


def test_a_narrow_table_loses_no_digit() -> None:
    text = render(SPREAD, 50)
    assert "…" not in text
    assert "[0.452," in text
    assert "0.948]" in text


def test_names_in_square_brackets_are_not_markup() -> None:
    assert "[bold]" in render(compare(row("[bold]", 0.5)), 80)


def test_markdown_has_the_verdict_and_the_cells_of_the_table() -> None:
    lines = SPREAD.to_markdown().splitlines()
    assert lines[0] == "# news_to_movies"
    assert lines[2] == SPREAD.sentence()
    assert lines[4] == "| run | pearson | n_train | n_test | seconds |"
    assert lines[-3] == "| transfer | 0.700 [0.452, 0.948] | 128 | 2121 | 25.1 |"
    assert "| a\\|b |" in compare(row("a|b", 0.5)).to_markdown()


def test_a_missing_metric_is_an_empty_cell() -> None:
    results = compare(row("a", 0.5, r2=(0.1,)), row("b", 0.5))
    assert "| b | 0.500 |  | 128 |" in results.to_markdown()
    assert "b" in render(results, 80)


def test_importing_results_imports_neither_torch_nor_scipy() -> None:
    code = "import sys, lightning_transfer.experiments.results as r; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "scipy", "rich", "matplotlib"} & set(modules)
