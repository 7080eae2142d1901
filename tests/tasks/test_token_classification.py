"""Token classification: loss, entity scores, model families, checkpoints and errors."""

from functools import partial

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from torch import nn
from transformers import AutoModelForTokenClassification

from lightning_transfer.callbacks import ActivationCache, Freezing
from lightning_transfer.checkpoints.loading import load, read_labels, read_weights
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import Splits
from lightning_transfer.heads import LinearHead, TokenHead
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import SequenceClassification, TokenClassification
from lightning_transfer.tasks.metrics.entity_metrics import EntityScore
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import align_outputs, transfer_weights
from tests.data.test_tagged_text import Tags
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_inputs, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
]
NAMES = ("O", "B-BAD", "I-BAD", "B-GOOD", "I-GOOD")
LABELS = Labels("tags", NAMES)
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "electra", "mpnet", "deberta")
IDS, MASK = make_inputs(lengths=(9, 3, 6))


def make_task(name="bert", *, labels=LABELS, recipe=None, **changes):
    backbone = make_backbone(name, **changes)
    head = TokenHead(HIDDEN, labels.num_outputs)
    nn.init.normal_(head.out.weight)
    nn.init.normal_(head.out.bias)
    return TokenClassification(backbone, head, labels=labels, recipe=recipe).eval()


def logits_of(task):
    with torch.no_grad():
        return task({"input_ids": IDS, "attention_mask": MASK})


def tagged(tokenizer, **arguments):
    data = Tags(splits=Splits(val=10, test=10), batch_size=8, **arguments)
    data.tokenizer = tokenizer
    data.setup("fit")
    return data


def recipe(lr=0.01):
    return Recipe(partial(torch.optim.AdamW, lr=lr), None, ParameterGroups())


def test_the_loss_is_the_mean_over_tokens_with_a_target():
    torch.manual_seed(0)
    logits, task = torch.randn(2, 4, 5), make_task()
    targets = torch.tensor([[-100, 1, 2, -100], [-100, 3, -100, -100]])
    kept = targets != -100
    expected = nn.functional.cross_entropy(logits[kept], targets[kept])
    assert task.loss(logits, targets) == pytest.approx(float(expected), rel=1e-6)
    assert task.loss(logits, torch.full((2, 4), -100)) == 0


def sequences(seed, rows=20):
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, len(NAMES), (rows, 8), generator=generator)
    preds, targets = draw(), draw()
    preds = torch.where(torch.rand(rows, 8, generator=generator) < 0.7, targets, preds)
    targets[torch.rand(rows, 8, generator=generator) < 0.3] = -100
    return preds, targets


def as_tags(preds, targets):
    return [
        [[NAMES[tag] for tag in row[kept]] for row, kept in zip(rows, targets >= 0, strict=True)]
        for rows in (targets, preds)
    ]


@pytest.mark.parametrize(
    ("score", "function"),
    [("f1", f1_score), ("precision", precision_score), ("recall", recall_score)],
)
def test_entity_scores_equal_those_of_seqeval_for_any_batches(score, function):
    preds, targets = sequences(0)
    metric = EntityScore(LABELS, score)
    for rows in (slice(0, 3), slice(3, 20)):
        metric.update(preds[rows], targets[rows])
    expected = function(*as_tags(preds, targets))
    assert 0.1 < expected < 0.95
    assert metric.compute() == pytest.approx(expected, abs=1e-6)


def test_merged_states_give_the_score_of_all_rows():
    metrics = [EntityScore(LABELS), EntityScore(LABELS), EntityScore(LABELS)]
    parts = [sequences(1, rows=5), sequences(2, rows=9)]
    for metric, part in zip(metrics, parts, strict=False):
        metric.update(*part)
        metrics[2].update(*part)
    metrics[0].merge_state(metrics[1])  # with the reductions of several ranks
    assert metrics[0].compute() == metrics[2].compute()


def test_an_inside_tag_may_start_an_entity_and_none_spans_two_rows():
    metric = EntityScore(LABELS)
    # O I-BAD | I-BAD: two entities, in prediction and truth
    metric.update(torch.tensor([[0, 2], [2, 0]]), torch.tensor([[0, 1], [1, 0]]))
    assert (int(metric.right), int(metric.predicted), int(metric.actual)) == (2, 2, 2)


def test_a_batch_without_entities_scores_zero():
    metric = EntityScore(LABELS)
    metric.update(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert metric.compute() == 0


def test_tags_without_prefixes_count_as_single_words():
    metric = EntityScore(Labels("tags", ("NN", "VB", "IN")))
    metric.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 1, -100]]))
    assert metric.compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_and_gives_the_same_logits_from_a_checkpoint(name, tokenizer, tmp_path):
    data = tagged(tokenizer)
    task = make_task(name, recipe=recipe())
    before = {k: v.clone() for k, v in task.state_dict().items()}
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(task, datamodule=data)
    changed = [k for k, v in task.state_dict().items() if not torch.equal(v, before[k])]
    assert "head.out.weight" in changed
    assert any(name.startswith("backbone") for name in changed)
    expected = logits_of(task.eval())
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    loaded = load(tmp_path / "a.ckpt")
    assert torch.equal(logits_of(loaded.task), expected)
    assert type(loaded.task) is TokenClassification
    assert loaded.task.labels == LABELS == read_labels(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_folder_gives_the_same_logits_and_names_in_transformers(
    name, tokenizer, tmp_path
):
    task = make_task(name)
    assert export(task, tokenizer, tmp_path / "model") is True
    model, report = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert {kind: list(names) for kind, names in report.items() if names} == {}
    expected = logits_of(task)
    with torch.no_grad():
        found = model.eval()(input_ids=IDS, attention_mask=MASK).logits
    inside = MASK.bool()
    assert (found - expected)[inside].abs().max() < 1e-5
    assert expected.std((0, 1)).min() > 1e-4  # logits differ between tokens
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: i for i, name in enumerate(NAMES)}
    assert torch.equal(logits_of(load(tmp_path / "model").task), expected)
    assert read_labels(tmp_path / "model") == LABELS


def test_a_model_folder_with_other_logits_is_an_error_and_deleted(tokenizer, tmp_path, monkeypatch):
    task = make_task()
    monkeypatch.setattr(TokenHead, "forward", lambda self, hidden, mask=None: self.out(hidden) * 2)
    with pytest.raises(RuntimeError, match="gives other logits"):
        export(task, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_training_improves_the_entity_score(tokenizer):
    torch.manual_seed(0)
    data = tagged(tokenizer)
    task = make_task(recipe=recipe(0.02), hidden_dropout_prob=0.0)
    trainer = make_trainer(max_epochs=8)
    [before] = trainer.test(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data)
    [found] = trainer.test(task, datamodule=data, verbose=False)
    assert found["test/entity_f1"] > 0.5 > before["test/entity_f1"] + 0.2
    names = {"entity_f1", "entity_precision", "entity_recall", "word_accuracy", "word_f1", "loss"}
    assert set(found) == {f"test/{name}" for name in names}


def test_the_activation_cache_changes_no_loss(tokenizer, tmp_path):
    losses = []
    for callbacks in ([], [ActivationCache(folder=tmp_path)]):
        torch.manual_seed(0)
        task = make_task(recipe=recipe(), hidden_dropout_prob=0.0)
        trainer = make_trainer(max_epochs=2, callbacks=[Freezing(2), *callbacks])
        trainer.fit(task, datamodule=tagged(tokenizer))
        losses.append(float(trainer.callback_metrics["val/loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert any(tmp_path.iterdir())


def test_tags_are_transferred_by_name(tmp_path):
    task = make_task()
    trainer = make_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    start = read_weights(tmp_path / "a.ckpt")
    order = Labels("tags", NAMES[::-1])
    new = make_task(labels=order, seed=5)
    assert "head kept: outputs matched by name" in str(
        transfer_weights(start, new.backbone, new.head, order)
    )
    assert torch.allclose(logits_of(new), logits_of(task).flip(-1), atol=1e-5)
    assert torch.allclose(logits_of(align_outputs(new, LABELS)), logits_of(task), atol=1e-5)
    single = Labels("single_label", NAMES)
    head = LinearHead(HIDDEN, len(NAMES))
    assert "new head" in str(transfer_weights(start, make_backbone(), head, single))


def test_a_custom_backbone_is_accepted():
    task = TokenClassification(OwnBackbone(), TokenHead(HIDDEN, 5), labels=LABELS)
    assert logits_of(task).shape == (3, 9, 5)


def test_wrong_heads_and_labels_are_errors():
    backbone = make_backbone()
    with pytest.raises(
        ValueError, match="a head with one output per token, got LinearHead with one"
    ):
        TokenClassification(backbone, LinearHead(HIDDEN, 5), labels=LABELS)
    single = Labels("single_label", NAMES)
    with pytest.raises(ValueError, match="a head with one output per text, got TokenHead with one"):
        SequenceClassification(backbone, TokenHead(HIDDEN, 5), labels=single)
    with pytest.raises(
        ValueError, match="needs labels of kind 'tags', got 'single_label'; use data=conll"
    ):
        TokenClassification(backbone, TokenHead(HIDDEN, 5), labels=single)
    with pytest.raises(
        ValueError, match="or 'multi_label', got 'tags'; use task=token_classification"
    ):
        SequenceClassification(backbone, LinearHead(HIDDEN, 5), labels=LABELS)
    with pytest.raises(ValueError, match="num_outputs must be >= 1, got 0"):
        TokenHead(HIDDEN, 0)
