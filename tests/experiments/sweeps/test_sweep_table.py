"""Table of a sweep: order, csv file, report and its command."""

import csv
import subprocess
import sys
import threading

import pytest

from lightning_transfer.cli import main
from lightning_transfer.experiments.results import Comparison, Metric, Results, Row
from lightning_transfer.experiments.sweeps import job_records, sweep_table
from lightning_transfer.experiments.sweeps.job_records import JobRecord
from lightning_transfer.experiments.sweeps.sweep_table import SweepTable


def results(transfer, no_source):
    candidate = Row("transfer", "target", 128, 500, 9.0, {"pearson": Metric(transfer)})
    baseline = Row("no_source", "target", 128, 500, 5.0, {"pearson": Metric(no_source)})
    comparison = Comparison.between(candidate, baseline, metric="pearson")
    return Results("x", tuple(range(len(transfer))), (baseline, candidate), comparison)


def done(folder, overrides, values, *, metric="val/pearson", mode="max"):
    job_records.write(folder, JobRecord(overrides, "done", metric, mode, values, 12.34))


@pytest.fixture
def sweep(tmp_path):
    """Folder of a sweep of five jobs: two done, one pruned, one failed, one unfinished."""
    folder = tmp_path / "sweep"
    done(folder / "0", ("+experiment=x", "seed=1", "a.lr=0.1"), (0.5, 0.6))
    done(folder / "1", ("+experiment=x", "seed=1", "a.lr=0.2"), (0.7, 0.8))
    results((0.3, 0.4), (0.1, 0.2)).write(folder / "0")
    results((0.2, 0.3), (0.3, 0.45)).write(folder / "1")
    pruned = JobRecord(
        ("+experiment=x", "seed=1", "a.lr=0.3"), "pruned", "val/pearson", "max", (0.9,), 1
    )
    job_records.write(folder / "2", pruned)
    failed = JobRecord(("+experiment=x", "seed=1", "~a.lr"), "failed", error="no rows, no columns")
    job_records.write(folder / "3", failed)
    unfinished = ("+experiment=x", "seed=1", "++resume=true", "a.lr=0.12345678901")
    job_records.write(folder / "4", JobRecord(unfinished))
    return folder


def rows(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_file_has_one_row_per_job_best_first(sweep):
    sweep_table.write(sweep)
    found = rows(sweep)
    assert [row["job"] for row in found] == ["1", "0", "2", "4", "3"]
    assert [row["status"] for row in found] == [*("done", "done", "pruned", "unfinished", "failed")]
    assert [row["a.lr"] for row in found] == ["0.2", "0.1", "0.3", "0.12345678901", ""]
    assert "seed" not in found[0]  # the same in all jobs
    assert "resume" not in found[0]
    best = found[0]
    assert best["metric"] == "val/pearson"
    assert float(best["value"]) == pytest.approx(0.75)
    assert float(best["ci95_low"]) == pytest.approx(0.75 - 12.7062 * 0.05, abs=1e-4)
    assert float(best["test"]) == pytest.approx(0.25)
    assert float(best["difference"]) == pytest.approx(-0.125)
    assert best["verdict"] == "not significant"
    assert best["seconds"] == "12.3"
    assert best["folder"] == str(sweep / "1")
    assert found[-1]["error"] == "no rows, no columns"
    assert found[3]["value"] == ""


def test_the_lowest_value_is_best_in_mode_min(tmp_path):
    for number, value in enumerate((2.0, 1.0, float("nan"))):
        done(tmp_path / str(number), (f"seed={number}",), (value,), metric="val/loss", mode="min")
    table = SweepTable.read(tmp_path)
    assert [row.job.name for row in table.rows] == ["1", "0", "2"]
    assert table.best.job.name == "1"


def test_the_report_has_the_table_the_errors_and_the_next_commands(sweep, capsys):
    SweepTable.read(sweep).render()
    table = capsys.readouterr().out
    assert main(["sweep-report", str(sweep)]) == 0
    assert capsys.readouterr().out == table
    assert main(["sweep-report", f"dir={sweep}"]) == 0
    assert capsys.readouterr().out == table
    lines = table[: table.index("best first")].splitlines()[3:]
    order = [line.split()[0] for line in lines if line[:1].isdigit()]
    assert order == ["1", "0", "2", "4", "3"]
    for part in (
        "transfer - no_source",
        "0.1235",
        "0.750",
        "-0.125",
        "best first by val/pearson, higher is better",
        "job 3 failed: no rows, no columns",
        "Best: job 1: a.lr=0.2",
        f'predict ckpt={sweep}/1 text="…"',
        f"2 of 5 jobs not finished; to resume, run the same command with hydra.sweep.dir={sweep}",
    ):
        assert part in table, part


def test_a_ranking_by_test_scores_is_stated(tmp_path, capsys):
    done(tmp_path / "0", ("seed=1",), (0.5,), metric="pearson")
    SweepTable.read(tmp_path).render()
    assert "on the TEST split, as there is no validation score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", "; give that of a sweep, multirun/NAME/TIME"),
        (".", "is not the folder of a sweep: it contains no job with a job.json; give"),
        (".", "the latest sweep in it is "),
    ],
)
def test_a_wrong_folder_is_exit_code_2(sweep, name, message, capsys):
    (sweep / job_records.MULTIRUN).write_text("")
    assert main(["sweep-report", str(sweep.parent / name)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_the_report_needs_a_folder(capsys):
    assert main(["sweep-report"]) == 2
    assert "sweep-report requires dir=…" in capsys.readouterr().err


def test_keys_are_shortened_as_far_as_they_are_unique():
    keys = ["seed", "stages.a.optimizer.lr", "stages.b.optimizer.lr", "data@stages.a.data"]
    assert sweep_table._short(keys) == ["seed", "a.optimizer.lr", "b.optimizer.lr", "data"]
    both = ["data@stages.a.data", "data@stages.b.data"]
    assert sweep_table._short(both) == both


def test_jobs_that_end_at_the_same_time_write_a_complete_table(tmp_path):
    def end(number):
        done(tmp_path / str(number), (f"seed={number}",), (float(number),))
        sweep_table.write(tmp_path)

    threads = [threading.Thread(target=end, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["job"] for row in rows(tmp_path)] == [str(n) for n in reversed(range(8))]


def test_the_report_imports_neither_torch_nor_transformers(sweep):
    code = (
        "import sys; from lightning_transfer.cli import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'lightning', 'transformers', 'optuna'} & set(sys.modules); exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, "sweep-report", sweep], capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_a_report_in_a_log_file_is_not_cut(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    SweepTable.read(sweep).render()
    table = capsys.readouterr().out
    table = table[: table.index("best first")]
    assert "…" not in table
    for cell in ("0.1235", "unfinished", "0.750", "-0.125", "[0.115, 1.385]", "not significant"):
        assert cell in table, cell
