import json
import math

import pytest

from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.experiments.sweeps.job_records import JobRecord, Pruned

ONE = ("seed=1", "a.b=2")


def fail(folder, error, *, during=lambda: None):
    """Run a job that fails, and return what it raised and its record."""
    try:
        with job_records.recorded(folder, ONE, line=str):
            during()
            raise error
    except Exception as raised:
        return raised, job_records.read(folder)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = JobRecord(ONE, "done", "val/pearson", "max", (0.25, math.nan), 3.5)
    job_records.write(tmp_path, record)
    found = job_records.read(tmp_path)
    assert found.values[0] == 0.25
    assert math.isnan(found.values[1])
    assert (found.overrides, found.status, found.seconds) == (ONE, "done", 3.5)
    assert found.finished
    assert found.rank == -math.inf  # a mean with NaN is no score
    assert job_records.read(tmp_path / "nowhere") is None


def test_another_file_of_that_name_is_told(tmp_path):
    (tmp_path / job_records.RECORD).write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"job\.json is not the record of a sweep's job"):
        job_records.read(tmp_path)
    with pytest.raises(ValueError, match="one of done, pruned, unfinished, failed, got 'over'"):
        JobRecord(ONE, "over")


def test_lower_is_better_where_the_mode_says_so():
    assert JobRecord((), "done", "val/loss", "min", (2.0,)).rank == -2.0
    assert JobRecord((), "done", "val/r2", "max", (2.0,)).rank == 2.0


def test_a_job_is_known_by_what_its_result_depends_on():
    one = job_records.identity(["seed=1", "lr=2", "sweep=grid", "++resume=true", "logger.csv=true"])
    assert one == job_records.identity(["lr=2", "seed=1", "hydra.sweeper.trial=3", "sweep=optuna"])
    assert one != job_records.identity(["lr=2", "seed=2"])


def test_what_becomes_of_a_job_is_in_its_folder(tmp_path):
    with job_records.recorded(tmp_path, ONE, line=str):
        assert job_records.read(tmp_path) == JobRecord(ONE)
        job_records.update(tmp_path, status="done", values=(1.0,))
    assert job_records.read(tmp_path).status == "done"
    assert job_records.read(tmp_path).seconds > 0


def test_a_failed_job_keeps_its_error_and_its_time_adds_up(tmp_path):
    error = KeyError("x")
    raised, record = fail(tmp_path, error)
    assert raised is error
    assert (record.status, record.error) == ("failed", "'x'")
    _, again = fail(tmp_path, error)
    assert again.seconds > record.seconds


def test_a_job_that_was_stopped_is_unfinished(tmp_path):
    with pytest.raises(KeyboardInterrupt), job_records.recorded(tmp_path, ONE, line=str):
        raise KeyboardInterrupt
    assert job_records.read(tmp_path).status == "unfinished"


def test_a_finished_job_stays_so_whatever_happens_later(tmp_path):
    done = JobRecord(ONE, "done", "val/r2", "max", (0.5,), 7.0)
    job_records.write(tmp_path, done)
    _, record = fail(tmp_path, ValueError("cannot be resumed with another config"))
    assert record == done


def test_a_job_that_another_process_runs_is_left_to_it(tmp_path):
    _, record = fail(tmp_path, BlockingIOError("another run is going on"))
    assert record.status == "unfinished"


def test_a_pruned_job_is_no_failed_one_whatever_its_ranks_raise(tmp_path):
    raised, record = fail(
        tmp_path,
        RuntimeError("a rank ended"),
        during=lambda: job_records.update(tmp_path, status="pruned", values=(0.1,)),
    )
    assert isinstance(raised, Pruned)
    assert (record.status, record.values, record.error) == ("pruned", (0.1,), None)


def test_jobs_are_found_in_their_order_and_those_of_other_sweeps_are_not(tmp_path):
    for name in ("10", "9", "named/x=1", "other/0"):
        job_records.write(tmp_path / name, JobRecord((f"seed={name}",)))
    (tmp_path / "other" / job_records.MULTIRUN).write_text("")
    (tmp_path / "9" / "stages").mkdir()
    job_records.write(tmp_path / "9" / "stages", JobRecord(()))  # part of a job
    assert [job.name for job in job_records.find(tmp_path)] == ["9", "10", "named/x=1"]


def test_a_failed_job_can_be_sent_between_processes():
    import pickle

    failed = pickle.loads(pickle.dumps(job_records.JobFailed("no such file", 2)))
    assert (str(failed.args[0]), failed.code) == ("no such file", 2)


def test_the_file_is_plain_json(tmp_path):
    job_records.write(tmp_path, JobRecord(ONE, "done", values=(math.nan,)))
    assert json.loads((tmp_path / job_records.RECORD).read_text())["values"] == [None]
