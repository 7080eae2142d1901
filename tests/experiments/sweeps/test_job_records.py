"""Job records: files, statuses, and the identity of a job."""

import json
import math
import pickle

import pytest

from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.experiments.sweeps.job_records import JobRecord, Pruned

ONE = ("seed=1", "a.b=2")


def fail(folder, error, *, during=lambda: None):
    """Run a failing job; return the raised error and the record."""
    try:
        with job_records.recorded(folder, ONE, error_line=str):
            during()
            raise error
    except Exception as raised:
        return raised, job_records.read(folder)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = JobRecord(ONE, "done", "val/pearson", "max", (0.25, math.nan), 3.5)
    job_records.write(tmp_path, record)
    found = job_records.read(tmp_path)
    assert found.values[0] == 0.25
    assert math.isnan(found.values[1])
    assert (found.overrides, found.status, found.seconds) == (ONE, "done", 3.5)
    assert found.finished
    assert found.rank == -math.inf  # the mean is NaN
    assert job_records.read(tmp_path / "nowhere") is None


def test_a_file_that_is_no_record_is_an_error(tmp_path):
    (tmp_path / job_records.RECORD).write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"job\.json is not the record of a sweep's job"):
        job_records.read(tmp_path)
    with pytest.raises(ValueError, match="one of done, pruned, unfinished, failed, got 'over'"):
        JobRecord(ONE, "over")


def test_the_rank_is_negated_in_mode_min():
    assert JobRecord((), "done", "val/loss", "min", (2.0,)).rank == -2.0
    assert JobRecord((), "done", "val/r2", "max", (2.0,)).rank == 2.0


def test_a_job_is_identified_by_the_overrides_of_its_result():
    one = job_records.identity(["seed=1", "lr=2", "sweep=grid", "++resume=true", "logger.csv=true"])
    assert one == job_records.identity(["lr=2", "seed=1", "hydra.sweeper.trial=3", "sweep=optuna"])
    assert one != job_records.identity(["lr=2", "seed=2"])


def test_the_record_of_a_job_is_updated(tmp_path):
    with job_records.recorded(tmp_path, ONE, error_line=str):
        assert job_records.read(tmp_path) == JobRecord(ONE)
        job_records.update(tmp_path, status="done", values=(1.0,))
    assert job_records.read(tmp_path).status == "done"
    assert job_records.read(tmp_path).seconds > 0


def test_a_failed_job_records_its_error_and_adds_up_its_time(tmp_path):
    error = KeyError("x")
    raised, record = fail(tmp_path, error)
    assert raised is error
    assert (record.status, record.error) == ("failed", "'x'")
    _, again = fail(tmp_path, error)
    assert again.seconds > record.seconds


def test_an_interrupted_job_is_unfinished(tmp_path):
    with pytest.raises(KeyboardInterrupt), job_records.recorded(tmp_path, ONE, error_line=str):
        raise KeyboardInterrupt
    assert job_records.read(tmp_path).status == "unfinished"


def test_the_record_of_a_finished_job_does_not_change(tmp_path):
    done = JobRecord(ONE, "done", "val/r2", "max", (0.5,), 7.0)
    job_records.write(tmp_path, done)
    _, record = fail(tmp_path, ValueError("cannot be resumed with another config"))
    assert record == done


def test_a_job_of_another_process_keeps_its_record(tmp_path):
    _, record = fail(tmp_path, BlockingIOError("another run is using the folder"))
    assert record.status == "unfinished"


def test_a_pruned_job_is_not_failed_by_the_errors_of_its_ranks(tmp_path):
    raised, record = fail(
        tmp_path,
        RuntimeError("a rank ended"),
        during=lambda: job_records.update(tmp_path, status="pruned", values=(0.1,)),
    )
    assert isinstance(raised, Pruned)
    assert (record.status, record.values, record.error) == ("pruned", (0.1,), None)


def test_the_jobs_of_a_sweep_are_found_in_their_order(tmp_path):
    for name in ("10", "9", "named/x=1", "other/0"):
        job_records.write(tmp_path / name, JobRecord((f"seed={name}",)))
    (tmp_path / "other" / job_records.MULTIRUN).write_text("")
    (tmp_path / "9" / "stages").mkdir()
    job_records.write(tmp_path / "9" / "stages", JobRecord(()))  # below a job
    assert [job.name for job in job_records.find(tmp_path)] == ["9", "10", "named/x=1"]


def test_job_failed_can_be_pickled():
    failed = pickle.loads(pickle.dumps(job_records.JobFailed("no such file", 2)))
    assert (str(failed.args[0]), failed.code) == ("no such file", 2)


def test_nan_is_null_in_the_file(tmp_path):
    job_records.write(tmp_path, JobRecord(ONE, "done", values=(math.nan,)))
    assert json.loads((tmp_path / job_records.RECORD).read_text())["values"] == [None]
