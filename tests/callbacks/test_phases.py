"""Phases and shorthands of an unfreezing schedule."""

import pytest

from lightning_transfer.callbacks.phases import Phase, Plateau, parse_phases


def spans(given, layers=4):
    """Return the trainable depths and the start of each phase."""
    return [(list(p.depths(layers)), p.start) for p in parse_phases(given, layers)]


@pytest.mark.parametrize(
    ("phase", "depths"),
    [
        ({"from_depth": 0}, [0, 1, 2, 3]),
        ({"from_depth": 3}, [3]),
        ({"from_depth": 4}, []),
        ({"from_depth": "head"}, []),
        ({"from_depth": -2}, [2, 3]),
        ({"from_depth": -4}, [0, 1, 2, 3]),
        ({"from_depth": 1, "to_depth": 3}, [1, 2]),
        ({"from_depth": 1, "to_depth": -1}, [1, 2]),
        ({"from_depth": 2, "to_depth": 2}, []),
    ],
)
def test_trainable_depths(phase, depths):
    assert list(Phase.parse(phase).depths(4)) == depths


def test_one_layer_an_epoch_starts_with_the_head_and_the_top_layer():
    assert spans("one layer an epoch") == [
        ([], ("at_epoch", 0)),
        ([3], ("at_epoch", 1)),
        ([2, 3], ("at_epoch", 2)),
        ([1, 2, 3], ("at_epoch", 3)),
        ([0, 1, 2, 3], ("at_epoch", 4)),
    ]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("one layer every 2 epochs", [("at_epoch", n) for n in (0, 2, 4, 6, 8)]),
        ("One layer  every 50 steps", [("at_step", n) for n in (0, 50, 100, 150, 200)]),
        ("one layer every 10 %", [("at_fraction", n / 10) for n in (0, 1, 2, 3, 4)]),
        ("one layer every 40%", [("at_fraction", n / 10) for n in (0, 4, 8)]),
    ],
)
def test_one_layer_every_few_epochs_steps_or_percent(text, starts):
    found = spans(text)
    assert [start for _, start in found] == starts
    assert [len(depths) for depths, _ in found] == list(range(len(starts)))


@pytest.mark.parametrize(
    "text", ["head > top 2 > all", "head → top 2 → all", "head -> top 2 -> all", "head, top 2,all"]
)
def test_blocks_divide_the_run_evenly(text):
    found = spans(text)
    assert [depths for depths, _ in found] == [[], [2, 3], [0, 1, 2, 3]]
    assert [start[1] for _, start in found] == pytest.approx([0, 1 / 3, 2 / 3])


def test_chain_thaw_trains_each_layer_alone_and_then_all():
    phases = parse_phases("chain-thaw", 3)
    assert [list(p.depths(3)) for p in phases] == [[], [0], [1], [2], [0, 1, 2]]
    assert [p.outside for p in phases] == [True, False, False, False, True]
    assert [p.start[1] for p in phases] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "phases is empty"),
        ([{"at_epoch": 0}], r"a phase must have from_depth, got \{'at_epoch': 0\}"),
        (
            [{"from_depth": 0, "at_epoc": 1}],
            r"unknown phase key 'at_epoc'; did you mean at_epoch or",
        ),
        (["all"], r"a phase must be a mapping such as \{from_depth: 4\}, got 'all'"),
        ([{"from_depth": "top"}], "from_depth must be an integer or head, got 'top'"),
        ([{"from_depth": 1.5}], "from_depth must be an integer or head, got 1.5"),
        ([{"from_depth": True}], "from_depth must be an integer or head, got True"),
        ([{"from_depth": 0, "to_depth": "x"}], "to_depth must be an integer or None, got 'x'"),
        ([{"from_depth": 5}], r"from_depth=5 does not exist: the stack has 4 layers.*0\.\.3"),
        ([{"from_depth": -5}], "from_depth=-5 does not exist"),
        ([{"from_depth": 0, "to_depth": 9}], "to_depth=9 does not exist"),
        ([{"from_depth": 0, "at_epoch": -1}], "at_epoch must be an integer >= 0, got -1"),
        ([{"from_depth": 0, "at_step": 1.5}], "at_step must be an integer >= 0, got 1.5"),
        ([{"from_depth": 0, "at_fraction": 1.0}], r"at_fraction must be in \[0, 1\), got 1.0"),
        (
            [{"from_depth": 0, "at_epoch": 1, "at_step": 1}],
            "a phase must have one start, got at_epoch and at_step",
        ),
        (
            [{"from_depth": 0, "at_epoch": 1}],
            "the first phase must start with the run, got at_epoch=1",
        ),
        (
            [{"from_depth": 0, "at_plateau": {"monitor": "a"}}],
            "the first phase must start with the run, got at_plateau",
        ),
        (
            [{"from_depth": 4}, {"from_depth": 1, "at_step": 9}, {"from_depth": 0, "at_step": 9}],
            "got at_step=9 after at_step=9; sort the phases",
        ),
        (
            [{"from_depth": 4}, {"from_depth": 0, "at_plateau": {"metric": "a"}}],
            "at_plateau: .*unexpected keyword argument 'metric'",
        ),
        ("one layer a day", "phases='one layer a day': unknown phase 'one layer a day'"),
        ("head > top 0", "phases='head > top 0': unknown phase 'top 0'"),
        ("one layer every 1.5 epochs", "one layer every 1.5 epochs' must have an integer"),
        ("head > top 9", "from_depth=-9 does not exist"),
    ],
)
def test_invalid_schedules_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        [p.depths(4) for p in parse_phases(phases, 4)]


def test_the_first_phase_may_have_an_explicit_start():
    starts = [{"at_epoch": 0}, {"at_step": 0}, {"at_fraction": 0.0}, {}]
    assert all(parse_phases([{"from_depth": 0, **start}], 2) for start in starts)


def test_phases_may_have_different_kinds_of_start():
    phases = [
        Phase("head"),
        {"from_depth": 2, "at_epoch": 1},
        {"from_depth": 1, "at_plateau": {"monitor": "val/loss"}},
        {"from_depth": 0, "at_step": 5},
    ]
    assert [p.start[0] for p in parse_phases(phases, 3)] == [
        "at_step",
        "at_epoch",
        "at_plateau",
        "at_step",
    ]


@pytest.mark.parametrize(
    ("mode", "value", "best", "improves"),
    [
        ("min", 1.0, None, True),
        ("min", 0.8, 1.0, True),
        ("min", 0.95, 1.0, False),
        ("max", 1.2, 1.0, True),
        ("max", 1.05, 1.0, False),
        ("max", float("nan"), 1.0, False),
        ("max", float("nan"), None, False),
    ],
)
def test_an_improvement_exceeds_min_delta(mode, value, best, improves):
    assert Plateau("val/loss", mode, min_delta=0.1).improves(value, best) == improves


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "up"}, "at_plateau.mode must be one of min, max, got 'up'"),
        ({"patience": -1}, "at_plateau.patience must be an integer >= 0.*, got -1 and 0.0"),
        ({"min_delta": -0.5}, "min_delta a number >= 0, got 0 and -0.5"),
    ],
)
def test_plateau_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plateau("val/loss", **arguments)
