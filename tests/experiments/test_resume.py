"""A run interrupted at any point and resumed equals the uninterrupted run."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli import main
from lightning_transfer.experiments import experiment, fitting, stage_runner
from lightning_transfer.experiments.run_folder import RunFolder, read_config
from tests.runs import (
    Stop,
    Watch,
    results,
    stage,
    transfer,
    unfinished_files,
    weights,
    without_seconds,
)

pytestmark = pytest.mark.jobs

SOURCE, TARGET, ALONE = "source-seed0", "source-seed0/target-seed0", "target-seed0"
# Four batches per epoch, two epochs per stage; dropout draws random numbers in every step.
OPTIONS = (
    "resume_every=3",
    "+baselines={no_source: {order: [target]}}",
    "comparison.baseline=no_source",
)


def overrides(runs):
    return [*transfer(runs.news, runs.movies, *OPTIONS, baselines=False)]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """Folder of the uninterrupted run, and the losses of its steps."""
    folder = tmp_path_factory.mktemp("whole")
    Watch.reset()
    runs.fit(folder, *overrides(runs))
    return folder, list(Watch.losses)


def curve(folder, name):
    with (Path(folder) / "stages" / name / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other, names=(SOURCE, TARGET, ALONE)):
    assert without_seconds(results(one)) == without_seconds(results(other))
    for name in names:
        stage_one, stage_other = (Path(folder) / "stages" / name for folder in (one, other))
        assert curve(one, name) == curve(other, name)
        final, expected = (weights(folder / "final.ckpt") for folder in (stage_one, stage_other))
        assert final.keys() == expected.keys()
        assert all(torch.equal(final[key], expected[key]) for key in final)
        fits = [
            json.loads((folder / "fit.json").read_text()) for folder in (stage_one, stage_other)
        ]
        assert {**fits[0], "seconds": 0} == {**fits[1], "seconds": 0}
        assert sorted(p.name for p in stage_one.iterdir() if p.is_file()) == sorted(
            p.name for p in stage_other.iterdir() if p.is_file()
        )
    model = [(Path(folder) / "model/model.safetensors").read_bytes() for folder in (one, other)]
    assert model[0] == model[1]


def interrupt(runs, folder, *, stop=None, error=Stop, resume=True):
    Watch.stop, Watch.error = stop, error
    with pytest.raises(error):
        runs.fit(folder, *overrides(runs), resume=resume)
    Watch.stop = None


CHAINS = [
    pytest.param(
        [
            (SOURCE, "batch", 1),  # before the first resume point
            (SOURCE, "batch", 5),
            (SOURCE, "batch", 6),
            (TARGET, "batch", 2),
            (TARGET, "batch", 7),
        ],
        id="in mid-epoch",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        [
            (SOURCE, "validation", 4),
            (SOURCE, "epoch", 4),
            (SOURCE, "validation", 8),
            (SOURCE, "end", 8),
            (TARGET, "epoch", 0),
            (TARGET, "validation", 8),
        ],
        id="between epochs",
    ),
]


@pytest.mark.parametrize("stops", CHAINS)
def test_a_run_interrupted_several_times_equals_the_uninterrupted_run(runs, whole, tmp_path, stops):
    for stop in stops:
        interrupt(runs, tmp_path, stop=stop)
    runs.fit(tmp_path, *overrides(runs), resume=True)
    assert_same_run(tmp_path, whole[0])


def failing(function, when):
    """Wrap a function so that its first call selected by ``when`` fails."""
    fired = []

    def wrapped(*args, **kwargs):
        if not fired and when(*args, **kwargs):
            fired.append(1)
            raise Stop
        return function(*args, **kwargs)

    return wrapped


BETWEEN = (
    (fitting, "merge_logs", lambda *_: True),  # both final.ckpt and the resume point exist
    (stage_runner, "atomic_write", lambda path, _: str(path).endswith(f"{SOURCE}/fit.json")),
    (stage_runner, "score", lambda *_, **__: True),  # trained, not tested
    (stage_runner, "atomic_write", lambda path, _: str(path).endswith("test-target.json")),
    (stage_runner, "atomic_write", lambda path, _: str(path).endswith(f"{TARGET}/fit.json")),
    (experiment, "plot_training_curves", lambda *_, **__: True),
    (experiment, "export", lambda *_, **__: True),  # results and plots are written
)


def test_a_run_interrupted_outside_training_ends_with_equal_results(
    runs, whole, tmp_path, monkeypatch
):
    for module, name, when in BETWEEN:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing(getattr(module, name), when))
            interrupt(runs, tmp_path)
        assert not (tmp_path / "learning_curves.png").exists()
        assert unfinished_files(tmp_path) == []
    runs.fit(tmp_path, *overrides(runs), resume=True, curves=True)
    assert_same_run(tmp_path, whole[0])
    assert (tmp_path / "learning_curves.png").exists()
    assert len(Watch.losses) == len(whole[1])  # no step was taken twice


ODD = {
    "accumulated batches": (["+trainer.accumulate_grad_batches=3"], 1e-2, ("batch", 2)),
    "validation in mid-epoch": (["+trainer.val_check_interval=3"], 1e-2, ("batch", 3)),
    "stopped early": (["patience=1"], 0.0, ("end", 8)),
    "out of steps in mid-epoch": (["+trainer.max_steps=7"], 1e-2, ("end", 7)),
    "last weights": (["keep=last"], 1e-2, ("validation", 8)),
}


@pytest.mark.parametrize("options, lr, stop", ODD.values(), ids=ODD)  # noqa: PT006
def test_resume_is_exact_with_other_trainer_arguments(runs, tmp_path, options, lr, stop):
    one, other = tmp_path / "whole", tmp_path / "resumed"
    own = [*stage("target", runs.movies, *options, epochs=3, lr=lr), "resume_every=1"]
    runs.fit(one, *own)
    Watch.stop = (ALONE, *stop)
    with pytest.raises(Stop):
        runs.fit(other, *own)
    Watch.stop = None
    runs.fit(other, *own, resume=True)
    assert_same_run(one, other, names=[ALONE])


def test_a_resumed_run_takes_the_missing_steps_only(runs, whole, tmp_path):
    interrupt(runs, tmp_path, stop=(SOURCE, "batch", 6))
    assert whole[1][:6] == Watch.losses
    Watch.reset()
    runs.fit(tmp_path, *overrides(runs), resume=True)
    assert whole[1][4:] == Watch.losses  # from the resume point at the end of the epoch


def test_files_of_finished_stages_do_not_change(runs, whole, tmp_path):
    interrupt(runs, tmp_path, stop=(TARGET, "batch", 3))
    done = [p for name in (SOURCE, ALONE) for p in (tmp_path / "stages" / name).glob("*.*")]
    before = {p: p.stat().st_mtime_ns for p in done if p.is_file()}
    assert {p.name for p in before} >= {"final.ckpt", "fit.json", "metrics.csv"}
    Watch.reset()
    runs.fit(tmp_path, *overrides(runs), resume=True)
    assert Watch.titles() == [TARGET]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_resumed_finished_run_takes_no_step(runs, tmp_path):
    config = stage("target", runs.movies, epochs=1)
    found = runs.fit(tmp_path, *config)
    Watch.reset()
    assert runs.fit(tmp_path, *config, resume=True) == found  # seconds too
    assert Watch.started == []


def command(runs, folder, *more):
    return ["fit", *runs.overrides, *overrides(runs), f"hydra.run.dir={folder}", *more]


def short(runs, folder, *more):
    """Return the command line of one stage of one epoch."""
    own = stage("target", runs.movies, epochs=1)
    return ["fit", *runs.overrides, *own, f"hydra.run.dir={folder}", *more]


@pytest.fixture
def cache(runs, monkeypatch):
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_an_interrupted_run_writes_its_finished_rows_and_can_be_resumed(
    runs, whole, tmp_path, capsys, error, code
):
    folder = tmp_path / "run"
    Watch.stop, Watch.error = (TARGET, "batch", 6), error
    assert main(command(runs, folder)) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "resume=true" in error
    partial = results(folder)
    assert [row["name"] for row in partial["rows"]] == ["source", "no_source"]
    assert partial["missing"] == ["transfer"]
    assert partial["comparison"] is None
    assert unfinished_files(folder) == []
    Watch.reset()
    assert main(command(runs, folder, "resume=true")) == 0
    assert_same_run(folder, whole[0])


@pytest.mark.usefixtures("cache")
def test_a_run_in_the_folder_of_a_finished_run_is_an_error(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(short(runs, folder)) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}
    capsys.readouterr()
    assert main(short(runs, folder)) > 0
    error = capsys.readouterr().err
    assert "already contains a run" in error
    assert "resume=true" in error
    assert "Traceback" not in error
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}
    assert after == before


@pytest.mark.usefixtures("cache")
def test_a_second_run_in_a_locked_folder_is_an_error(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    Watch.stop = ("target-seed0", "batch", 2)
    assert main(short(runs, folder)) == 1
    Watch.reset()
    capsys.readouterr()
    with RunFolder.open(folder, config=read_config(folder), resume=True):
        assert main(short(runs, folder, "resume=true")) > 0
    error = capsys.readouterr().err
    assert "another run is using" in error
    assert "Traceback" not in error
    assert Watch.started == []


@pytest.mark.usefixtures("cache")
def test_resume_with_another_config_is_an_error(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    Watch.stop = ("target-seed0", "batch", 2)
    assert main(short(runs, folder)) > 0
    Watch.stop = None
    capsys.readouterr()
    assert main(short(runs, folder, "resume=true", "stages.target.epochs=4")) > 0
    error = capsys.readouterr().err
    assert "stages.target.epochs: 1 in the folder, 4 now" in error
    assert main(short(runs, folder, "resume=true", "resume_every=2")) == 0


@pytest.mark.usefixtures("cache")
def test_a_failed_dry_run_leaves_the_folder_free(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(short(runs, folder, "stages.target.data.columns.label=stars")) > 0
    assert "'stars'" in capsys.readouterr().err
    assert main(short(runs, folder)) == 0


@pytest.mark.usefixtures("cache")
def test_resume_without_a_run_folder_is_an_error(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Hydra creates a folder for its log here
    assert main([*short(runs, "x")[:-1], "resume=true"]) != 0
    assert "hydra.run.dir" in capsys.readouterr().err


def launch(runs, folder, *more, **environment):
    # One thread, as in this process: a sum in another order rounds differently.
    process = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "lightning_transfer", *command(runs, folder, *more)],
        env={**os.environ, **runs.environment, **environment, **process},
        cwd=runs.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [f"{SOURCE},batch,6", f"{TARGET},validation,4"])
def test_a_killed_and_resumed_process_has_equal_results(runs, whole, tmp_path, kills):
    killed = launch(runs, tmp_path / "run", WATCH_KILLS=kills)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "run/results.json").exists()
    resumed = launch(runs, tmp_path / "run", "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    found = without_seconds(results(tmp_path / "run"))
    expected = without_seconds(results(whole[0]))
    assert found == expected
    assert unfinished_files(tmp_path / "run") == []
