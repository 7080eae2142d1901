"""A process killed while it saves leaves a loadable checkpoint; the next start cleans up."""

import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch

from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from lightning_transfer.experiments.run_folder import RunFolder
from tests.runs import unfinished_files

ROUNDS = 20
SHM = Path("/dev/shm")


def save_forever(folder, temp):
    """Save checkpoints of known content in a loop, for a child process."""
    os.environ["TMPDIR"] = str(temp)
    tempfile.tempdir = None
    torch.set_num_threads(1)
    writer = AtomicCheckpointIO()
    for step in range(10**9):
        state = {"step": step, "state_dict": {"weight": torch.full((300_000,), float(step))}}
        writer.save_checkpoint(state, folder / "last.ckpt")


def start(folder, temp):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child starts no thread
        child = os.fork()
    if child == 0:
        try:
            save_forever(folder, temp)
        finally:
            os._exit(1)
    return child


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def other_file_system():
    if not SHM.is_dir() or SHM.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("no tmpfs at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=SHM))
    yield folder
    shutil.rmtree(folder)


def test_newest_checkpoint_loads_after_a_kill_at_any_moment(tmp_path, other_file_system):
    clock = random.Random(0)
    config = {"name": "fit"}
    unfinished = 0
    for number in range(ROUNDS):
        folder = tmp_path / "run"
        with RunFolder.open(folder, config=config, resume=number > 0):
            pass
        assert unfinished_files(folder) == []  # those of the previous round are removed
        temp = other_file_system if number % 2 else tmp_path
        newest = folder / "last.ckpt"
        newest.unlink(missing_ok=True)
        child = start(folder, temp)
        wait_for(newest)
        time.sleep(clock.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        found = read_checkpoint(newest)
        assert torch.equal(
            found["state_dict"]["weight"], torch.full((300_000,), float(found["step"]))
        )
        unfinished += bool(unfinished_files(folder))
        assert not list(other_file_system.iterdir())
    assert unfinished  # else no kill interrupted a save, and nothing was tested
    with RunFolder.open(folder, config=config, resume=True):
        assert unfinished_files(folder) == []
