"""Atomic writes, also under SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_transfer.utils.atomic_files import TEMP_PREFIX, atomic_path, atomic_write


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_text_and_bytes_are_written_into_a_new_folder(tmp_path):
    atomic_write(tmp_path / "new" / "a.txt", "naïve\r\n")
    atomic_write(tmp_path / "new" / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "naïve\r\n".encode()
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "new") == ["a.txt", "b.bin"]


def test_temp_file_is_beside_the_target_with_its_suffix(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    with atomic_path(tmp_path / "curve.png") as temp:
        assert temp.parent == tmp_path
        assert temp.name.startswith(TEMP_PREFIX)
        assert temp.suffix == ".png"
        temp.write_bytes(b"x")
    assert names(tmp_path) == ["curve.png"]


def test_an_error_keeps_the_old_file_and_removes_the_temp_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail():
        with atomic_path(target) as temp:
            temp.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_without_a_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with (
        pytest.raises(FileNotFoundError, match=r"nothing was written to .*; .*a\.txt is unchanged"),
        atomic_path(tmp_path / "a.txt"),
    ):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_as_target_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"cannot write a file at .*: it is a folder"):
        atomic_write(tmp_path, "x")


def test_a_file_name_of_245_characters_is_written(tmp_path):
    name = "x" * 240 + ".json"
    atomic_write(tmp_path / name, "{}")
    assert names(tmp_path) == [name]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_killed_process_leaves_a_complete_file(tmp_path):
    script = (
        "import sys\nfrom lightning_transfer.utils.atomic_files import atomic_write\n"
        "for i in range(10**9):\n"
        "    atomic_write(sys.argv[1], str(i % 10) * 200_000)\n"
        "    print(i, flush=True)"
    )
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a.txt")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.03)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        text = (tmp_path / "a.txt").read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1
