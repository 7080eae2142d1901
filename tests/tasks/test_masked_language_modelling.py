"""Masked language modelling: loss, metrics, training, checkpoints and errors."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertForPreTraining

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import check_vocabulary, load, read_weights
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import BlockSpec, RawText, Splits
from lightning_transfer.heads import LanguageModelHead, LinearHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.inference import Predictor
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import MaskedLanguageModelling
from lightning_transfer.utils.labels import Labels, match_outputs
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.data.readers.test_documents import Listed, stories
from tests.tiny import HIDDEN, VOCABULARY, OwnBackbone, make_backbone, make_inputs, make_trainer

TOKENS = Labels("masked_tokens")
PAIRS = Labels("masked_tokens", ("next", "other"))


def make_task(name="bert", labels=TOKENS, seed=0, eps=1e-12, **changes):
    backbone = make_backbone(name, seed=seed, **changes)

    def factory(*sizes, vocabulary):
        return LanguageModelHead(*sizes, vocabulary=vocabulary, norm_eps=eps)

    head = make_head(factory, backbone, labels.num_outputs)
    task = MaskedLanguageModelling(backbone, head, labels=labels)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return task.eval()


def make_batch(labels=TOKENS):
    ids, mask = make_inputs()
    targets = torch.full_like(ids, -100)
    for row, place in ((0, 1), (0, 5), (1, 2), (2, 3)):
        targets[row, place] = ids[row, place]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": targets}
    if labels.names:
        batch |= {"pair_labels": torch.tensor([0, 1, 1]), "token_type_ids": mask * 0}
    return {**batch, "index": torch.arange(3)}


def data(tokenizer, packing="packed", seed=0):
    module = RawText(
        Listed(*stories(24, seed=seed)),
        blocks=BlockSpec(24, packing),
        splits=Splits(val=4, test=4),
        batch_size=8,
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    module.tokenizer = tokenizer
    return module


def hf_model(task):
    """Return the pretraining model of transformers with the same weights."""
    config = task.backbone.config
    model = BertForPreTraining(config).eval()
    model.bert.load_state_dict(task.backbone.model.state_dict(), strict=False)
    head, hf_head = task.head, model.cls.predictions
    hf_head.transform.dense.load_state_dict(head.transform.state_dict())
    hf_head.transform.LayerNorm.load_state_dict(head.norm.state_dict())
    hf_head.decoder.bias.data.copy_(head.bias)
    model.bert.pooler.dense.load_state_dict(head.dense.state_dict())
    model.cls.seq_relationship.load_state_dict(head.out.state_dict())
    return model


def test_the_loss_equals_that_of_bert_pretraining_in_transformers():
    task, batch = make_task(labels=PAIRS), make_batch(PAIRS)
    expected = hf_model(task)(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=batch["token_type_ids"],
        labels=batch["labels"],
        next_sentence_label=batch["pair_labels"],
    )
    outputs = task(batch)
    assert torch.allclose(task.loss(outputs, batch["labels"]), expected.loss, atol=1e-5)
    wanted = batch["labels"] != -100
    assert torch.allclose(outputs.tokens, expected.prediction_logits[wanted], atol=1e-5)
    assert torch.allclose(outputs.pairs, expected.seq_relationship_logits, atol=1e-5)


def test_logits_are_computed_for_masked_positions_only():
    task, batch = make_task(), make_batch()
    assert task(batch).tokens.shape == (4, VOCABULARY)
    whole = task({k: v for k, v in batch.items() if k != "labels"}).tokens
    assert whole.shape == (17, VOCABULARY)
    places = (batch["labels"] != -100)[batch["attention_mask"].bool()]
    assert torch.allclose(whole[places], task(batch).tokens)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
def test_the_head_is_tied_to_the_embeddings(name):
    task, batch = make_task(name), make_batch()
    names = {key for key, _ in task.named_parameters() if key.startswith("head.")}
    assert not any(name.startswith(("head.dense", "head.out")) for name in names)
    table = task.backbone.token_embeddings.weight
    task.loss(task(batch), batch["labels"]).backward()
    unseen = [t for t in range(VOCABULARY) if t not in batch["input_ids"].unique()]
    assert (table.grad[unseen].abs().sum(1) > 0).all()  # from the output layer only
    assert sum(p is table for p in task.parameters()) == 1


def test_a_step_on_tokens_and_pairs_reaches_every_parameter():
    task, batch = make_task(labels=PAIRS), make_batch(PAIRS)
    task.loss(task(batch), batch["labels"]).backward()
    without = [name for name, p in task.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("packing", ["packed", "pairs"])
def test_metrics_are_averaged_over_the_masked_tokens(tokenizer, packing):
    module = data(tokenizer, packing)
    task = make_task(labels=module.labels, max_position_embeddings=40)
    [values] = make_trainer().test(task, datamodule=module, verbose=False)
    losses, hits, unigram, pairs = [], [], [], []
    with torch.no_grad():
        for batch in module.test_dataloader():
            outputs = task(batch)
            wanted = batch["labels"][batch["labels"] != -100]
            losses += nn.functional.cross_entropy(outputs.tokens, wanted, reduction="none").tolist()
            hits += (outputs.tokens.argmax(-1) == wanted).tolist()
            unigram += batch["unigram_loss"].tolist()
            if packing == "pairs":
                pairs += (outputs.pairs.argmax(-1) == batch["pair_labels"]).tolist()
    mean = sum(losses) / len(losses)
    assert values["test/mlm_loss"] == pytest.approx(mean, 1e-4)
    assert values["test/perplexity"] == pytest.approx(math.exp(mean), 1e-4)
    assert values["test/mlm_accuracy"] == pytest.approx(sum(hits) / len(hits), 1e-4)
    assert values["test/unigram_loss"] == pytest.approx(sum(unigram) / len(unigram), 1e-4)
    assert ("test/nsp_accuracy" in values) == (packing == "pairs")
    if pairs:
        assert values["test/nsp_accuracy"] == pytest.approx(sum(pairs) / len(pairs), 1e-4)


def test_only_a_new_head_gets_token_frequencies_as_bias(tokenizer):
    module = data(tokenizer)
    backbone = make_backbone(vocab_size=VOCABULARY + 5)  # more rows than tokens
    head = LanguageModelHead(HIDDEN, 0, vocabulary=(VOCABULARY + 5, HIDDEN))
    task = MaskedLanguageModelling(backbone, head, labels=TOKENS)
    make_trainer().validate(task, datamodule=module, verbose=False)
    expected = torch.from_numpy(module.unigram)
    assert torch.equal(head.bias[: len(tokenizer)], expected)
    assert (head.bias[len(tokenizer) :] == expected.min()).all()
    with torch.no_grad():
        head.bias.fill_(0.5)
    make_trainer().validate(task, datamodule=module, verbose=False)
    assert (head.bias == 0.5).all()


def test_training_reduces_the_loss_below_the_unigram_baseline(tokenizer):
    texts = [" ".join([word] * count) for word in WORDS for count in (12, 14, 16)]
    module = RawText(
        Listed(*texts),  # a masked word equals its neighbours
        blocks=BlockSpec(20, "cut"),
        splits=Splits(val=4, test=16),
        batch_size=8,
    )
    module.tokenizer = tokenizer
    task = make_task(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    task.recipe = Recipe(partial(torch.optim.AdamW, lr=1e-2), groups=ParameterGroups(1.0))
    make_trainer(max_epochs=8).fit(task, datamodule=module)
    [values] = make_trainer().test(task, datamodule=module, verbose=False)
    assert values["test/mlm_loss"] < values["test/unigram_loss"] - 0.3


def checkpoint(folder, tokenizer, packing="packed", **changes):
    module = data(tokenizer, packing)
    task = make_task(labels=module.labels, **changes)
    trainer = make_trainer(max_steps=2)
    trainer.fit(task, datamodule=module)
    path = folder / "last.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path, task.eval()


@pytest.mark.parametrize("packing", ["packed", "pairs"])
def test_a_checkpoint_gives_the_same_logits(tmp_path, tokenizer, packing):
    path, task = checkpoint(tmp_path, tokenizer, packing)
    loaded = load(path).task
    batch = make_batch(task.labels)
    assert type(loaded) is MaskedLanguageModelling
    assert torch.equal(loaded(batch).tokens, task(batch).tokens)
    if packing == "pairs":
        assert torch.equal(loaded(batch).pairs, task(batch).pairs)


def test_the_head_is_transferred_only_to_the_same_task_and_the_backbone_to_any(tmp_path, tokenizer):
    path, task = checkpoint(tmp_path, tokenizer)
    start = read_weights(path)
    moods = Labels("single_label", ("good", "bad"))
    backbone, head = make_backbone(seed=9), LinearHead(HIDDEN, 2)
    assert "new head" in str(transfer_weights(start, backbone, head, moods))
    for name, value in task.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    same = make_task(seed=9)
    assert "head kept" in str(transfer_weights(start, same.backbone, same.head, TOKENS))
    assert torch.equal(same.head.bias, task.head.bias)
    paired = make_task(seed=9, labels=PAIRS)
    assert "new head" in str(transfer_weights(start, paired.backbone, paired.head, PAIRS))


def test_labels_of_masked_tokens_match_no_other_kind():
    assert match_outputs(TOKENS, TOKENS) == []
    assert match_outputs(PAIRS, PAIRS) == [0, 1]
    assert match_outputs(TOKENS, PAIRS) is match_outputs(PAIRS, TOKENS) is None
    assert match_outputs(PAIRS, Labels("single_label", ("next", "other"))) is None
    assert match_outputs(Labels("regression"), TOKENS) is None
    assert (TOKENS.num_outputs, PAIRS.num_outputs) == (0, 2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {}),
        ("bert", {"labels": PAIRS}),
        ("roberta", {"eps": 1e-12}),
        ("distilbert", {}),
        ("mpnet", {}),
    ],
)
def test_the_model_folder_gives_the_same_logits_in_transformers(tmp_path, name, changes):
    task = make_task(name, **changes)
    assert export(task, make_tokenizer(), tmp_path / "model")
    batch = {k: v for k, v in make_batch().items() if k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours = task(batch)
        expected = AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()(**batch)
    inside = batch["attention_mask"].bool()
    assert torch.allclose(ours.tokens, expected.logits[inside], atol=1e-5)
    again = load(tmp_path / "model").task
    with torch.no_grad():
        assert torch.equal(again(batch).tokens, ours.tokens)
    if task.labels.names:
        model = AutoModelForPreTraining.from_pretrained(tmp_path / "model").eval()
        with torch.no_grad():
            assert torch.allclose(ours.pairs, model(**batch).seq_relationship_logits, atol=1e-5)


def test_a_head_unknown_to_transformers_is_stored_separately(tmp_path):
    task = make_task("electra")
    assert not export(task, make_tokenizer(), tmp_path / "model")
    batch = make_batch()
    assert torch.equal(load(tmp_path / "model").task(batch).tokens, task(batch).tokens)
    assert not export(make_task(eps=1e-3), make_tokenizer(), tmp_path / "eps")


def test_predictor_rejects_a_task_without_labels():
    with pytest.raises(
        ValueError, match="MaskedLanguageModelling predicts tokens of raw text and has no labels"
    ):
        Predictor(make_task(), make_tokenizer(), None)


def test_wrong_backbone_head_or_labels_are_errors():
    backbone = make_backbone()
    with pytest.raises(ValueError, match="needs a LanguageModelHead, got LinearHead; set head="):
        MaskedLanguageModelling(backbone, LinearHead(HIDDEN, 1), labels=TOKENS)
    head = LanguageModelHead(HIDDEN, 0, vocabulary=(VOCABULARY, HIDDEN))
    with pytest.raises(ValueError, match="needs labels of kind 'masked_tokens', got 'regression'"):
        MaskedLanguageModelling(backbone, head, labels=Labels("regression"))
    with pytest.raises(ValueError, match="OwnBackbone has no `token_embeddings`"):
        MaskedLanguageModelling(OwnBackbone(), head, labels=TOKENS)
    with pytest.raises(ValueError, match="OwnBackbone has no `token_embeddings`"):
        make_head(LanguageModelHead, OwnBackbone(), 0)
    with pytest.raises(ValueError, match="this head has no output for pairs of texts"):
        head(torch.zeros(1, 2, HIDDEN))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_an_error(tokenizer):
    check_vocabulary(tokenizer, make_backbone())
    with pytest.raises(
        ValueError, match="the tokenizer has 33 tokens, the backbone has embeddings"
    ):
        check_vocabulary(tokenizer, make_backbone(vocab_size=20))


def test_a_pretrained_pooler_initialises_the_head_for_pairs(tiny_bert):
    backbone = Backbone(tiny_bert)
    head = make_head(LanguageModelHead, backbone, 2)
    transfer_weights(None, backbone, head, PAIRS)
    assert torch.equal(head.dense.weight, backbone.pooler_state["weight"])
