"""Activation stores: exact reads, incomplete rows and eviction."""

import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from lightning_transfer.callbacks.activation_cache import ActivationStore, StoreFolder
from lightning_transfer.callbacks.activation_cache.activation_store import SUMS, VALUES

STARTS = np.array([0, 3, 4, 9], dtype=np.int64)
ROWS = np.arange(3)


def states(*, hidden=4, dtype=torch.float32):
    return torch.randn(3, 6, hidden, generator=torch.Generator().manual_seed(0)).to(dtype)


def open_store(folder, **changes):
    return ActivationStore(folder, STARTS, **{"hidden_size": 4, **changes})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_states_are_read_exactly_and_zero_after_the_end_of_a_row(tmp_path, dtype):
    written = states(dtype=dtype)
    open_store(tmp_path / "s", dtype=dtype).write(ROWS, written)
    store = open_store(tmp_path / "s", dtype=dtype)  # opened again, as by another process
    assert store.holds(ROWS).all()
    read = store.read(np.array([2, 0]), width=7)
    assert read.dtype == dtype
    assert read.shape == (2, 7, 4)
    assert torch.equal(read[0, :5], written[2, :5])
    assert torch.equal(read[1, :3], written[0, :3])
    assert not read[0, 5:].any()
    assert not read[1, 3:].any()


def test_a_row_not_written_is_not_stored_and_is_read_as_zeros(tmp_path):
    store = open_store(tmp_path / "s")
    store.write(np.array([1]), states()[1:2])
    assert store.holds(ROWS).tolist() == [False, True, False]
    assert not store.read(np.array([0]), width=3).any()
    assert store.count() == 1


def test_a_row_corrupted_on_disk_is_not_stored(tmp_path):
    store = open_store(tmp_path / "s")
    store.write(ROWS, states())
    store.close()
    with (tmp_path / "s" / VALUES).open("r+b") as file:
        file.seek(int(STARTS[2]) * 16 + 5)
        file.write(b"\x99")
    again = open_store(tmp_path / "s")
    assert again.holds(ROWS).tolist() == [True, True, False]
    assert not again.read(np.array([2]), width=5).any()
    again.write(np.array([2]), states()[2:])
    assert again.holds(ROWS).all()


def test_two_open_stores_see_the_rows_of_each_other(tmp_path):
    one, other = open_store(tmp_path / "s"), open_store(tmp_path / "s")
    one.write(np.array([0]), states()[:1])
    assert other.holds(ROWS).tolist() == [True, False, False]
    assert torch.equal(other.read(np.array([0]), width=3), one.read(np.array([0]), width=3))


def test_rows_never_written_use_no_disk_space(tmp_path):
    starts = np.array([0, 10**6, 10**6 + 1])
    store = ActivationStore(tmp_path / "s", starts, hidden_size=384)
    store.write(np.array([1]), torch.ones(1, 1, 384))
    assert (tmp_path / "s" / VALUES).stat().st_size == (10**6 + 1) * 384 * 4
    assert (tmp_path / "s" / VALUES).stat().st_blocks * 512 < 10**5


def test_a_full_disk_is_an_error_and_the_row_is_not_stored(tmp_path):
    store = open_store(tmp_path / "s")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(STARTS[1]) * 16 + 8, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            store.write(ROWS, states())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.holds(ROWS).tolist() == [True, False, False]


def test_a_process_killed_while_writing_leaves_valid_rows_only(tmp_path):
    code = f"""
        import sys, numpy as np, torch
        from pathlib import Path
        from lightning_transfer.callbacks.activation_cache import ActivationStore
        starts = np.arange(0, 400_001, 100)
        store = ActivationStore(Path({str(tmp_path / "s")!r}), starts, hidden_size=16)
        print("ready", flush=True)
        for row in range(4000):
            store.write(np.array([row]), torch.full((1, 100, 16), float(row + 1)))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    while os.path.getsize(tmp_path / "s" / SUMS) and not (tmp_path / "s" / SUMS).read_bytes()[199]:
        pass
    child.kill()
    child.communicate()
    starts = np.arange(0, 400_001, 100)
    store = ActivationStore(tmp_path / "s", starts, hidden_size=16)
    held = np.flatnonzero(store.holds(np.arange(4000)))
    assert len(held) >= 49
    read = store.read(held, width=100)
    assert torch.equal(read, torch.tensor(held + 1.0)[:, None, None].expand_as(read).float())


def test_the_least_recently_opened_store_is_evicted_but_never_one_in_use(tmp_path):
    folder = StoreFolder(tmp_path, limit=100_000)
    starts = np.array([0, 5000])

    def fill(key, when):
        store = folder.open(key, starts, hidden_size=2, dtype=torch.float32)
        store.write(np.array([0]), torch.ones(1, 5000, 2))
        os.utime(tmp_path / key / "about.json", (when, when))
        return store

    used = fill("oldest", 1)
    fill("old", 2).close()
    assert folder.make_space(10_000)
    assert folder.holds("old")
    assert folder.make_space(40_000)
    assert not folder.holds("old")
    assert folder.holds("oldest")
    assert not folder.make_space(80_000)
    assert torch.equal(used.read(np.array([0]), width=5000), torch.ones(1, 5000, 2))
    used.close()
    assert folder.make_space(80_000)
    assert not folder.holds("oldest")


def test_an_evicted_store_can_be_created_again(tmp_path):
    folder = StoreFolder(tmp_path, limit=1000)
    first = folder.open("a", STARTS, hidden_size=4, dtype=torch.float32)
    first.write(ROWS, states())
    first.close()
    folder._evict()
    assert not folder.holds("a")
    assert not folder.open("a", STARTS, hidden_size=4, dtype=torch.float32).holds(ROWS).any()


def test_a_limit_below_one_byte_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit must be an integer >= 1 \\(bytes\\), got 0"):
        StoreFolder(tmp_path, limit=0)
