"""Experiments with a learning curve: one row per number of training rows."""

import json

import pytest
from matplotlib.image import imread

from tests.runs import Watch, rows_of, stage, transfer

pytestmark = pytest.mark.jobs

SIZES = [8, 16, 32]
NAMES = ["transfer@8", "transfer@16", "transfer@32"]


@pytest.fixture(scope="module")
def curved(runs, tmp_path_factory):
    """Transfer with both baselines, three sizes and two seeds."""
    folder = tmp_path_factory.mktemp("curved")
    Watch.reset()
    overrides = transfer(runs.news, runs.movies, "seeds=[0,1]", "stages.source.seed=5")
    found = runs.fit(folder, *overrides, f"curve.train_size={SIZES}")
    return folder, found, Watch.titles()


def test_each_size_is_a_row_with_its_seeds(curved):
    _, found, _ = curved
    rows = rows_of(found)
    baselines = [f"no_source@{size}" for size in SIZES]
    assert list(rows) == ["source", "zero_shot", *baselines, *NAMES]
    assert [rows[name]["n_train"] for name in NAMES] == SIZES
    assert all(len(rows[name]["metrics"]["pearson"]["values"]) == 2 for name in NAMES)
    assert len({rows[name]["metrics"]["pearson"]["mean"] for name in NAMES}) == 3


def test_each_size_has_its_comparison(curved):
    _, found, _ = curved
    rows = rows_of(found)
    assert list(found["comparisons"]) == ["8", "16", "32"]
    assert found["comparison"] == found["comparisons"]["32"]
    for size, comparison in found["comparisons"].items():
        candidate, baseline = (
            rows[f"{name}@{size}"]["metrics"]["pearson"] for name in ("transfer", "no_source")
        )
        difference = candidate["mean"] - baseline["mean"]
        assert comparison["value"] == pytest.approx(difference)
        assert comparison["baseline"] == f"no_source@{size}"
    text = (curved[0] / "results.md").read_text()
    assert "with transfer@32 and" in text
    assert text.count("transfer - no_source@") == 3


def test_the_source_is_trained_once_for_all_sizes(curved):
    folder, _, titles = curved
    assert len(titles) == len(set(titles)) == 1 + 2 * 2 * len(SIZES)
    assert titles.count("source-seed5") == 1
    for size in SIZES:
        run = folder / f"stages/source-seed5/target-{size}-seed1"
        assert json.loads((run / "fit.json").read_text())["n_train"] == size


def test_the_model_folder_has_the_last_size(curved):
    described = json.loads((curved[0] / "model/lightning_transfer.json").read_text())
    assert described["position"]["run"].rpartition("/")[2].startswith("target-32-seed")


def test_the_plot_is_written(curved):
    assert imread(curved[0] / "train_sizes.png").shape[:2] == (504, 768)


def test_a_finished_curve_is_not_trained_again(curved, runs):
    folder, found, _ = curved
    Watch.reset()
    overrides = transfer(runs.news, runs.movies, "seeds=[0,1]", "stages.source.seed=5")
    again = runs.fit(folder, *overrides, f"curve.train_size={SIZES}", resume=True)
    assert Watch.titles() == []
    assert again == found


def test_a_curve_needs_no_baseline(runs, tmp_path):
    overrides = stage("target", runs.movies, label="mood", kind="single_label", epochs=1)
    found = runs.fit(tmp_path, *overrides, "curve.train_size=[2/class,4/class]")
    assert {name: row["n_train"] for name, row in rows_of(found).items()} == {
        "target@2/class": 6,
        "target@4/class": 12,
    }
    assert found["comparison"] is None
    assert "comparisons" not in found
    assert (tmp_path / "stages/target-2-per-class-seed0/final.ckpt").is_file()
    assert (tmp_path / "train_sizes.png").is_file()


def test_a_curve_may_vary_the_source_stage(runs, tmp_path):
    overrides = transfer(runs.news, runs.movies, "curve.stage=source", "curve.train_size=[8,32]")
    rows = rows_of(runs.fit(tmp_path, *overrides))
    assert list(rows) == [
        *("source@8", "source@32", "zero_shot@8", "zero_shot@32"),
        *("no_source", "transfer@8", "transfer@32"),
    ]
    assert [rows[name]["n_train"] for name in ("source@8", "transfer@8")] == [8, 32]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            "[8,900]",
            r"stages.target.data: .*train_size=900 asks for more than the \d+ training row",
        ),
        ("[8,many]", "stages.target.data: train_size must be a count .*, got 'many'"),
        ("[4/class,8]", "stages.target.data: .*train_size=4/class needs one class a row"),
    ],
)
def test_an_impossible_size_is_an_error_before_training(runs, tmp_path, sizes, message):
    Watch.reset()
    with pytest.raises(ValueError, match=message):
        runs.fit(tmp_path, *transfer(runs.news, runs.movies), f"curve.train_size={sizes}")
    assert Watch.titles() == []
