"""Results of whole experiments: rows, comparison, checkpoints, and errors before training."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.data import Columns, Files, LabelSpec, Splits
from lightning_transfer.experiments.experiment import Experiment
from tests.runs import Watch, results, rows_of, stage, transfer, weights, without_seconds

pytestmark = pytest.mark.jobs

METRICS = ["pearson", "spearman", "r2"]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """Transfer with both baselines, two seeds, and a source stage with a fixed seed."""
    folder = tmp_path_factory.mktemp("whole")
    Watch.reset()
    runs.fit(folder, *transfer(runs.news, runs.movies), "seeds=[0,1]", "stages.source.seed=5")
    return folder, Watch.titles()


def check_form(found, *, seeds, baselines):
    """Check the keys and types of results.json."""
    assert list(found) == ["experiment", "seeds", "rows", "comparison", "weight_transfer"]
    assert isinstance(found["experiment"], str)
    assert found["seeds"] == seeds
    for row in found["rows"]:
        assert list(row) == ["name", "stage", "n_train", "n_test", "seconds", "metrics"]
        assert isinstance(row["n_train"], int)
        assert isinstance(row["n_test"], int)
        assert row["n_test"] > 0
        assert isinstance(row["seconds"], float)
        assert row["seconds"] > 0
        for metric in row["metrics"].values():
            assert list(metric) == ["mean", "ci95", "values"]
            assert all(isinstance(value, float) for value in metric["values"])
            assert metric["mean"] == pytest.approx(np.mean(metric["values"]))
            assert len(metric["ci95"]) == 2
    if not baselines:
        assert found["comparison"] is None
        return
    comparison = found["comparison"]
    assert list(comparison) == ["metric", "baseline", "value", "ci95", "verdict"]
    assert comparison["verdict"] in ("positive", "not significant", "negative")


def test_one_stage_has_one_row(runs, tmp_path):
    found = runs.target(tmp_path, curves=True)
    check_form(found, seeds=[0], baselines=False)
    assert [row["name"] for row in found["rows"]] == ["target"]
    assert found["rows"][0]["metrics"]["pearson"]["ci95"] == [None, None]
    for name in ("results.md", "learning_curves.png", "model/model.safetensors"):
        assert (tmp_path / name).stat().st_size
    assert "one seed" in (tmp_path / "results.md").read_text()


def test_transfer_with_baselines_has_all_rows(whole):
    found = results(whole[0])
    check_form(found, seeds=[0, 1], baselines=True)
    rows = rows_of(found)
    assert list(rows) == ["source", "zero_shot", "no_source", "transfer"]
    assert [row["stage"] for row in found["rows"]] == ["source", "target", "target", "target"]
    assert [row["n_train"] for row in found["rows"]] == [32, 0, 32, 32]
    assert [row["n_test"] for row in found["rows"]] == [40] * 4
    counts = [len(row["metrics"]["pearson"]["values"]) for row in found["rows"]]
    assert counts == [1, 1, 2, 2]  # a stage trained once has one value
    for row in found["rows"]:
        assert list(row["metrics"]) == METRICS


def test_comparison_is_the_mean_difference_over_the_seeds(whole):
    found = results(whole[0])
    rows = rows_of(found)
    candidate, baseline = (
        rows[name]["metrics"]["pearson"]["values"] for name in ("transfer", "no_source")
    )
    differences = np.subtract(candidate, baseline)
    comparison = found["comparison"]
    assert comparison["metric"] == "pearson"
    assert comparison["baseline"] == "no_source"
    assert comparison["value"] == pytest.approx(differences.mean())
    half = 12.706204736 * differences.std(ddof=1) / math.sqrt(2)  # t with one degree of freedom
    assert comparison["ci95"] == pytest.approx(
        [differences.mean() - half, differences.mean() + half]
    )


def test_stage_with_a_fixed_seed_is_trained_once(whole):
    assert sorted(whole[1]) == [
        "source-seed5",
        "source-seed5/target-seed0",
        "source-seed5/target-seed1",
        "target-seed0",
        "target-seed1",
    ]


def test_source_without_a_fixed_seed_is_trained_for_each_seed(runs, tmp_path):
    found = runs.fit(tmp_path, *transfer(runs.news, runs.movies, baselines=False), "seeds=[3,1]")
    assert Watch.titles() == [
        "source-seed3",
        "source-seed3/target-seed3",
        "source-seed1",
        "source-seed1/target-seed1",
    ]
    assert found["seeds"] == [3, 1]
    assert len(set(rows_of(found)["source"]["metrics"]["pearson"]["values"])) == 2


def test_seconds_are_the_sum_over_the_chain(whole):
    rows = rows_of(results(whole[0]))
    assert rows["transfer"]["seconds"] > rows["source"]["seconds"] * 0.5
    assert rows["zero_shot"]["seconds"] < rows["transfer"]["seconds"]


@pytest.mark.parametrize(
    ("row", "checkpoint", "file"),
    [
        ("source", "source-seed5", "news"),
        ("zero_shot", "source-seed5", "movies"),
        ("no_source", "target-seed1", "movies"),
        ("transfer", "source-seed5/target-seed1", "movies"),
    ],
)
def test_row_is_the_score_of_its_checkpoint(whole, runs, row, checkpoint, file):
    loaded = load(whole[0] / "stages" / checkpoint / "final.ckpt")
    data = Files(
        str(getattr(runs, file)),
        columns=Columns(label="rating"),
        label=LabelSpec("regression"),
        splits=Splits(val=16, test=40),
    )
    data.setup("test")
    texts = data.rows("test")["text"]
    truth = np.array(data.rows("test")["label"])
    with torch.no_grad():
        batch = loaded.tokenizer(list(texts), padding=True, return_tensors="pt")
        found = loaded.task(batch)[:, 0].numpy()
    reported = rows_of(results(whole[0]))[row]["metrics"]
    assert reported["pearson"]["values"][-1] == pytest.approx(
        np.corrcoef(found, truth)[0, 1],
        abs=1e-3,  # the predictions differ by only 1e-4, so rounding errors matter
    )
    r2 = 1 - ((found - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert reported["r2"]["values"][-1] == pytest.approx(r2, abs=1e-5)


def test_target_starts_from_the_weights_of_the_source(runs, tmp_path):
    runs.fit(tmp_path, *transfer(runs.news, runs.movies, baselines=False))
    trained = weights(tmp_path / "stages/source-seed0/final.ckpt")
    title, start = Watch.started[1]
    assert title == "source-seed0/target-seed0"
    assert any(name.startswith("head.") for name in trained)
    for name, value in trained.items():
        assert torch.equal(start[name], value), name


def test_model_folder_has_the_seed_with_the_best_validation_score(whole):
    folder = whole[0] / "stages/source-seed5"
    best = {
        seed: json.loads((folder / f"target-seed{seed}/fit.json").read_text())["best"]
        for seed in (0, 1)
    }
    chosen = max(best, key=best.get)
    exported = load(whole[0]).task.state_dict()
    final = load(folder / f"target-seed{chosen}/final.ckpt").task.state_dict()
    assert exported.keys() == final.keys()
    assert all(torch.equal(exported[name], final[name]) for name in final)


def test_equal_runs_give_equal_results(runs, whole, tmp_path):
    again = runs.fit(
        tmp_path, *transfer(runs.news, runs.movies), "seeds=[0,1]", "stages.source.seed=5"
    )
    assert without_seconds(again) == without_seconds(results(whole[0]))


def test_skipped_source_leaves_only_the_target(runs, whole, tmp_path):
    skipped = runs.fit(
        tmp_path,
        *transfer(runs.news, runs.movies),
        "seeds=[0,1]",
        "stages.source.seed=5",
        "stages.source.skip=true",
    )
    assert Watch.titles() == ["target-seed0", "target-seed1"]
    assert [row["name"] for row in skipped["rows"]] == ["target"]
    assert skipped["comparison"] is None
    alone = rows_of(results(whole[0]))["no_source"]
    assert rows_of(skipped)["target"]["metrics"] == alone["metrics"]


def test_skipped_target_leaves_only_the_source(runs, tmp_path):
    found = runs.fit(tmp_path, *transfer(runs.news, runs.movies), "stages.target.skip=true")
    assert [row["name"] for row in found["rows"]] == ["source"]
    assert Watch.titles() == ["source-seed0"]


def test_third_stage_starts_from_the_second(runs, tmp_path):
    found = runs.fit(
        tmp_path,
        *stage("a", runs.news, epochs=1),
        *stage("b", runs.movies, epochs=1),
        *stage("target", runs.movies, epochs=1),
        "order=[a,b,target]",
    )
    assert Watch.titles() == ["a-seed0", "a-seed0/b-seed0", "a-seed0/b-seed0/target-seed0"]
    assert [row["name"] for row in found["rows"]] == ["a", "b", "transfer"]


def test_comparison_in_another_metric(runs, tmp_path):
    found = runs.fit(
        tmp_path,
        *transfer(runs.news, runs.movies, "comparison.metric=r2"),
        "stages.source.epochs=1",
        "stages.target.epochs=1",
    )
    assert found["comparison"]["metric"] == "r2"
    assert found["comparison"]["ci95"] == [None, None]
    assert found["comparison"]["verdict"] == "not significant"


def test_comparison_of_another_candidate(runs, tmp_path):
    short = [f"stages.{name}.epochs=1" for name in ("source", "target")]
    overrides = [*transfer(runs.news, runs.movies, "comparison.candidate=zero_shot"), *short]
    rows = rows_of(found := runs.fit(tmp_path / "whole", *overrides))
    scores = [rows[name]["metrics"]["pearson"]["mean"] for name in ("zero_shot", "no_source")]
    assert found["comparison"]["value"] == pytest.approx(scores[0] - scores[1])
    assert (found["comparison"]["candidate"], found["comparison"]["baseline"]) == (
        "zero_shot",
        "no_source",
    )
    found = runs.fit(tmp_path / "skipped", *overrides, "stages.source.skip=true")
    assert found["comparison"] is None


WRONG = [
    ("seeds=[]", r"seeds must be a list of integers such as \[0,1,2\], got \[\]"),
    ("seeds=[0,-1]", r"seeds must be integers >= 0, got \[0, -1\]"),
    ("seeds=[0,0]", r"seeds must be different, got \[0, 0\]"),
    ("seeds=[a]", r"seeds must be integers >= 0, got \['a'\]"),
    ("order=[sauce,target]", r"order: unknown stage 'sauce'; did you mean source"),
    ("order=[target,target]", r"order must name each stage once, got \['target', 'target'\]"),
    ("order=[]", r"order must be a list of stage names, got \[\]"),
    ("baselines.no_source.order=[taget]", r"baselines.no_source.order: unknown stage 'taget'"),
    ("baselines.zero_shot.test=taget", r"baselines.zero_shot.test: unknown stage 'taget'"),
    (
        "+baselines.no_source.tests=target",
        r"baselines.no_source must be a mapping {order: \[stages\], test: stage}",
    ),
    ("+baselines.source.order=[target]", r"baselines.source has the name of another row"),
    (
        "comparison.baseline=no_sauce",
        r"comparison.baseline: unknown baseline 'no_sauce'.* Baselines: zero_shot, no_source",
    ),
    (
        "comparison.candidate=no_sauce",
        r"comparison.candidate: unknown baseline 'no_sauce'.* Baselines: zero_shot, no_source",
    ),
    (
        "comparison.metric=accuracy",
        r"comparison.metric: unknown metric 'accuracy'.*pearson, r2, spearman",
    ),
    (
        "comparison.metric=loss",
        r"comparison.metric must be a metric for which higher is better, got 'loss'",
    ),
    (
        "stages.target.monitor=val/persian",
        r"stages.target.monitor: unknown validation metric 'val/persian'.*val/pearson",
    ),
    ("stages.target.keep=worst", r"stages.target.keep must be one of best, last, got 'worst'"),
    ("stages.target.patience=0", r"stages.target.patience must be .*>= 1.*got 0"),
    ("stages.target.patience=soon", r"stages.target.patience must be .*got 'soon'"),
    ("stages.target.epochs=0", r"stages.target.epochs must be .*>= 1.*got 0"),
    ("stages.target.epochs=-3", r"stages.target.epochs must be .*>= 1.*got -3"),
    ("stages.target.epochs=1.5", r"stages.target.epochs must be .*>= 1.*got 1.5"),
    ("stages.target.epochs=null", r"stages.target.epochs must be .*>= 1.*got None"),
    ("stages.target.seed=-1", r"stages.target.seed must be .*got -1"),
    ("+callbacks.mine=3", r"unknown key 'callbacks'; did you mean stages.target.callbacks"),
    ("+stages.target.epoch=3", r"unknown key 'stages.target.epoch'; .*mean stages.target.epochs"),
    (
        "+stages.target.trainer.max_epoch=3",
        r"stages.target.trainer.max_epoch;.*mean stages.target.trainer.max_epochs",
    ),
    (
        "+trainer.max_epoch=3",
        r"unknown argument .* Trainer: trainer.max_epoch;.*mean trainer.max_epochs",
    ),
    ("stages.target.init_from=nowhere.ckpt", r"no checkpoint at .*nowhere.ckpt"),
    ("stages.target.data.source=nowhere.csv", r"nowhere.csv"),
    ("stages.target.data.columns.label=stars", r"'stars'"),
    ("stages.target.data.train_size=5000", r"5,?000"),
    ("stages.target.data.batch_size=0", r"batch_size must be >= 1, got 0"),
    ("resume_every=0", r"resume_every must be .*>= 1.*got 0"),
    ("stages.target.label_map={x:y}", r"label_map"),
    ("stages.target.optimizer._target_=os.system", r"os.system"),
    ("stages.target.callbacks.watch._target_=shutil.rmtree", r"shutil.rmtree"),
    ("stages.target.head.activation=softplus2", r"softplus2"),
    ("stages.target.head.pooling=middle", r"mean.*middle"),
    ("stages.target.head.dropout=1.5", r"dropout.*1.5"),
    ("stages.target.data.train_size=0", r"no train rows; change data.train_size"),
    ("stages.target.data.splits.test=1000", r"stages.target.data: .*1000"),
    ("stages.target.data.tokens.truncation=middle", r"truncation.*head.*middle"),
    ("stages.target.data.label.kind=stars", r"regression.*stars"),
    ("stages.target.optimizer._target_=torch.load", r"torch.load"),
    ("stages.target.optimizer.lr=-1", r"stages.target.optimizer: .*-1"),
    (
        "stages.target.finetuning.scheduler.warmup=2",
        r"stages.target.finetuning.scheduler: .*warmup.* 2",
    ),
    (
        "+stages.target.callbacks={a: {_target_: lightning_transfer.callbacks.Freezing, below: 9}}",
        r"stages.target: below=9 is no depth of the backbone: its depths are 0..2",
    ),
    ("stages.target.finetuning.groups.layer_decay=0", r"layer_decay.* 0"),
    (
        "stages.target.finetuning.groups.layer_ratios=[1,2]",
        r"stages.target.finetuning.groups: layer_ratios must have \d values, .* got 2",
    ),
    ("+stages.target.task.label_smoothing=0.1", r"label_smoothing"),
    (
        "task@stages.target.task=sequence_classification",
        r"got 'regression'; use task=sequence_regression",
    ),
    ("backbone.name=asset:maxilm", r"maxilm.*minilm"),
    ("trainer.accelerator=abacus", r"abacus"),
    ("trainer.limit_test_batches=0", r"trainer.limit_test_batches=0 leaves no batch to test on"),
    ("trainer.devices=0", r"0"),
    ("trainer.strategy=dpp", r"dpp"),
]


MISTAKES = (ValueError, OSError, ImportError, MisconfigurationException)


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_wrong_override_is_an_error_before_training(runs, tmp_path, override, message):
    with pytest.raises(MISTAKES, match=message):
        runs.fit(tmp_path / "run", *transfer(runs.news, runs.movies), override)
    assert Watch.started == []


@pytest.mark.parametrize(
    ("off", "message"),
    [
        ("data.splits.val=0", r"stages.target.patience needs validation rows, got 0"),
        (
            "+trainer.limit_val_batches=0",
            r"stages.target.patience=2 needs validation, but trainer.limit_val_batches=0 turns",
        ),
    ],
)
def test_patience_without_validation_is_an_error(runs, tmp_path, off, message):
    with pytest.raises(ValueError, match=message):
        runs.target(tmp_path, "patience=2", off)
    assert Watch.started == []


def test_plateau_schedule_without_validation_rows_is_an_error(runs, tmp_path):
    plateau = "scheduler@stages.target.scheduler=plateau"
    with pytest.raises(ValueError, match=r"stages.target.scheduler needs validation rows"):
        runs.target(tmp_path, "data.splits.val=0", overrides=[plateau])
    assert Watch.started == []


def test_unused_stage_is_a_warning(runs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        runs.fit(tmp_path, *stage("source", runs.news), *stage("target", runs.movies, epochs=1))
    assert "source" in caplog.text
    assert Watch.titles() == ["target-seed0"]


def test_runs_are_ranked_by_the_validation_scores_of_the_saved_weights(runs, tmp_path):
    own = stage("target", runs.movies, epochs=1)
    experiment = Experiment(
        runs.config(*own, "seeds=[0,1]", "logger=none"), tmp_path / "a", resume=False
    )
    experiment.run()
    metric, mode, score = experiment.ranking()
    assert (metric, mode) == ("val/pearson", "max")
    fits = [tmp_path / f"a/stages/target-seed{seed}/fit.json" for seed in (0, 1)]
    assert score.values == tuple(json.loads(fit.read_text())["best"] for fit in fits)


def test_runs_without_validation_are_ranked_by_their_test_scores(runs, tmp_path):
    own = [*stage("target", runs.movies, "keep=last", epochs=1), "logger=none"]
    experiment = Experiment(runs.config(*own), tmp_path, resume=False)
    experiment.run()
    metric, mode, score = experiment.ranking()
    assert (metric, mode) == ("pearson", "max")
    assert score.mean == rows_of(results(tmp_path))["target"]["metrics"]["pearson"]["mean"]
