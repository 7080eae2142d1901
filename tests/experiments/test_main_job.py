"""The experiment news_to_movies on few rows; `.ci/run` runs it in full from the wheel."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lightning_transfer.cli import main


@pytest.mark.slow
@pytest.mark.network
def test_news_to_movies_with_the_packaged_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [
        "fit +experiment=news_to_movies seeds=[0] stages.source.data.train_size=320",
        "stages.source.epochs=1 stages.target.epochs=1 stages.target.data.splits.test=300",
        f"trainer.accelerator=cpu hydra.run.dir={tmp_path}/run",
    ]
    assert main(" ".join(command).split()) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["source", "zero_shot", "no_source", "transfer"]
    assert (rows["zero_shot"]["n_train"], rows["transfer"]["n_train"]) == (0, 128)
    assert rows["transfer"]["n_test"] == 300
    assert 0.3 < rows["transfer"]["metrics"]["pearson"]["mean"] < 0.9
    assert results["comparison"]["verdict"] == "not significant"  # one seed has no interval
    capsys.readouterr()
    assert main(["predict", f"ckpt={tmp_path}/run", "text=I love this movie!"]) == 0
    label, rating = capsys.readouterr().out.split()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "run/model")(
        "I love this movie!", return_tensors="pt"
    )
    with torch.inference_mode():
        logits = model(**tokens).logits
    assert label in ("negative", "neutral", "positive")
    assert float(rating) == pytest.approx(logits.item(), abs=1e-4)  # printed with 4 digits
    assert model.config.problem_type == "regression"
