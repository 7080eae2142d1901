"""Sweeps of tiny runs by the command line: resume, failures, pruning, parallel jobs and ranks."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lightning_transfer.cli import commands, main
from lightning_transfer.experiments import experiment as whole
from lightning_transfer.experiments.run_folder import lock_folder
from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.experiments.sweeps.study import SweepStudy
from lightning_transfer.experiments.sweeps.sweepers import search_space
from lightning_transfer.utils.errors import UsageError
from tests.runs import Watch, stage

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _place(runs, tmp_path, monkeypatch):
    Watch.reset()
    for name, value in runs.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(whole, "plot_training_curves", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweep(runs):
    """Function that runs a sweep of the target stage in this process; it returns the exit code."""

    def start(*arguments, epochs=1):
        Watch.started = []
        own = stage("target", runs.movies, epochs=epochs)
        return main(
            ["fit", *runs.overrides, *own, "hydra.sweep.dir=sweep", "resume_every=1", *arguments]
        )

    return start


def statuses():
    return {job.name: job.record.status for job in job_records.find("sweep")}


def table():
    with Path("sweep/sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_started_again_runs_only_unfinished_jobs(sweep, capsys):
    Watch.stop, Watch.error = ("target-seed1", "batch", 3), ValueError("no luck")
    before = dict(os.environ)
    assert sweep("-m", "seed=0,1,2") == 1
    assert os.environ == before
    assert Watch.titles() == ["target-seed0", "target-seed1", "target-seed2"]
    assert statuses() == {"0": "done", "1": "failed", "2": "done"}
    assert [row["status"] for row in table()] == ["done", "done", "failed"]
    assert table()[-1]["error"] == "no luck"
    scores = [float(row["value"]) for row in table()[:2]]
    assert scores == sorted(scores, reverse=True)
    shown = capsys.readouterr()
    assert shown.err.count("error: job 1 (seed=1): no luck") == 1
    assert "job 1 failed: no luck" in shown.out

    Watch.reset()
    assert sweep("-m", "seed=0,1,2") == 0
    assert Watch.titles() == ["target-seed1"]
    assert statuses() == dict.fromkeys("012", "done")
    assert [float(r["value"]) for r in table() if r["job"] != "1"] == scores
    printed = capsys.readouterr().out
    assert main(["sweep-report", "sweep"]) == 0
    again = capsys.readouterr().out
    assert printed.endswith(again)
    assert "sweep · 3 jobs" in again


@pytest.mark.slow
def test_a_widened_sweep_finds_its_jobs_by_their_overrides(sweep):
    assert sweep("-m", "seed=0,1") == 0
    values = {row["seed"]: row["value"] for row in table()}
    assert sweep("-m", "seed=2,1,0") == 0
    assert Watch.titles() == ["target-seed2"]
    assert {row["seed"]: row["job"] for row in table()} == {"0": "0", "1": "1", "2": "2"}
    assert {r["seed"]: r["value"] for r in table() if r["seed"] != "2"} == values


@pytest.mark.slow
def test_equal_jobs_have_separate_folders(sweep):
    assert sweep("-m", "seed=0,0") == 0
    assert statuses() == {"0": "done", "1": "done"}
    assert sweep("-m", "seed=0,0") == 0
    assert Watch.titles() == []
    assert statuses() == {"0": "done", "1": "done"}


@pytest.mark.slow
def test_a_failed_job_does_not_stop_later_batches(sweep):
    Watch.stop, Watch.error = ("target-seed0", "batch", 1), ValueError("no luck")
    assert sweep("-m", "seed=0,1", "hydra.sweeper.max_batch_size=1") == 1
    assert statuses() == {"0": "failed", "1": "done"}


@pytest.mark.slow
def test_ctrl_c_prints_the_table_and_the_sweep_can_be_resumed(sweep, capsys):
    Watch.stop, Watch.error = ("target-seed1", "batch", 2), KeyboardInterrupt
    assert sweep("-m", "seed=0,1,2") == 130
    assert statuses() == {"0": "done", "1": "unfinished"}
    shown = capsys.readouterr()
    assert (
        "1 of 2 jobs not finished; to resume, run the same command with hydra.sweep.dir=sweep"
        in shown.out
    )
    assert "resume=true" not in shown.err
    Watch.reset()
    assert sweep("-m", "seed=0,1,2") == 0
    assert Watch.titles() == ["target-seed1", "target-seed2"]
    assert len(Watch.losses) == 3 + 4  # one of the 4 steps of seed 1 had been saved


def test_a_second_sweep_in_a_locked_folder_is_an_error(sweep, capsys):
    with lock_folder("sweep"):
        assert sweep("-m", "seed=0,1") == 2
    assert "choose another hydra.sweep.dir" in capsys.readouterr().err
    assert statuses() == {}


@pytest.mark.slow
def test_a_finished_job_survives_a_changed_default(sweep, capsys, monkeypatch):
    assert sweep("-m", "seed=0,1") == 0
    plain = commands._plain_config
    monkeypatch.setattr(commands, "_plain_config", lambda cfg: {**plain(cfg), "new": 1})
    assert sweep("-m", "seed=0,1") == 1
    assert "new: absent in the folder, 1 now" in capsys.readouterr().err
    assert statuses() == {"0": "done", "1": "done"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=interval(0,1)"], "seed=interval(0,1): a grid has no intervals; give values"),
        (["sweep=random"], "nothing to search: give a key a range"),
        (
            ["sweep=optuna", "seed=0,1", "hydra.sweeper.sampler._target_=os.system"],
            "hydra.sweeper.sampler: os.system",
        ),
        (
            ["sweep=optuna", "seed=0,1", "hydra.sweeper.n_trials=0"],
            "n_trials must be an integer >= 1, got 0",
        ),
        (["-m", "sweep=rand", "seed=0,1"], "did you mean sweep=random?"),
    ],
)
def test_a_wrong_sweep_is_an_error_before_the_first_job(sweep, arguments, message, capsys):
    assert sweep(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert statuses() == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The variance of predictions:UserWarning")
def test_an_optuna_sweep_prunes_trials_and_can_be_continued(sweep, capsys):
    lr = "stages.target.optimizer.lr"
    own = ["sweep=optuna", f"{lr}=tag(log,interval(1e-7,1e-2))", "hydra.sweeper.n_trials=5"]
    own += ["hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.sampler.n_startup_trials=2"]
    assert sweep(*own, epochs=2) == 0
    study = trials_of("sweep")
    states = [trial.state for trial in study]
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == 5
    assert TrialState.PRUNED in states
    found = {row["job"]: row for row in table()}
    for trial in study:
        record = job_records.read(f"sweep/{trial.number}")
        assert f"{lr}={trial.params[lr]}" in record.overrides
        assert record.values[0] == pytest.approx(trial.value)
        pruned = trial.state is TrialState.PRUNED
        assert record.status == ("pruned" if pruned else "done")
        # A pruned job stops at its first bad validation, and is neither tested nor saved.
        assert len(trial.intermediate_values) == (1 if pruned else 2)
        assert (found[str(trial.number)]["test"] == "") is pruned
    order = [row["status"] for row in table()]
    assert order == sorted(order)  # done before pruned
    capsys.readouterr()

    assert sweep(*own, epochs=2) == 0
    assert Watch.titles() == []
    assert sweep(*own, "hydra.sweeper.n_trials=6", epochs=2) == 0
    assert len(Watch.titles()) == 1
    assert sweep(*own, f"{lr}=interval(0,1)", epochs=2) == 2
    assert "sweep contains the sweep of another search" in capsys.readouterr().err


def trials_of(folder):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(f"{folder}/{job_records.JOURNAL}")
    )
    return optuna.load_study(study_name=job_records.STUDY, storage=storage).trials


@pytest.mark.slow
def test_an_interrupted_random_sweep_resumes_its_running_trial(sweep):
    own = ["sweep=random", "seed=range(0,3)", "stages.target.head.dropout=interval(0,0.5)"]
    own += ["hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1"]
    Watch.stop, Watch.error = ("target-seed0", "batch", 2), KeyboardInterrupt
    assert sweep(*own) == 130
    assert [trial.state for trial in trials_of("sweep")] == [
        TrialState.COMPLETE,
        TrialState.RUNNING,
    ]
    Watch.stop, Watch.losses = None, []
    assert sweep(*own) == 0
    assert set(statuses().values()) == {"done"}
    assert [trial.state for trial in trials_of("sweep")] == [TrialState.COMPLETE] * 2
    assert len(Watch.losses) == 3  # one of the 4 steps had been saved


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=0.5,1e-3", CategoricalDistribution(["0.5", "0.001"])),
        ("x=range(1,6,2)", IntDistribution(1, 5, step=2)),
        ("x=range(0.0,0.5,0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
        ("x=interval(0.0,1.0)", FloatDistribution(0.0, 1.0)),
        ("x=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=int(interval(1,8))", IntDistribution(1, 8)),
    ],
)
def test_ranges_in_the_syntax_of_hydra_are_distributions(text, expected):
    fixed, space = search_space(OverridesParser.create().parse_overrides(["a=1", text, "a=2"]))
    assert fixed == ["a=2"]
    assert space == {"x": expected}


def test_an_empty_range_is_an_error():
    with pytest.raises(UsageError, match=r"x=range\(3,3\) is an empty range"):
        search_space(OverridesParser.create().parse_overrides(["x=range(3,3)"]))


def test_failed_values_are_tried_once_at_each_start_of_the_sweep(tmp_path):
    def trials():
        space = {"x": FloatDistribution(0, 1)}
        sampler = optuna.samplers.RandomSampler(seed=0)
        return SweepStudy(tmp_path, space, fixed=["a=1"], sampler=sampler)

    def record(status, value=()):
        return job_records.JobRecord((), status, "val/loss", "min", value)

    first = trials()
    batch = first.ask(3)
    first.tell(batch[0][0], record("done", (2.0,)))
    first.tell(batch[1][0], record("failed"))
    first.tell(batch[2][0], record("done", (float("nan"),)))
    assert first.ended == 3
    again = trials()
    assert again.ended == 1
    assert [values for _, values in again.ask(2)] == [batch[1][1], batch[2][1]]
    [new] = again.ask(1)
    assert new[1] not in [values for _, values in batch]
    assert again.study.best_value == -2.0  # the study maximizes


# Sweeps in separate processes


def launch(runs, *arguments, **environment):
    own = stage("target", runs.movies, epochs=1)
    own += ["+stages.target.callbacks.tally._target_=tests.runs.Tally", "resume_every=1"]
    process = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TALLY": "tally.txt"}
    command = [sys.executable, "-m", "lightning_transfer", "fit", *runs.overrides, *own]
    return subprocess.run(
        [*command, "hydra.sweep.dir=sweep", "-m", *arguments],
        env={**os.environ, **runs.environment, **process, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def tally():
    return sorted(Path("tally.txt").read_text().splitlines())


TWO = ("trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.slow
def test_the_ranks_of_a_job_run_only_this_job(runs):
    """Two devices mean ddp; the trainable parameters change after the first of two steps."""
    gradual = "finetuning@stages.target.finetuning=gradual"
    done = launch(runs, "seed=0,1", "trainer.devices=2", gradual)
    assert done.returncode == 0, done.stderr
    assert tally() == ["0 0 0", "0 1 0", "1 0 0", "1 1 0"]
    assert statuses() == {"0": "done", "1": "done"}
    assert done.stdout.count("Run folder:") == 2
    assert [done.stderr.count(f"phase {n} of 3 trains") for n in (1, 2)] == [2, 2]
    assert "INFO" not in done.stderr


@pytest.mark.slow
def test_failing_ranks_do_not_end_the_sweep(runs):
    done = launch(runs, "seed=0,1", *TWO, TALLY_FAILS="0,1")
    assert done.returncode == 1, done.stderr
    assert statuses() == {"0": "failed", "1": "done"}
    assert job_records.read("sweep/0").error == "seed and step 0,1"


@pytest.mark.slow
def test_a_killed_sweep_is_resumed(runs):
    killed = launch(runs, "seed=0,1,2", WATCH_KILLS="target-seed1,batch,3")
    assert killed.returncode == -9, killed.stderr
    assert statuses() == {"0": "done", "1": "unfinished"}
    assert [row["status"] for row in table()] == ["done"]
    done = launch(runs, "seed=0,1,2")
    assert done.returncode == 0, done.stderr
    # Job 1 resumes from the resume point of its second or third step.
    assert tally()[0] == "0 0 0"
    assert tally()[-1] == "2 0 0"
    started = [line.split() for line in tally() if line.startswith("1 ")]
    assert [step in ("2", "3") for _, _, step in started] == [False, True]
    assert len(tally()) == 4
    assert [row["status"] for row in table()] == ["done"] * 3
    assert "job is already done; it is not run again" in done.stderr


@pytest.mark.slow
def test_parallel_jobs_write_to_their_own_folders(runs):
    arguments = ["seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = launch(runs, *arguments, TALLY_FAILS="1,2")
    assert done.returncode == 1, done.stderr
    assert statuses() == {"0": "done", "1": "failed", "2": "done"}
    assert tally() == ["0 0 0", "1 0 0", "2 0 0"]
    for seed in "02":
        log = Path(f"sweep/{seed}/fit.log").read_text()
        assert f"target · seed {seed} · epoch" in log
        assert f"seed {(int(seed) + 2) % 4} · epoch" not in log
    assert [row["status"] for row in table()] == ["done", "done", "failed"]


@pytest.mark.slow
def test_the_ranks_of_parallel_jobs_run_their_job(runs):
    """In a worker process, Lightning would start the program of the worker as rank 1.

    Both jobs inherit a port, which only one of them could use.
    """
    arguments = ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = launch(runs, *arguments, *TWO, MASTER_PORT=str(find_free_network_port()))
    assert done.returncode == 0, done.stderr
    assert tally() == ["0 0 0", "0 1 0", "1 0 0", "1 1 0"]


@pytest.mark.slow
def test_two_ranks_are_pruned_together(runs):
    options = [
        "sweep=optuna",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.sweeper.n_trials=3",
    ]
    lr = "stages.target.optimizer.lr=tag(log,interval(1e-9,1e-1))"
    done = launch(runs, *options, lr, *TWO)
    assert done.returncode == 0, done.stderr
    states = [trial.state for trial in trials_of("sweep")]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(tally()) == 2 * len(states) == 6
