"""Stage runs: initial weights, labels, saved weights, Trainer arguments, heads, objectives."""

import csv
import json

import pytest
import torch
from torch import nn

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.data import Columns, Files, LabelSpec, Splits
from tests.conftest import make_rows
from tests.runs import Watch, rows_of, stage, transfer, weights, without_seconds, write_csv

pytestmark = pytest.mark.jobs

CONSTANT = pytest.mark.filterwarnings("ignore:The variance of predictions or target is close")
CLASSES = {"label": "mood", "kind": "single_label"}


@pytest.fixture(scope="module")
def source(runs, tmp_path_factory):
    """Finished run of one stage on news, a regression."""
    folder = tmp_path_factory.mktemp("source")
    runs.target(folder, source=runs.news, curves=True)
    return folder


@pytest.fixture(scope="module")
def moods(runs, tmp_path_factory):
    """Finished run of one stage on news with the classes negative, neutral and positive."""
    folder = tmp_path_factory.mktemp("moods")
    runs.target(folder, source=runs.news, **CLASSES)
    return folder


def renamed(runs, name, names, order=None):
    """Return a csv file of movie reviews with other label names; None removes the rows."""
    rows = [
        {**row, "mood": names[row["mood"]]}
        for row in make_rows(180, seed=2)
        if names[row["mood"]] is not None
    ]
    return write_csv(runs.folder / f"{name}.csv", rows)


def final(folder, name="target-seed0"):
    return weights(folder / "stages" / name / "final.ckpt")


def fitted(folder, name="target-seed0"):
    return json.loads((folder / "stages" / name / "fit.json").read_text())


def same(one, other, prefix=""):
    names = [name for name in one if name.startswith(prefix)]
    return bool(names) and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("where", ["", "model", "stages/target-seed0/final.ckpt"])
def test_stage_starts_from_a_run_a_model_folder_or_a_checkpoint(runs, source, tmp_path, where):
    runs.target(tmp_path, f"init_from={source / where}", epochs=1)
    assert same(final(source), Watch.started[0][1])


def test_init_from_does_not_read_the_pretrained_weights(runs, source, tmp_path):
    folder = runs.folder / "missing"
    overrides = [f"backbone.name={folder}"]
    runs.target(tmp_path, f"init_from={source}", epochs=1, overrides=overrides)
    assert same(final(source), Watch.started[0][1])


def test_init_from_replaces_the_weights_of_the_previous_stage(runs, source, tmp_path):
    options = [f"stages.target.init_from={source}", "stages.target.epochs=1"]
    runs.fit(tmp_path, *transfer(runs.news, runs.movies, baselines=False), *options)
    assert Watch.titles() == ["source-seed0", "source-seed0/target-seed0"]
    assert same(final(source), Watch.started[1][1])


def test_the_head_is_transferred_if_the_label_names_are_equal(runs, moods, tmp_path):
    runs.target(tmp_path, f"init_from={moods}", epochs=1, **CLASSES)
    assert same(final(moods), Watch.started[0][1])


def test_rows_of_the_head_follow_their_label_names(runs, moods, tmp_path):
    names = "data.label.names=[positive,negative,neutral]"
    runs.target(tmp_path, f"init_from={moods}", names, epochs=1, **CLASSES)
    old, start = final(moods), Watch.started[0][1]
    assert torch.equal(start["head.out.weight"], old["head.out.weight"][[2, 0, 1]])
    assert torch.equal(start["head.out.bias"], old["head.out.bias"][[2, 0, 1]])
    assert same(old, start, "head.dense")


def test_other_label_names_get_a_new_head(runs, moods, tmp_path):
    file = renamed(runs, "other", {"negative": "bad", "neutral": "so so", "positive": "good"})
    runs.target(tmp_path, f"init_from={moods}", source=file, epochs=1, **CLASSES)
    old, start = final(moods), Watch.started[0][1]
    assert same(old, start, "backbone.")
    assert not torch.equal(old["head.out.weight"], start["head.out.weight"])
    assert load(tmp_path).task.labels.names == ("bad", "good", "so so")


def test_partly_equal_labels_need_a_label_map(runs, moods, tmp_path):
    file = renamed(runs, "part", {"negative": "negative", "neutral": None, "positive": "good"})
    options = {"source": file, "epochs": 1, **CLASSES}
    with pytest.raises(ValueError, match=r"match only in part: .*'neutral'.*'good'.*label_map"):
        runs.target(tmp_path / "a", f"init_from={moods}", **options)
    assert Watch.started == []
    runs.target(tmp_path / "b", f"init_from={moods}", "label_map={positive:good}", **options)
    old, start = final(moods), Watch.started[0][1]
    assert torch.equal(start["head.out.weight"], old["head.out.weight"][[2, 0]])  # good, negative


def test_partly_equal_labels_of_stages_are_an_error_before_training(runs, tmp_path):
    file = renamed(runs, "parts", {"negative": "negative", "neutral": "meh", "positive": "good"})
    with pytest.raises(ValueError, match="match only in part"):
        runs.fit(
            tmp_path,
            *stage("source", runs.news, **CLASSES),
            *stage("target", file, **CLASSES),
            "order=[source,target]",
        )
    assert Watch.started == []


def test_a_regression_transfers_its_backbone_to_a_classification(runs, tmp_path):
    found = runs.fit(
        tmp_path,
        *stage("source", runs.news, epochs=1),
        *stage("target", runs.movies, epochs=1, **CLASSES),
        "order=[source,target]",
    )
    assert list(rows_of(found)["source"]["metrics"]) == ["pearson", "spearman", "r2"]
    assert list(rows_of(found)["transfer"]["metrics"]) == ["accuracy", "macro_f1", "mcc"]
    assert same(final(tmp_path, "source-seed0"), Watch.started[1][1], "backbone.")


def test_zero_shot_on_other_labels_is_an_error_before_training(runs, tmp_path):
    with pytest.raises(ValueError, match="it cannot be scored on them without training"):
        runs.fit(
            tmp_path,
            *stage("source", runs.news),
            *stage("target", runs.movies, **CLASSES),
            "order=[source,target]",
            "+baselines={zero_shot: {order: [source], test: target}}",
        )
    assert Watch.started == []


def test_a_stage_with_several_labels_per_text(runs, tmp_path):
    rows = [
        {"text": row["text"], "tags": "|".join(tag for tag in ("a", "the") if tag in row["text"])}
        for row in make_rows(150, seed=4)
    ]
    file = write_csv(tmp_path / "tags.csv", [row for row in rows if row["tags"]])
    found = runs.target(tmp_path / "run", source=file, label="tags", kind="multi_label", epochs=3)
    [row] = found["rows"]
    assert list(row["metrics"]) == ["accuracy", "macro_f1", "mcc"]
    assert load(tmp_path / "run").task.labels.kind == "multi_label"


def test_binned_numbers_are_classes(runs, tmp_path):
    bins = ["data.label.names=[low,high]", "data.label.cutoffs=[0.5]"]
    runs.target(tmp_path, *bins, label="rating", kind="binned", epochs=1)
    assert load(tmp_path).task.labels.names == ("low", "high")


def test_a_regression_with_bins_has_classification_metrics(runs, tmp_path):
    bins = ["data.label.names=[low,mid,high]", "data.label.cutoffs=[-0.5,0.5]"]
    [row] = runs.target(tmp_path, *bins, epochs=1)["rows"]
    assert list(row["metrics"]) == ["pearson", "accuracy", "macro_f1", "spearman", "r2"]


def test_keep_last_saves_the_weights_of_the_last_step(runs, tmp_path):
    runs.target(tmp_path / "last", "keep=last", epochs=3)
    last = Watch.losses
    Watch.reset()
    runs.target(tmp_path / "best", epochs=3)
    assert Watch.losses == last
    assert fitted(tmp_path / "last")["steps"] == fitted(tmp_path / "best")["steps"] == 12
    positions = [
        torch.load(tmp_path / name / "stages/target-seed0/final.ckpt", weights_only=True)[
            "lightning_transfer"
        ]["position"]
        for name in ("last", "best")
    ]
    assert positions[0]["step"] == 12
    assert fitted(tmp_path / "last")["best"] is None


@pytest.mark.parametrize("monitor", ["val/r2", "val/loss"])
def test_the_saved_weights_have_the_best_validation_score(runs, tmp_path, monitor):
    runs.target(tmp_path, f"monitor={monitor}", epochs=4, lr=3e-2)
    with (tmp_path / "stages/target-seed0/metrics.csv").open() as file:
        values = [float(row[monitor]) for row in csv.DictReader(file) if row[monitor]]
    assert len(values) == 4
    best = min(values) if monitor == "val/loss" else max(values)
    assert fitted(tmp_path)["best"] == pytest.approx(best, rel=1e-5)
    loaded = load(tmp_path / "stages/target-seed0/final.ckpt")
    data = Files(
        str(runs.movies),
        columns=Columns(label="rating"),
        label=LabelSpec("regression"),
        splits=Splits(val=16, test=40),
    )
    data.setup("validate")
    texts, truth = data.rows("validation")["text"], torch.tensor(data.rows("validation")["label"])
    with torch.no_grad():
        found = loaded.task(loaded.tokenizer(list(texts), padding=True, return_tensors="pt"))[:, 0]
    loss = ((found - truth) ** 2).mean()
    value = loss if monitor == "val/loss" else 1 - loss / truth.var(correction=0)
    assert float(value) == pytest.approx(best, rel=1e-4, abs=1e-6)  # r2 is near 0 here


def test_patience_ends_the_training_early(runs, tmp_path):
    runs.target(tmp_path, "patience=1", epochs=50, lr=0.0)
    assert fitted(tmp_path)["epochs"] == 2  # no improvement in the second
    assert fitted(tmp_path)["steps"] == 8


@CONSTANT
def test_undefined_correlation_counts_as_no_improvement(runs, tmp_path):
    removed = ["~head.pooling", "~head.activation", "~head.dropout"]
    constant = "head._target_=tests.experiments.test_stage_runner.ConstantHead"
    found = runs.target(tmp_path, *removed, constant, "patience=3", epochs=50, lr=0.0)
    assert fitted(tmp_path)["epochs"] == 3
    assert found["rows"][0]["metrics"]["pearson"]["values"] == [None]


def test_gradients_are_clipped(runs, tmp_path):
    steps = []
    for value in ("null", "1e-3"):
        sgd = ["optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 1.0}"]
        runs.target(
            tmp_path / value,
            "~optimizer",
            "+" + sgd[0],
            "finetuning.scheduler=null",
            f"+trainer.gradient_clip_val={value}",
            "+trainer.max_steps=1",
            "keep=last",
            lr=0,
        )
        start, end = Watch.started[-1][1], final(tmp_path / value)
        steps.append(
            torch.cat([(end[k] - v).flatten() for k, v in start.items() if k in end]).norm()
        )
    assert steps[0] > 0.05
    assert steps[1] < 0.011  # 1e-3 times 10, the learning rate of the head


def test_accumulated_batches_are_one_step(runs, tmp_path):
    runs.target(tmp_path, "+trainer.accumulate_grad_batches=3", epochs=1)
    assert len(Watch.losses) == 4
    assert fitted(tmp_path)["steps"] == 2  # three batches, and the remaining one


@pytest.mark.parametrize("form", ["bare", "weighted"])
def test_an_objective_is_added_to_the_loss(runs, tmp_path, form):
    spec = "objectives.drift._target_=tests.runs.Drift"
    if form == "weighted":
        spec = (
            "objectives.drift={_target_: lightning_transfer.objectives.Weighted, weight: 3.0, "
            "objective: {_target_: tests.runs.Drift}}"
        )
    runs.target(tmp_path / "plain", epochs=1)
    plain, start = Watch.losses[0], Watch.started[0][1]
    Watch.reset()
    runs.target(tmp_path / "more", f"+{spec}", epochs=1)
    drift = sum((v**2).mean() for k, v in start.items() if k.startswith("head."))
    weight = 3.0 if form == "weighted" else 1.0
    assert Watch.losses[0] - plain == pytest.approx(weight * float(drift), rel=1e-4)
    header = (tmp_path / "more/stages/target-seed0/metrics.csv").read_text().splitlines()[0]
    assert "train/drift" in header


def test_a_class_that_is_no_objective_is_an_error(runs, tmp_path):
    with pytest.raises(ValueError, match=r"stages.target.objectives.drift.*os.system"):
        runs.target(tmp_path, "+objectives.drift._target_=os.system")


def test_a_frozen_backbone_does_not_change(runs, tmp_path):
    runs.target(tmp_path, overrides=["finetuning@stages.target.finetuning=frozen"])
    start, end = Watch.started[0][1], final(tmp_path)
    assert same(end, start, "backbone.")
    assert not same(end, start, "head.")


def test_a_head_of_the_user_is_built_from_the_config_for_the_test(runs, tmp_path):
    removed = ["~head.pooling", "~head.activation", "~head.dropout"]
    wide = "head._target_=tests.experiments.test_stage_runner.WideHead"
    runs.target(tmp_path, *removed, wide, epochs=1)
    assert "head.wide.weight" in final(tmp_path)


class WideHead(nn.Module):
    """A head of the user; a checkpoint does not know its arguments."""

    def __init__(self, hidden_size, num_outputs):
        super().__init__()
        self.wide = nn.Linear(hidden_size, 4 * hidden_size)
        self.out = nn.Linear(4 * hidden_size, num_outputs)

    def forward(self, hidden, attention_mask):
        return self.out(torch.relu(self.wide(hidden[:, 0])))  # (batch, num_outputs)


class ConstantHead(WideHead):
    """Predicts 0 for every text."""

    def __init__(self, hidden_size, num_outputs):
        super().__init__(hidden_size, num_outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


@pytest.mark.parametrize(
    ("option", "steps"),
    [
        ("+trainer.max_steps=3", 3),
        ("+trainer.max_steps=6", 6),
        ("+trainer.max_epochs=1", 4),
        ("+trainer.limit_train_batches=2", 4),
        ("+trainer.fast_dev_run=true", 1),
        ("+trainer.limit_val_batches=0", 8),
        ("+trainer.val_check_interval=2", 8),
        ("+trainer.check_val_every_n_epoch=2", 8),
        ("+trainer.overfit_batches=2", 4),
        ("+trainer.max_time={seconds: 0}", 0),
        ("+trainer.max_time='00:00:00:00'", 0),
        ("data.splits.val=0", 8),
    ],
)
def test_trainer_arguments_reach_the_trainer(runs, tmp_path, option, steps):
    runs.target(tmp_path, option)
    assert fitted(tmp_path)["steps"] == steps


def test_a_trainer_argument_may_be_an_object(runs, tmp_path):
    runs.target(
        tmp_path,
        "+trainer.profiler._target_=lightning.pytorch.profilers.SimpleProfiler",
        f"+trainer.profiler.dirpath={tmp_path}",
        "+trainer.profiler.filename=times",
        epochs=1,
    )
    assert list(tmp_path.glob("*times*"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("+trainer.callbacks=[]", r"stages.target.trainer.callbacks.*use stages.\*.callbacks"),
        ("+trainer.logger=false", "stages.target.trainer.logger cannot be set here; use logger="),
        ("+trainer.default_root_dir=x", "use hydra.run.dir"),
        ("+trainer.profiler._target_=os.system", "os.system"),
        ("+trainer.precision=7", "7"),
    ],
)
def test_a_wrong_trainer_argument_is_an_error(runs, tmp_path, option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        runs.target(tmp_path, option)
    assert Watch.started == []


@CONSTANT
def test_bf16_mixed_keeps_float32_weights(runs, tmp_path):
    found = runs.target(tmp_path, overrides=["trainer.precision=bf16-mixed"], epochs=1)
    assert all(v.dtype == torch.float32 for v in final(tmp_path).values() if v.is_floating_point())
    assert found["rows"][0]["metrics"]["r2"]["values"][0] is not None


@CONSTANT
@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 is supported on a GPU")
def test_16_mixed_without_a_gpu_falls_back_to_bf16(runs, tmp_path):
    with pytest.warns(UserWarning, match="not supported on CPU. Using `precision='bf16-mixed'`"):
        runs.target(tmp_path, overrides=["trainer.precision=16-mixed"], epochs=1)
    assert fitted(tmp_path)["steps"] == 4


def test_training_curves_and_metrics_are_written(runs, source):
    assert (source / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
    lines = (source / "stages/target-seed0/metrics.csv").read_text().splitlines()
    assert "val/pearson" in lines[0]


def test_each_seed_draws_other_training_rows(runs, tmp_path):
    found = runs.target(tmp_path, epochs=1, overrides=["seeds=[0,1,2]"])
    assert len(set(found["rows"][0]["metrics"]["pearson"]["values"])) == 3
    again = runs.target(tmp_path / "b", epochs=1, overrides=["seeds=[0,1,2]"])
    assert without_seconds(found) == without_seconds(again)
