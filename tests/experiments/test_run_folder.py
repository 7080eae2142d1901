"""Run folder: lock, config, resume, and the removal of unfinished files."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_transfer.experiments import run_folder
from lightning_transfer.experiments.run_folder import RunFolder, probe, read_config

CONFIG = {
    "name": "fit",
    "resume": False,
    "logger": {"csv": True},
    "trainer": {"devices": 1, "enable_progress_bar": None},
    "stages": {"target": {"epochs": 3, "lr": 1e-5, "trainer": {}}},
    "order": ["source", "target"],
}

# A process that locks a folder; with "fork", its forked child outlives it.
HOLDER = r"""
import os, sys, time
from lightning_transfer.experiments.run_folder import RunFolder
run = RunFolder.open(sys.argv[1], config={"name": "fit"}, resume=True)
if "fork" in sys.argv:
    child = os.fork()
    if child == 0:
        os.write(1, b"child\n")
        time.sleep(60)
        os._exit(0)
os.write(1, f"ready {child if 'fork' in sys.argv else ''}\n".encode())
time.sleep(60)
"""


def changed(**stage):
    config = {**CONFIG, "stages": {"target": {**CONFIG["stages"]["target"], **stage}}}
    return {**config, "resume": True}


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process with the lock of the folder."""
    started = []

    def start(*arguments):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "run"), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        lines = [child.stdout.readline() for _ in range(2 if arguments else 1)]
        return child, " ".join(line for line in lines if "ready" in line).split()[1:]

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_new_folder_gets_the_plain_config(tmp_path):
    with RunFolder.open(tmp_path / "a" / "run", config=CONFIG, resume=False) as run:
        assert run.path == tmp_path / "a" / "run"
        assert run.resumed is False
        text = (run.path / "config.yaml").read_text()
    assert text.startswith("# A run of lightning_transfer")
    assert yaml.safe_load(text) == CONFIG
    assert list(yaml.safe_load(text)) == list(CONFIG)


def test_paths_and_tuples_become_plain(tmp_path):
    config = {"path": Path("a/b"), "betas": (0.9, 0.999)}
    RunFolder.open(tmp_path, config=config, resume=False).close()
    assert read_config(tmp_path) == {"path": "a/b", "betas": [0.9, 0.999]}


def test_a_value_without_yaml_form_is_an_error_with_its_key(tmp_path):
    with pytest.raises(
        ValueError, match=r"config value a\.b\[1\] must be a mapping, .*, got object"
    ):
        RunFolder.open(tmp_path / "run", config={"a": {"b": [1, object()]}}, resume=False)
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_a_folder_is_an_error_and_changes_nothing(tmp_path):
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(
        ValueError, match=r"already contains a run; add resume=true to resume it, or"
    ):
        RunFolder.open(tmp_path, config={"name": "other"}, resume=False)
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_the_config_of_another_program_is_never_overwritten(tmp_path, resume):
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    (tmp_path / ".tmp-mine").write_text("mine")
    with pytest.raises(
        ValueError, match=r"config\.yaml was not written by lightning_transfer and would"
    ):
        RunFolder.open(tmp_path, config=CONFIG, resume=resume)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".tmp-mine", "config.yaml"]


def test_resume_with_the_same_config_is_allowed(tmp_path):
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    with RunFolder.open(tmp_path, config=changed(), resume=True) as run:
        assert run.resumed is True


def test_resume_may_change_keys_without_effect_on_results(tmp_path):
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    config = changed(trainer={"enable_progress_bar": False})
    config["logger"] = {"csv": True, "wandb": {"offline": True}}
    config["trainer"] = {"devices": 1, "enable_progress_bar": False}
    RunFolder.open(tmp_path, config=config, resume=True).close()
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(epochs=5), "stages.target.epochs: 3 in the folder, 5 now"),
        (changed(lr=1e-4), "stages.target.lr: 1e-05 in the folder, 0.0001 now"),
        (changed(new=1), "stages.target.new: absent in the folder, 1 now"),
        (
            {**changed(), "order": ["target"]},
            r'order: \["source", "target"\] in .*, \["target"\] now',
        ),
        (
            {**changed(), "trainer": {"devices": 2, "enable_progress_bar": None}},
            "trainer.devices: 1 in the folder, 2 now",
        ),
    ],
)
def test_resume_with_another_config_names_the_keys_and_both_values(tmp_path, config, message):
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    with pytest.raises(ValueError, match=message):
        RunFolder.open(tmp_path, config=config, resume=True)
    assert read_config(tmp_path) == CONFIG


def test_a_long_list_of_differences_is_shortened(tmp_path):
    RunFolder.open(tmp_path, config={f"k{i}": 0 for i in range(15)}, resume=False).close()
    with pytest.raises(ValueError, match=r"k4: 0 in the folder, 1 now") as error:
        RunFolder.open(tmp_path, config={f"k{i}": 1 for i in range(15)}, resume=True)
    assert "and 5 more" in str(error.value)


def test_nan_equals_itself_in_configs(tmp_path):
    RunFolder.open(tmp_path, config={"x": float("nan")}, resume=False).close()
    RunFolder.open(tmp_path, config={"x": float("nan")}, resume=True).close()


def test_resume_in_an_empty_folder_starts_from_the_beginning(tmp_path, caplog):
    with caplog.at_level(logging.INFO), RunFolder.open(tmp_path, config={}, resume=True) as run:
        assert run.resumed is False
    assert [record.getMessage() for record in caplog.records] == [
        f"resume=true: no run in {tmp_path} yet; starting from the beginning"
    ]


def test_ranks_above_zero_write_nothing(tmp_path):
    with RunFolder.open(tmp_path / "run", config=CONFIG, resume=False):
        before = sorted((tmp_path / "run").iterdir())
        rank1 = RunFolder.open(tmp_path / "run", config={"other": 1}, resume=False, rank=1)
        assert rank1.path == tmp_path / "run"
        assert sorted((tmp_path / "run").iterdir()) == before
    RunFolder.open(tmp_path / "absent", config=CONFIG, resume=False, rank=1).close()
    assert not (tmp_path / "absent").exists()


def test_the_error_of_a_locked_folder_names_the_process(tmp_path, holder):
    child, _ = holder()
    with pytest.raises(BlockingIOError, match=rf"another run is using .*process {child.pid} on"):
        RunFolder.open(tmp_path / "run", config={"name": "fit"}, resume=True)


def test_the_lock_is_released_if_its_process_is_killed(tmp_path, holder):
    child, _ = holder()
    child.send_signal(signal.SIGKILL)
    child.wait()
    RunFolder.open(tmp_path / "run", config={"name": "fit"}, resume=True).close()


def test_a_forked_worker_of_a_killed_run_does_not_keep_the_lock(tmp_path, holder):
    child, (worker,) = holder("fork")
    try:
        child.send_signal(signal.SIGKILL)
        child.wait()
        RunFolder.open(tmp_path / "run", config={"name": "fit"}, resume=True).close()
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_the_folder_can_be_opened_again_after_close(tmp_path):
    run = RunFolder.open(tmp_path, config={}, resume=True)
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        RunFolder.open(tmp_path, config={}, resume=True)
    run.close()
    run.close()
    RunFolder.open(tmp_path, config={}, resume=True).close()


def test_a_failed_open_releases_the_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "_write", fail)
        with pytest.raises(OSError, match="disk full"):
            RunFolder.open(tmp_path, config=CONFIG, resume=False)
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(run_folder.errno.ENOTSUP, "not supported")

    monkeypatch.setattr("lightning_transfer.utils.file_locks.fcntl.flock", fail)
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    assert "is on a file system without locks" in caplog.text


def test_probe_raises_the_same_errors_and_changes_nothing(tmp_path):
    probe(tmp_path / "absent", config=CONFIG, resume=False)
    assert not (tmp_path / "absent").exists()
    with RunFolder.open(tmp_path, config=CONFIG, resume=False):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(ValueError, match="already contains a run"):
            probe(tmp_path, config=CONFIG, resume=False)
        with pytest.raises(ValueError, match=r"stages\.target\.epochs: 3 in the folder, 5 now"):
            probe(tmp_path, config=changed(epochs=5), resume=True)
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
            probe(tmp_path, config=changed(), resume=True)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    probe(tmp_path, config=changed(), resume=True)
    RunFolder.open(tmp_path, config=changed(), resume=True).close()


def test_unfinished_files_of_a_run_are_removed_at_any_depth(tmp_path):
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / ".tmp-12-last.ckpt").write_text("x")
    (deep / "last.ckpt").write_text("x")
    (tmp_path / ".tmp-folder" / "c").mkdir(parents=True)
    (tmp_path / ".tmp-link").symlink_to(outside)
    RunFolder.open(tmp_path, config=changed(), resume=True).close()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        ".lock",
        "a",
        "a/b",
        "a/b/last.ckpt",
        "config.yaml",
    ]
    assert (outside / "kept").exists()


def test_only_an_unfinished_config_is_removed_from_a_folder_without_a_run(tmp_path):
    (tmp_path / ".tmp-0a1b-config.yaml").write_text("killed at the start")
    (tmp_path / ".tmp-theirs").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".tmp-1-config.yaml").write_text("x")
    RunFolder.open(tmp_path, config=CONFIG, resume=False).close()
    assert not (tmp_path / ".tmp-0a1b-config.yaml").exists()
    assert (tmp_path / ".tmp-theirs").exists()
    assert (tmp_path / "sub" / ".tmp-1-config.yaml").exists()


def _try_to_open(folder, start, results):
    start.wait()
    try:
        RunFolder.open(folder, config=CONFIG, resume=False)
        results.put("opened")
    except (ValueError, BlockingIOError):
        results.put("refused")
    start.wait()


def test_only_one_of_several_simultaneous_runs_gets_the_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    children = [
        context.Process(target=_try_to_open, args=(tmp_path / "run", start, results))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    found = sorted(results.get(timeout=30) for _ in children)
    for child in children:
        child.join()
    assert found == ["opened", "refused", "refused", "refused"]
