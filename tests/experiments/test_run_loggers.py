"""Loggers: their arguments, the logged values, and the end of their runs."""

import json

import pytest
import wandb

from tests.runs import Stop, Watch, results, stage, transfer


class Run:
    """Replaces a run of wandb."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.config = {}
        self.logged = {}
        self.ended = []
        self.id, self.name = arguments.get("id"), arguments.get("name")

    class _Config(dict):
        def update(self, values, **_):
            super().update(values)

    def log(self, values):
        assert not self.ended
        self.logged.update(values)

    def define_metric(self, *_, **__):
        pass

    def finish(self, exit_code=0):
        self.ended.append(exit_code)


@pytest.fixture
def started(monkeypatch):
    """List of the started runs of a fake wandb."""
    runs = []

    def init(**arguments):
        assert all(run.ended for run in runs), "one run at a time"
        run = Run(arguments)
        run.config = Run._Config()
        runs.append(run)
        return run

    monkeypatch.setattr(wandb, "init", init)
    return runs


def test_csv_is_the_default_logger(runs, tmp_path):
    runs.target(tmp_path, epochs=1, curves=True)
    stage_folder = tmp_path / "stages/target-seed0"
    assert (stage_folder / "metrics.csv").read_text().startswith("epoch,step,")
    assert (tmp_path / "learning_curves.png").exists()


def test_a_run_without_logger_has_no_training_curves(runs, tmp_path):
    runs.target(tmp_path, epochs=1, overrides=["logger=none"], curves=True)
    assert results(tmp_path)["rows"]
    assert not list(tmp_path.rglob("metrics.csv"))
    assert not (tmp_path / "learning_curves.png").exists()


def test_wandb_has_a_run_for_each_stage_run_and_the_results(runs, tmp_path, started):
    folder = tmp_path / "my run"
    baselines = ["+baselines={no_source: {order: [target]}}", "seeds=[0,1]", "stages.source.seed=0"]
    overrides = transfer(runs.news, runs.movies, *baselines, baselines=False)
    once = ["stages.source.epochs=1", "stages.target.epochs=1"]
    found = runs.fit(folder, *overrides, *once, "logger=wandb", "logger.wandb.project=mine")
    assert [run.arguments["name"] for run in started] == [
        "source · seed 0",
        "target · seed 0",
        "target after source · seed 0",
        "target · seed 1",
        "target after source · seed 1",
        "fit",
    ]
    assert {run.arguments["group"] for run in started} == {"my run"}
    assert {run.arguments["project"] for run in started} == {"mine"}
    assert {run.arguments["mode"] for run in started} == {None}  # wandb reads WANDB_MODE itself
    assert len({run.arguments.get("id") for run in started}) == 6
    kinds = [run.arguments["job_type"] for run in started]
    assert kinds == ["source", "target", "target", "target", "target", "results"]
    assert all(run.ended == [0] for run in started)
    source, alone, after, *_, last = started
    assert source.config["stages"]["target"]["epochs"] == 1
    stage_run = {"stage": "source", "seed": 0, "after": None, "rows": ["source", "transfer"]}
    assert source.config["stage_run"] == stage_run
    assert alone.config["stage_run"]["rows"] == ["no_source"]
    assert after.config["stage_run"]["after"] == "source · seed 0"
    assert "val/pearson" in after.logged
    assert last.logged["transfer/pearson"] == found["rows"][-1]["metrics"]["pearson"]["mean"]
    assert (folder / "stages/source-seed0/metrics.csv").exists()  # csv is still on


def test_a_crashed_wandb_run_is_marked_as_failed_and_continued_by_a_resume(runs, tmp_path, started):
    overrides = [*stage("target", runs.movies, epochs=1), "logger=wandb", "resume_every=1"]
    Watch.stop = ("target-seed0", "batch", 3)
    with pytest.raises(Stop):
        runs.fit(tmp_path, *overrides)
    assert [run.ended for run in started] == [[1]]
    Watch.stop = None
    runs.fit(tmp_path, *overrides, resume=True)
    assert [run.ended for run in started] == [[1], [0], [0]]
    assert started[0].arguments["id"] == started[1].arguments["id"]
    assert started[1].arguments["resume"] == "allow"


def test_ctrl_c_marks_the_wandb_run_as_failed(runs, tmp_path, started):
    Watch.stop, Watch.error = ("target-seed0", "batch", 3), KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        runs.fit(tmp_path, *stage("target", runs.movies, epochs=1), "logger=wandb")
    assert [run.ended for run in started] == [[1]]


def test_arguments_in_the_config_of_a_logger_win(runs, tmp_path, started):
    options = ["+logger.wandb.name=mine", "+logger.wandb.group=ours", "logger.wandb.mode=offline"]
    runs.target(tmp_path, epochs=1, overrides=["logger=wandb", *options])
    assert {run.arguments["name"] for run in started} == {"mine"}
    assert {run.arguments["group"] for run in started} == {"ours"}
    assert {run.arguments["mode"] for run in started} == {"offline"}


def test_the_real_wandb_can_be_disabled(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    runs.target(tmp_path, epochs=1, overrides=["logger=wandb"])
    assert results(tmp_path)["rows"]


def test_a_class_that_is_no_logger_is_an_error(runs, tmp_path):
    with pytest.raises(ValueError, match=r"logger.mine.*os.system"):
        runs.target(tmp_path, overrides=["+logger.mine._target_=os.system"])
    assert Watch.started == []


def test_tensorboard_files_share_one_folder(runs, tmp_path):
    pytest.importorskip("tensorboard")
    runs.target(tmp_path, epochs=1, overrides=["logger=tensorboard"])
    assert list((tmp_path / "tensorboard/stages/target-seed0").glob("events.*"))
    assert list((tmp_path / "tensorboard/results").glob("events.*"))


def test_missing_tensorboard_is_an_error_before_training(runs, tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="tensorboard"):
            runs.target(tmp_path, overrides=["logger=tensorboard"])
        assert Watch.started == []


@pytest.mark.slow
def test_offline_wandb_writes_its_files(runs, tmp_path, monkeypatch):
    wandb.teardown()  # wandb reads its mode only once per process
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs.target(tmp_path, epochs=1, overrides=["logger=wandb"])
    wandb.teardown()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert json.loads((tmp_path / "stages/target-seed0/fit.json").read_text())["steps"] == 4
