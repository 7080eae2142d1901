"""Plan of an experiment: rows, chains of stage runs, learning curves, and errors."""

from pathlib import PurePosixPath

import pytest

from lightning_transfer.experiments.plan import PlannedRow, Point, StageRun, plan_rows

STAGES = {"source": {}, "middle": {}, "target": {}}
BASELINES = {
    "zero_shot": {"order": ["source"], "test": "target"},
    "no_source": {"order": ["target"], "test": "target"},
}


def rows(order, baselines=None, **settings):
    stages = {name: settings.get(name, {}) for name in STAGES}
    return plan_rows(order, stages, baselines or {})


def skip(*names):
    return {name: {"skip": True} for name in names}


def test_rows_are_the_earlier_stages_then_the_baselines_then_the_transfer():
    assert rows(["source", "target"], BASELINES) == [
        PlannedRow("source", ("source",), "source"),
        PlannedRow("zero_shot", ("source",), "target"),
        PlannedRow("no_source", ("target",), "target"),
        PlannedRow("transfer", ("source", "target"), "target"),
    ]


def test_one_stage_is_one_row_with_its_name():
    assert rows(["target"]) == [PlannedRow("target", ("target",), "target")]


def test_three_stages_make_a_chain():
    names = [(row.name, row.order) for row in rows(["source", "middle", "target"])]
    assert names == [
        ("source", ("source",)),
        ("middle", ("source", "middle")),
        ("transfer", ("source", "middle", "target")),
    ]


def test_a_baseline_is_scored_on_the_last_stage_by_default():
    [_, baseline, _] = rows(["source", "target"], {"other": {"order": ["source"]}})
    assert baseline == PlannedRow("other", ("source",), "target")


def test_a_skipped_stage_is_removed_from_every_chain():
    planned = rows(["source", "middle", "target"], BASELINES, **skip("middle"))
    assert planned == rows(["source", "target"], BASELINES)


def test_a_baseline_equal_to_the_transfer_is_dropped():
    assert rows(["source", "target"], BASELINES, **skip("source")) == [
        PlannedRow("target", ("target",), "target")
    ]


def test_a_baseline_with_a_skipped_test_stage_is_dropped():
    assert [row.name for row in rows(["source", "target"], BASELINES, **skip("target"))] == [
        "source"
    ]


def test_a_row_is_trained_on_the_target_if_its_last_stage_scores_it():
    trained = {row.name: row.trained_on_target for row in rows(["source", "target"], BASELINES)}
    assert trained == {"source": True, "zero_shot": False, "no_source": True, "transfer": True}


def test_a_stage_without_a_fixed_seed_has_that_of_the_run():
    row = PlannedRow("transfer", ("source", "target"), "target")
    run = row.stage_run(2, {"source": None})
    assert run == StageRun("target", 2, StageRun("source", 2))
    assert run.folder == PurePosixPath("stages/source-seed2/target-seed2")
    assert run.title == "target after source · seed 2"
    assert [step.stage for step in run.chain] == ["source", "target"]


def test_a_stage_with_a_fixed_seed_is_one_stage_run_for_all_seeds():
    row = PlannedRow("transfer", ("source", "target"), "target")
    runs = [row.stage_run(seed, {"source": 0}) for seed in (0, 1, 2)]
    assert {run.previous for run in runs} == {StageRun("source", 0)}
    assert [str(run.folder) for run in runs] == [
        f"stages/source-seed0/target-seed{seed}" for seed in (0, 1, 2)
    ]
    zero_shot = PlannedRow("zero_shot", ("source",), "target")
    assert zero_shot.stage_run(2, {"source": 0}) == runs[0].previous


def rows_of_curve(order, baselines=None, *, stage="target", sizes=("8/class", 64), **settings):
    stages = {name: settings.get(name, {}) for name in STAGES}
    return plan_rows(order, stages, baselines or {}, {"stage": stage, "train_size": list(sizes)})


def test_a_curve_repeats_each_row_that_trains_its_stage():
    planned = rows_of_curve(["source", "target"], BASELINES)
    assert [(row.name, row.base, row.point) for row in planned] == [
        ("source", "source", None),
        ("zero_shot", "zero_shot", None),
        ("no_source@8/class", "no_source", Point("target", "8/class")),
        ("no_source@64", "no_source", Point("target", 64)),
        ("transfer@8/class", "transfer", Point("target", "8/class")),
        ("transfer@64", "transfer", Point("target", 64)),
    ]


def test_each_size_of_a_curve_has_its_own_folder():
    *_, row, last = rows_of_curve(["source", "target"])
    run = row.stage_run(1, {})
    assert run == StageRun("target", 1, StageRun("source", 1), "8/class")
    assert run.folder == PurePosixPath("stages/source-seed1/target-8-per-class-seed1")
    assert run.title == "target@8/class after source · seed 1"
    assert last.stage_run(1, {}).folder.name == "target-64-seed1"
    assert last.stage_run(1, {}).previous == run.previous


def test_a_curve_of_the_source_varies_all_chains_with_it():
    planned = rows_of_curve(["source", "target"], BASELINES, stage="source", sizes=(8, 64))
    names = [row.name for row in planned]
    assert names == [
        *("source@8", "source@64", "zero_shot@8", "zero_shot@64"),
        *("no_source", "transfer@8", "transfer@64"),
    ]
    run = planned[-1].stage_run(0, {})
    assert (run.train_size, run.previous.train_size) == (None, 64)
    assert run.title == "target after source@64 · seed 0"


def test_a_curve_without_sizes_changes_nothing():
    assert rows_of_curve(["target"], sizes=()) == rows(["target"])
    assert rows_of_curve(["source"], stage="elsewhere", sizes=()) == rows(["source"])


def test_a_curve_of_a_skipped_stage_changes_nothing():
    assert rows_of_curve(["source", "target"], BASELINES, **skip("target")) == rows(["source"])


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (
            {"stage": "target", "sizes": [8]},
            r"unknown keys of curve: sizes; its keys are stage, train_size",
        ),
        ({"stage": "target", "train_size": 8}, "must be a list of sizes such as .*, got 8"),
        ({"stage": "target", "train_size": "8,64"}, "must be a list of sizes such as .*, got '8,6"),
        ({"stage": "target", "train_size": [8, 8]}, r"must hold different sizes, got \[8, 8\]"),
        (
            {"stage": "target", "train_size": [8, None]},
            r"must hold sizes, got null in \[8, None\]; use 1\.0 for all rows",
        ),
        (
            {"stage": "taret", "train_size": [8]},
            "curve.stage: unknown stage 'taret'; did you mean target.*source, target",
        ),
        ({"train_size": [8]}, "curve.stage: unknown stage 'None'"),
        (
            {"stage": "middle", "train_size": [8]},
            r"curve.stage='middle' is trained in no row; use a stage of order: source, target",
        ),
    ],
)
def test_a_wrong_curve_is_an_error(curve, message):
    with pytest.raises(ValueError, match=message):
        plan_rows(["source", "target"], STAGES, {}, curve)


def test_a_stage_after_another_one_is_a_different_stage_run():
    after = StageRun("target", 0, StageRun("source", 0))
    assert after != StageRun("target", 0)
    assert after.folder != StageRun("target", 0).folder
    assert StageRun("target", 0).title == "target · seed 0"


@pytest.mark.parametrize(
    ("order", "baselines", "message"),
    [
        (
            ["sorce"],
            {},
            r"order: unknown stage 'sorce'; did you mean source\? Stages: middle, source, target",
        ),
        (["zzz"], {}, r"order: unknown stage 'zzz'\. Stages: middle, source, target$"),
        (["source", "source"], {}, r"order must name each stage once, got \['source', 'source'\]"),
        ([], {}, r"order must be a list of stage names, got \[\]"),
        ("source", {}, "order must be a list of stage names, got 'source'"),
        (["source"], {"a": {"order": ["zzz"]}}, r"baselines.a.order: unknown stage 'zzz'"),
        (
            ["source"],
            {"a": {"order": ["source"], "test": "zzz"}},
            "baselines.a.test: unknown stage",
        ),
        (
            ["source"],
            {"a": {"test": "source"}},
            r"baselines.a must be a mapping {order: \[stages\], test: stage}, got {'t",
        ),
        (
            ["source"],
            {"a": {"order": ["source"], "on": 1}},
            r"must be a mapping {order: \[stages\], test: stage}, got",
        ),
        (
            ["source", "target"],
            {"transfer": {"order": ["source"]}},
            "baselines.transfer has the name of another row; rename it",
        ),
        (
            ["source", "target"],
            {"source": {"order": ["source"]}},
            "baselines.source has the name of another row; rename it",
        ),
    ],
)
def test_a_wrong_plan_is_an_error(order, baselines, message):
    with pytest.raises(ValueError, match=message):
        rows(order, baselines)


def test_a_run_with_only_skipped_stages_is_an_error():
    with pytest.raises(
        ValueError, match="every stage is skipped; set skip=false in a stage of order"
    ):
        rows(["source", "target"], **skip("source", "target"))
