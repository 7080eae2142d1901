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


def results(transfer, baseline):
    ours = Row("transfer", "target", 128, 500, 9.0, {"pearson": Metric(transfer)})
    theirs = Row("no_source", "target", 128, 500, 5.0, {"pearson": Metric(baseline)})
    comparison = Comparison.between(ours, theirs, metric="pearson")
    return Results("x", tuple(range(len(transfer))), (theirs, ours), comparison)


def done(folder, overrides, values, *, metric="val/pearson", mode="max"):
    job_records.write(folder, JobRecord(overrides, "done", metric, mode, values, 12.34))


@pytest.fixture
def sweep(tmp_path):
    """A sweep of five jobs: two done, one pruned, one failed, one unfinished."""
    folder = tmp_path / "sweep"
    done(folder / "0", ("+experiment=x", "seed=1", "a.lr=0.1"), (0.5, 0.6))
    done(folder / "1", ("+experiment=x", "seed=1", "a.lr=0.2"), (0.7, 0.8))
    results((0.3, 0.4), (0.1, 0.2)).write(folder / "0")
    results((0.2, 0.3), (0.3, 0.45)).write(folder / "1")
    pruned = JobRecord(
        ("+experiment=x", "seed=1", "a.lr=0.3"), "pruned", "val/pearson", "max", (0.9,), 1
    )
    job_records.write(folder / "2", pruned)
    failed = JobRecord(("+experiment=x", "seed=1", "~a.lr"), "failed", error="no room, no rows")
    job_records.write(folder / "3", failed)
    unfinished = ("+experiment=x", "seed=1", "++resume=true", "a.lr=0.12345678901")
    job_records.write(folder / "4", JobRecord(unfinished))
    return folder


def rows(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_a_job_best_first(sweep):
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
    assert found[-1]["error"] == "no room, no rows"
    assert found[3]["value"] == ""


def test_a_metric_where_lower_is_better_turns_the_order(tmp_path):
    for number, value in enumerate((2.0, 1.0, float("nan"))):
        done(tmp_path / str(number), (f"seed={number}",), (value,), metric="val/loss", mode="min")
    table = SweepTable.read(tmp_path)
    assert [line.job.name for line in table.lines] == ["1", "0", "2"]
    assert table.best.job.name == "1"


def test_report_prints_the_table_what_failed_and_what_to_do_next(sweep, capsys):
    SweepTable.read(sweep).render()
    table = capsys.readouterr().out
    assert main(["sweep-report", str(sweep)]) == 0
    assert capsys.readouterr().out == table
    assert main(["sweep-report", f"dir={sweep}"]) == 0
    assert capsys.readouterr().out == table
    lines = table[: table.index("best first")].splitlines()[3:]
    order = [line.split()[0] for line in lines if line[:1].isdigit()]
    assert order == ["1", "0", "2", "4", "3"]
    for said in (
        "0.1235",
        "0.750",
        "-0.125",
        "best first by val/pearson, higher is better",
        "job 3 failed: no room, no rows",
        "Best: job 1: a.lr=0.2",
        f'predict ckpt={sweep}/1 text="…"',
        f"2 of 5 jobs not finished; the same command with hydra.sweep.dir={sweep} goes on",
    ):
        assert said in table, said


def test_a_sweep_ranked_by_test_scores_says_so(tmp_path, capsys):
    done(tmp_path / "0", ("seed=1",), (0.5,), metric="pearson")
    SweepTable.read(tmp_path).render()
    assert "on the TEST split, as there is no validation score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", "no such folder; give a sweep's, multirun/NAME/TIME"),
        (".", "is no sweep's folder: no job has left its job.json there"),
        (".", "the latest below it is "),
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


def test_report_needs_a_folder(capsys):
    assert main(["sweep-report"]) == 2
    assert "sweep-report needs dir=…" in capsys.readouterr().err


def test_keys_are_shortened_as_far_as_they_stay_apart():
    keys = ["seed", "stages.a.optimizer.lr", "stages.b.optimizer.lr", "data@stages.a.data"]
    assert sweep_table._short(keys) == ["seed", "a.optimizer.lr", "b.optimizer.lr", "data"]
    both = ["data@stages.a.data", "data@stages.b.data"]
    assert sweep_table._short(both) == both


def test_jobs_that_end_together_leave_a_whole_table(tmp_path):
    def end(number):
        done(tmp_path / str(number), (f"seed={number}",), (float(number),))
        sweep_table.write(tmp_path)

    threads = [threading.Thread(target=end, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["job"] for row in rows(tmp_path)] == [str(n) for n in reversed(range(8))]


def test_report_imports_neither_torch_nor_transformers(sweep):
    code = (
        "import sys; from lightning_transfer.cli import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'lightning', 'transformers', 'optuna'} & set(sys.modules); exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, "sweep-report", sweep], capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_a_log_gets_the_report_as_wide_as_it_is(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    SweepTable.read(sweep).render()
    table = capsys.readouterr().out
    table = table[: table.index("best first")]
    assert "…" not in table
    for whole in ("0.1235", "unfinished", "0.750", "-0.125", "[0.115, 1.385]", "not significant"):
        assert whole in table, whole
