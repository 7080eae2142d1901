"""Process state of a command, and its restoration."""

import io
import os
import subprocess
import sys
import time

import pytest

from lightning_transfer.cli import process as process_module
from lightning_transfer.cli.process import (
    HydraErrorFilter,
    argv_and_path,
    hydra_full_error,
    hydra_process,
    is_main_process,
    isolated_job,
    launcher_worker,
)

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def test_argv_path_and_stderr_are_restored(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "a"])
    monkeypatch.setattr(sys, "path", ["/somewhere"])
    error = sys.stderr

    def fail():
        with argv_and_path(["fit", "b=1"]):
            assert sys.argv == ["program", "fit", "b=1"]
            assert sys.path == [str(tmp_path), "/somewhere"]
            sys.stderr = io.StringIO()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sys.argv == ["program", "a"]
    assert sys.path == ["/somewhere"]
    assert sys.stderr is error


def test_working_directory_is_not_added_twice(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path in (["", "x"], [str(tmp_path), "x"]):
        monkeypatch.setattr(sys, "path", path)
        with argv_and_path([]):
            assert sys.path == path


@pytest.mark.parametrize("before", [None, "0"])
def test_full_errors_of_hydra_end_with_the_block(monkeypatch, before):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    with hydra_process([]):
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert os.environ.get("HYDRA_FULL_ERROR") == before


def test_ranks_of_a_job_do_not_reach_the_next_job(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with isolated_job():
        os.environ.update(MASTER_PORT="2", LOCAL_RANK="0")
    assert os.environ["MASTER_PORT"] == "1"
    assert "LOCAL_RANK" not in os.environ


def test_environment_of_a_job_does_not_reach_the_next_job(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    before = dict(os.environ)

    def job():
        with isolated_job():
            del os.environ["KEPT"]
            os.environ.update(PL_GLOBAL_SEED="3", MASTER_ADDR="here")
            raise KeyError

    with pytest.raises(KeyError):
        job()
    assert os.environ == before


def test_failed_or_hanging_rank_ends_with_its_job_and_kills_no_other_process(monkeypatch):
    """Lightning's observer would kill the main process some seconds after a rank has failed."""
    launcher = pytest.importorskip("lightning.fabric.strategies.launchers.subprocess_script")
    monkeypatch.setattr(process_module, "RANK_TIMEOUT", 0.5)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    main = subprocess.Popen(sleep)  # in the role of this process
    with isolated_job():
        ranks = [
            subprocess.Popen(command)
            for command in ([sys.executable, "-c", "raise SystemExit(1)"], sleep)
        ]
        observer = launcher._ChildProcessObserver(main.pid, ranks, sleep_period=4)
        observer.start()
    assert [rank.returncode for rank in ranks] == [1, -9]
    until = time.monotonic() + 10
    while observer.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert not observer.is_alive()
    assert main.poll() is None
    main.kill()
    main.wait()


@pytest.mark.parametrize("verbose", [True, False])
def test_job_does_not_inherit_hydras_setting(monkeypatch, verbose):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with hydra_process([]):
        with hydra_full_error(verbose):
            assert os.environ.get("HYDRA_FULL_ERROR") == ("1" if verbose else None)
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_worker_process_starts_ranks_of_this_package():
    before = sys.modules["__main__"]
    with launcher_worker():
        import __main__

        assert __main__.__spec__.name == "lightning_transfer.__main__"
    assert sys.modules["__main__"] is before


@pytest.mark.parametrize(
    ("variables", "port"),
    [({}, None), ({"SLURM_PROCID": "0"}, "1"), ({"RANK": "0", "LOCAL_RANK": "0"}, "1")],
)
def test_worker_processes_share_the_port_of_another_launcher_only(monkeypatch, variables, port):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MASTER_PORT": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    with launcher_worker():
        assert os.environ.get("MASTER_PORT") == port
    assert os.environ["MASTER_PORT"] == "1"


def test_only_hydras_line_is_filtered():
    below = io.StringIO()
    stream = HydraErrorFilter(below)
    stream.write("Error executing job with overrides: ['a=1']\n")
    print("error: mine", file=stream, flush=True)
    assert below.getvalue() == "error: mine\n"
    assert stream.isatty() is False


@pytest.mark.parametrize(
    ("variables", "main"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # the first process of the second node
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_global_rank_0_is_the_main_process(monkeypatch, variables, main):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main
