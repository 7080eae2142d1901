"""Extractive summarization and its lead-n baseline."""

from functools import partial

import pytest
import torch
from torch import nn
from torchmetrics.functional.text import rouge_score

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.data import Extract
from lightning_transfer.heads import MLPHead
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import LeadSentences, SentenceExtraction
from lightning_transfer.tasks.metrics.summary_metrics import SummaryRouge
from lightning_transfer.utils import Labels
from tests.data.domains.test_highlighted_sentences import folder, make_data
from tests.tiny import HIDDEN, make_backbone, make_inputs, make_trainer

__all__ = ["folder"]  # a fixture
LABELS = Labels("single_label", ("other", "highlight"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
]


def make_task(kind=SentenceExtraction, *, lr=0.01):
    recipe = Recipe(partial(torch.optim.AdamW, lr=lr), None, ParameterGroups())
    backbone = make_backbone(hidden_dropout_prob=0.0)
    return kind(backbone, MLPHead(HIDDEN, 2), labels=LABELS, recipe=recipe)


def score_of(task, data):
    [found] = make_trainer().test(task, datamodule=data, verbose=False)
    return {name.removeprefix("test/"): value for name, value in found.items()}


@pytest.mark.parametrize("size", [1, 3])
def test_lead_sentences_selects_the_first_sentences(folder, tokenizer, size):
    data = make_data(folder, tokenizer, extract=Extract(sentences=size))
    found = score_of(make_task(LeadSentences), data)
    extraction = data.extraction
    scores = [
        rouge_score(
            " ".join(extraction.documents[paper][:size]),
            extraction.references[paper],
            rouge_keys=("rouge1", "rouge2", "rougeL"),
        )
        for paper in range(22, 28)
    ]
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = 100 * sum(float(score[f"{name}_fmeasure"]) for score in scores) / len(scores)
        assert found[name] == pytest.approx(expected, abs=1e-3)


def test_a_trained_model_beats_the_lead_baseline(folder, tokenizer, tmp_path):
    torch.manual_seed(0)
    data, task = make_data(folder, tokenizer), make_task()
    trainer = make_trainer(max_epochs=5)
    trainer.fit(task, datamodule=data)
    assert {"val/rouge1", "val/rouge2", "val/rougeL"} <= set(trainer.callback_metrics)
    found, lead = score_of(task, data), score_of(make_task(LeadSentences), data)
    assert found["rougeL"] > 90 > lead["rougeL"] + 20
    assert found["average_precision"] > 0.9
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    loaded = load(tmp_path / "a.ckpt").task
    ids, mask = make_inputs()
    batch = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(loaded(batch), task.eval()(batch))
    assert score_of(loaded, data) == pytest.approx(found)


def test_scores_of_several_ranks_are_merged():
    class TwoDocuments:
        references = ("a b", "c d")

        def summaries(self, rows, scores):
            return {int(row): "a b" if score > 0.5 else "x" for row, score in zip(rows, scores)}  # noqa: B905

    parts = [SummaryRouge("rouge1"), SummaryRouge("rouge1")]
    for row, part in enumerate(parts):
        part.extraction = TwoDocuments()
        part.update(torch.tensor([0.9]), torch.tensor([row]))
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == pytest.approx(50)  # the first is correct, the second is not


def test_wrong_labels_and_missing_documents_are_errors():
    metric = SummaryRouge("rouge1")
    metric.update(torch.tensor([0.9]), torch.tensor([0]))
    with pytest.raises(RuntimeError, match="extraction is not set"):
        metric.compute()
    backbone = make_backbone()
    three = Labels("single_label", ("a", "b", "c"))
    with pytest.raises(ValueError, match="'single_label' with 2 names, got 'single_label' with"):
        SentenceExtraction(backbone, MLPHead(HIDDEN, 3), labels=three)
    with pytest.raises(ValueError, match="needs a DataModule with `extraction`, got NoneType"):
        make_task().setup("fit")


def test_the_loss_is_cross_entropy():
    logits, targets = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    assert make_task().loss(logits, targets) == nn.functional.cross_entropy(logits, targets)
