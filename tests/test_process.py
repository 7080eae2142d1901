import io
import os
import sys

import pytest

from lightning_transfer.process import (
    WithoutHydra,
    hydra_process,
    is_main_process,
    process,
    ranks_of_one_job,
)


def test_words_path_and_stream_are_put_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "a"])
    monkeypatch.setattr(sys, "path", ["/somewhere"])
    error = sys.stderr

    def fail():
        with process(["fit", "b=1"]):
            assert sys.argv == ["program", "fit", "b=1"]
            assert sys.path == [str(tmp_path), "/somewhere"]
            sys.stderr = io.StringIO()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sys.argv == ["program", "a"]
    assert sys.path == ["/somewhere"]
    assert sys.stderr is error


def test_working_directory_is_on_the_path_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path in (["", "x"], [str(tmp_path), "x"]):
        monkeypatch.setattr(sys, "path", path)
        with process([]):
            assert sys.path == path


@pytest.mark.parametrize("before", [None, "0"])
def test_hydra_raises_inside_only(monkeypatch, before):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    with hydra_process([]):
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert os.environ.get("HYDRA_FULL_ERROR") == before


def test_ranks_of_a_job_do_not_reach_the_next(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with ranks_of_one_job():
        os.environ.update(MASTER_PORT="2", LOCAL_RANK="0")
    assert os.environ["MASTER_PORT"] == "1"
    assert "LOCAL_RANK" not in os.environ


def test_only_hydras_own_line_is_left_out():
    below = io.StringIO()
    stream = WithoutHydra(below)
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
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main
