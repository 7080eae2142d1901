"""Settings of glibc's allocator, measured in separate processes."""

import ctypes
import subprocess
import sys

import pytest

from lightning_transfer.backbones.cpu import keep_freed_memory, release_freed_memory

FAULTS = """
import resource, torch
from lightning_transfer.backbones.cpu import keep_freed_memory
kept = keep_freed_memory() if {keep} else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(12_000_000)  # 48 MB: an embedding table's gradient
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, sorted(faults() for _ in range(5))[2])  # median: the heap grows in the first runs
"""


def measured(keep):
    code = FAULTS.format(keep=keep)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = out.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_memory_of_freed_tensors_can_be_released():
    if getattr(ctypes.CDLL(None), "gnu_get_libc_version", None) is None:
        pytest.skip("needs glibc")
    code = """
import torch
from lightning_transfer.backbones.cpu import keep_freed_memory, release_freed_memory
def resident():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024
keep_freed_memory()
torch.zeros(80_000_000)  # 320 MB
kept = resident()
print(release_freed_memory(), kept - resident())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    released, less = out.stdout.split()
    assert released == "True"
    assert int(less) > 250


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_a_large_freed_block_is_not_mapped_again():
    if getattr(ctypes.CDLL(None), "gnu_get_libc_version", None) is None:
        pytest.skip("needs glibc")
    kept, faults = measured(True)
    _, without = measured(False)
    assert kept
    assert faults < without / 20


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_return_false(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    assert keep_freed_memory() is False
    assert release_freed_memory() is False


def test_a_c_library_without_mallopt_returns_false(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    ("answers", "options", "expected"),
    [((1, 1), [-3, -1], True), ((0, 1, 1), [-3, -4, -1], True), ((0, 0), [-3, -4], False)],
)
def test_a_refused_threshold_is_replaced_by_a_maximum_of_zero_blocks(
    answers, options, expected, monkeypatch
):
    called, left = [], list(answers)

    class Library:
        @staticmethod
        def mallopt(option, value):
            called.append(option)
            return left.pop(0)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    assert keep_freed_memory() is expected
    assert called == options
