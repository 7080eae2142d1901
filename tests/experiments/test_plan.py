from pathlib import PurePosixPath

import pytest

from lightning_transfer.experiments.plan import PlannedRow, Point, StageRun, plan_rows

STAGES = {"source": {}, "middle": {}, "target": {}}
CONTROLS = {
    "zero_shot": {"order": ["source"], "test": "target"},
    "no_source": {"order": ["target"], "test": "target"},
}


def rows(order, baselines=None, **settings):
    stages = {name: settings.get(name, {}) for name in STAGES}
    return plan_rows(order, stages, baselines or {})


def skip(*names):
    return {name: {"skip": True} for name in names}


def test_stages_on_the_way_are_scored_at_home_then_the_controls_then_the_transfer():
    assert rows(["source", "target"], CONTROLS) == [
        PlannedRow("source", ("source",), "source"),
        PlannedRow("zero_shot", ("source",), "target"),
        PlannedRow("no_source", ("target",), "target"),
        PlannedRow("transfer", ("source", "target"), "target"),
    ]


def test_one_stage_is_one_row_of_its_own_name():
    assert rows(["target"]) == [PlannedRow("target", ("target",), "target")]


def test_three_stages_make_a_chain():
    names = [(row.name, row.order) for row in rows(["source", "middle", "target"])]
    assert names == [
        ("source", ("source",)),
        ("middle", ("source", "middle")),
        ("transfer", ("source", "middle", "target")),
    ]


def test_a_control_is_scored_on_the_last_stage_unless_it_says_otherwise():
    [_, baseline, _] = rows(["source", "target"], {"other": {"order": ["source"]}})
    assert baseline == PlannedRow("other", ("source",), "target")


def test_a_skipped_stage_leaves_every_chain():
    planned = rows(["source", "middle", "target"], CONTROLS, **skip("middle"))
    assert planned == rows(["source", "target"], CONTROLS)


def test_a_control_that_has_become_the_transfer_is_left_out():
    assert rows(["source", "target"], CONTROLS, **skip("source")) == [
        PlannedRow("target", ("target",), "target")
    ]


def test_a_control_that_is_tested_on_a_skipped_stage_is_left_out():
    assert [row.name for row in rows(["source", "target"], CONTROLS, **skip("target"))] == [
        "source"
    ]


def test_a_row_has_seen_labels_if_its_last_stage_is_the_one_that_is_scored():
    seen = {row.name: row.saw_labels for row in rows(["source", "target"], CONTROLS)}
    assert seen == {"source": True, "zero_shot": False, "no_source": True, "transfer": True}


def test_a_stage_without_a_seed_of_its_own_takes_the_runs():
    row = PlannedRow("transfer", ("source", "target"), "target")
    run = row.stage_run(2, {"source": None})
    assert run == StageRun("target", 2, StageRun("source", 2))
    assert run.folder == PurePosixPath("stages/source-seed2/target-seed2")
    assert run.title == "target after source · seed 2"
    assert [step.stage for step in run.chain] == ["source", "target"]


def test_a_pinned_stage_is_the_same_work_for_all_seeds():
    row = PlannedRow("transfer", ("source", "target"), "target")
    runs = [row.stage_run(seed, {"source": 0}) for seed in (0, 1, 2)]
    assert {run.before for run in runs} == {StageRun("source", 0)}
    assert [str(run.folder) for run in runs] == [
        f"stages/source-seed0/target-seed{seed}" for seed in (0, 1, 2)
    ]
    zero_shot = PlannedRow("zero_shot", ("source",), "target")
    assert zero_shot.stage_run(2, {"source": 0}) == runs[0].before


def along(order, baselines=None, *, stage="target", sizes=("8/class", 64), **settings):
    stages = {name: settings.get(name, {}) for name in STAGES}
    return plan_rows(order, stages, baselines or {}, {"stage": stage, "train_size": list(sizes)})


def test_a_curve_repeats_each_row_that_trains_its_stage():
    planned = along(["source", "target"], CONTROLS)
    assert [(row.name, row.base, row.point) for row in planned] == [
        ("source", "source", None),
        ("zero_shot", "zero_shot", None),
        ("no_source@8/class", "no_source", Point("target", "8/class")),
        ("no_source@64", "no_source", Point("target", 64)),
        ("transfer@8/class", "transfer", Point("target", "8/class")),
        ("transfer@64", "transfer", Point("target", 64)),
    ]


def test_a_stage_run_of_a_curve_has_a_folder_of_its_own():
    *_, row, last = along(["source", "target"])
    run = row.stage_run(1, {})
    assert run == StageRun("target", 1, StageRun("source", 1), "8/class")
    assert run.folder == PurePosixPath("stages/source-seed1/target-8-per-class-seed1")
    assert run.title == "target@8/class after source · seed 1"
    assert last.stage_run(1, {}).folder.name == "target-64-seed1"
    assert last.stage_run(1, {}).before == run.before


def test_a_curve_of_the_source_goes_through_the_chain():
    planned = along(["source", "target"], CONTROLS, stage="source", sizes=(8, 64))
    names = [row.name for row in planned]
    assert names == [
        *("source@8", "source@64", "zero_shot@8", "zero_shot@64"),
        *("no_source", "transfer@8", "transfer@64"),
    ]
    run = planned[-1].stage_run(0, {})
    assert (run.train_size, run.before.train_size) == (None, 64)
    assert run.title == "target after source@64 · seed 0"


def test_a_curve_without_sizes_is_none():
    assert along(["target"], sizes=()) == rows(["target"])
    assert along(["source"], stage="elsewhere", sizes=()) == rows(["source"])


def test_a_curve_of_a_skipped_stage_goes_with_it():
    assert along(["source", "target"], CONTROLS, **skip("target")) == rows(["source"])


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"stage": "target", "sizes": [8]}, r"keys stage and train_size, got \['sizes'\] beside"),
        ({"stage": "target", "train_size": 8}, "must be a list of sizes such as .*, got 8"),
        ({"stage": "target", "train_size": "8,64"}, "must be a list of sizes such as .*, got '8,6"),
        ({"stage": "target", "train_size": [8, 8]}, r"names a size twice: \[8, 8\]"),
        (
            {"stage": "target", "train_size": [8, None]},
            r"must hold sizes, got null in \[8, None\]; give 1\.0 for all rows",
        ),
        ({"stage": "taret", "train_size": [8]}, "curve.stage names the stage 'taret'.*'target'"),
        ({"train_size": [8]}, "curve.stage names the stage 'None'"),
        ({"stage": "middle", "train_size": [8]}, r"curve.stage='middle' is trained in no row; ord"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(curve, message):
    with pytest.raises(ValueError, match=message):
        plan_rows(["source", "target"], STAGES, {}, curve)


def test_the_same_stage_after_another_is_other_work():
    after = StageRun("target", 0, StageRun("source", 0))
    assert after != StageRun("target", 0)
    assert after.folder != StageRun("target", 0).folder
    assert StageRun("target", 0).title == "target · seed 0"


@pytest.mark.parametrize(
    ("order", "baselines", "message"),
    [
        (["sorce"], {}, r"order names the stage 'sorce', known: .*; did you mean source\?"),
        (["zzz"], {}, r"order names the stage 'zzz', known: \['middle', 'source', 'target'\]\.$"),
        (["source", "source"], {}, r"order names a stage twice: \['source', 'source'\]"),
        ([], {}, r"order must be a list of stage names, got \[\]"),
        ("source", {}, "order must be a list of stage names, got 'source'"),
        (["source"], {"a": {"order": ["zzz"]}}, r"baselines.a.order names the stage 'zzz'"),
        (["source"], {"a": {"order": ["source"], "test": "zzz"}}, "baselines.a.test names the sta"),
        (
            ["source"],
            {"a": {"test": "source"}},
            r"baselines.a has the keys order and test, got {'t",
        ),
        (["source"], {"a": {"order": ["source"], "on": 1}}, "has the keys order and test, got"),
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
def test_a_plan_that_makes_no_sense_is_refused(order, baselines, message):
    with pytest.raises(ValueError, match=message):
        rows(order, baselines)


def test_a_run_of_nothing_but_skipped_stages_is_refused():
    with pytest.raises(ValueError, match="every stage is skipped; nothing is left to run"):
        rows(["source", "target"], **skip("source", "target"))
