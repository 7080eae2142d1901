"""File locks: exclusive, shared, and released with the process."""

import os
import subprocess
import sys

import pytest

from lightning_transfer.utils.file_locks import lock_file, locked

HOLD = """
import sys, time
from lightning_transfer.utils.file_locks import lock_file
lock_file(sys.argv[1], shared=sys.argv[2] == "shared")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds a lock."""
    started = []

    def start(kind):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), kind]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("theirs", "shared", "is_free"),
    [
        ("exclusive", False, False),
        ("exclusive", True, False),
        ("shared", False, False),
        ("shared", True, True),
    ],
)
def test_only_shared_locks_are_held_at_the_same_time(hold, tmp_path, theirs, shared, is_free):
    hold(theirs)
    if is_free:
        os.close(lock_file(tmp_path / "lock", shared=shared, wait=False))
        return
    with pytest.raises(BlockingIOError):
        lock_file(tmp_path / "lock", shared=shared, wait=False)


def test_the_lock_of_a_dead_process_is_released(hold, tmp_path):
    process = hold("exclusive")
    process.kill()
    process.wait()
    os.close(lock_file(tmp_path / "lock", wait=False))


def test_on_wait_is_called_once_if_the_lock_is_held(hold, tmp_path):
    process, calls = hold("exclusive"), []

    def note():
        calls.append("waits")
        process.kill()

    with locked(tmp_path / "lock", on_wait=note):
        assert calls == ["waits"]
    with locked(tmp_path / "lock", on_wait=note):
        assert calls == ["waits"]


def test_a_failed_lock_leaves_no_open_descriptor(hold, tmp_path):
    hold("exclusive")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        lock_file(tmp_path / "lock", wait=False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_file_is_not_created_without_create(tmp_path):
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "lock", create=False)
    assert list(tmp_path.iterdir()) == []
