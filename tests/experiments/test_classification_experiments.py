"""The experiments on topics and spam on a few rows, with the packaged MiniLM."""

import json

import pytest

from lightning_transfer.cli import main
from tests.minute import within_a_minute

pytestmark = [pytest.mark.slow, pytest.mark.network]


def fit(experiment, folder, *overrides):
    """Run an experiment for one epoch and one seed; return its results by row name."""
    command = ["fit", f"+experiment={experiment}", "seeds=[0]", "trainer.max_epochs=1"]
    with within_a_minute():
        assert (
            main([*command, "trainer.accelerator=cpu", f"hydra.run.dir={folder}", *overrides]) == 0
        )
    found = json.loads((folder / "results.json").read_text())
    return {row["name"]: row for row in found["rows"]}


def test_news_topics_gets_a_new_head_for_other_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["data.train_size=40", "data.splits.val=20", "data.splits.test=30", "data.batch_size=8"]
    stages = ("source", "target", "frozen")
    overrides = [f"stages.{stage}.{value}" for stage in stages for value in small]
    rows = fit("news_topics", tmp_path / "run", *overrides)
    assert list(rows) == ["source", "frozen", "no_source", "transfer"]
    assert [row["n_test"] for row in rows.values()][1:] == [rows["transfer"]["n_test"]] * 3
    logged = (tmp_path / "run/fit.log").read_text()
    assert "new head: the labels negative, positive become business, entertainment, p" in logged
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert list(config["label2id"]) == ["business", "entertainment", "politics", "sports", "tech"]


def test_spam_low_resource_has_a_row_per_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["stages.source.data.train_size=40", "stages.source.data.splits.test=20"]
    small += ["stages.target.data.splits.test=40", "stages.target.trainer.max_steps=4"]
    rows = fit("spam_low_resource", tmp_path / "run", *small, "curve.train_size=[4/class,8/class]")
    assert {name: row["n_train"] for name, row in rows.items()} == {
        "source": 40,
        "zero_shot": 0,
        "no_source@4/class": 8,
        "no_source@8/class": 16,
        "transfer@4/class": 8,
        "transfer@8/class": 16,
    }
    assert (tmp_path / "run/train_sizes.png").is_file()
