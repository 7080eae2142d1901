"""Causal language modelling: loss, metrics, training, checkpoints and errors."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from lightning_transfer.checkpoints.loading import load, read_weights
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import BlockSpec, RawText, Splits
from lightning_transfer.data.batching.masking import NextTokens
from lightning_transfer.heads import LinearHead, NextTokenHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.inference import Predictor
from lightning_transfer.optim import ParameterGroups, Recipe
from lightning_transfer.tasks import CausalLanguageModelling
from lightning_transfer.utils.labels import Labels, match_outputs
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.data.readers.test_documents import Listed, stories
from tests.tiny import HIDDEN, VOCABULARY, OwnBackbone, make_backbone, make_inputs, make_trainer
from tests.tiny_seq2seq import make_seq2seq

NEXT = Labels("next_tokens")


def make_task(seed=0, **changes):
    backbone = make_seq2seq("gpt2", seed=seed, **changes)
    head = make_head(NextTokenHead, backbone, 0)
    return CausalLanguageModelling(backbone, head, labels=NEXT).eval()


def make_batch():
    ids, mask = make_inputs()
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:]
    shifted = torch.zeros_like(mask)
    shifted[:, :-1] = mask[:, 1:]
    labels = labels.masked_fill(shifted == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": torch.arange(3)}


def data(tokenizer, packing="packed", texts=None):
    module = RawText(
        Listed(*(texts or stories(24))),
        blocks=BlockSpec(20, packing),
        pretraining="causal",
        splits=Splits(val=4, test=4),
        batch_size=8,
    )
    module.tokenizer = tokenizer
    return module


def test_the_loss_equals_that_of_gpt2_in_transformers():
    task, batch = make_task(), make_batch()
    model = GPT2LMHeadModel(task.backbone.config).eval()
    model.transformer.load_state_dict(task.backbone.model.state_dict())
    mask = batch["attention_mask"]
    whole = batch["input_ids"].masked_fill(mask == 0, -100)  # GPT2LMHeadModel shifts the labels
    expected = model(input_ids=batch["input_ids"], attention_mask=mask, labels=whole)
    logits = task(batch)
    assert torch.allclose(task.loss(logits, batch["labels"]), expected.loss, atol=1e-5)
    assert torch.allclose(logits, expected.logits[batch["labels"] != -100], atol=1e-5)


def test_labels_are_the_next_tokens_and_no_input_is_masked(tokenizer):
    module = data(tokenizer)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in loader:
            inside = batch["attention_mask"].bool()
            assert (batch["input_ids"][inside] != tokenizer.mask_token_id).all()
            later = inside[:, 1:]
            assert torch.equal(batch["labels"][:, :-1][later], batch["input_ids"][:, 1:][later])
            assert (batch["labels"][:, -1] == -100).all()
            assert (batch["labels"] != -100).sum() == later.sum()
    assert module.labels == NEXT


def test_a_tokenizer_with_segments_is_an_error(tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    with pytest.raises(
        ValueError,
        match="pretraining='causal' needs a tokenizer without token_type_ids, because GPT",
    ):
        data(tokenizer).rows("train")


def test_next_tokens_are_the_row_shifted_by_one():
    seen, targets = NextTokens()(np.array([4, 5, 6]), np.zeros(3, bool), np.random.default_rng(0))
    assert (seen.tolist(), targets.tolist()) == ([4, 5, 6], [5, 6, -100])


def test_a_prediction_depends_on_earlier_tokens_only():
    task, batch = make_task(), make_batch()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 3:] = 7
    before = (torch.arange(7) < 3)[(batch["labels"] != -100).nonzero()[:, 1]]
    assert torch.allclose(task(batch)[before], task(changed)[before], atol=1e-6)
    assert not torch.allclose(task(batch)[~before], task(changed)[~before], atol=1e-3)


@pytest.mark.parametrize("packing", ["packed", "cut"])
def test_metrics_are_averaged_over_all_tokens(tokenizer, packing):
    module, task = data(tokenizer, packing), make_task()
    [values] = make_trainer().test(task, datamodule=module, verbose=False)
    losses, hits, unigram = [], [], []
    with torch.no_grad():
        for batch in module.test_dataloader():
            logits, wanted = task(batch), batch["labels"][batch["labels"] != -100]
            losses += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
            hits += (logits.argmax(-1) == wanted).tolist()
            unigram += batch["unigram_loss"].tolist()
    mean = sum(losses) / len(losses)
    assert values["test/lm_loss"] == pytest.approx(mean, 1e-4)
    assert values["test/perplexity"] == pytest.approx(math.exp(mean), 1e-4)
    assert values["test/lm_accuracy"] == pytest.approx(sum(hits) / len(hits), 1e-4)
    assert values["test/unigram_loss"] == pytest.approx(sum(unigram) / len(unigram), 1e-4)


def test_training_reduces_the_loss_below_the_unigram_baseline(tokenizer):
    texts = [" ".join([word] * count) for word in WORDS for count in (12, 14, 16)]
    module = data(tokenizer, "cut", texts)
    task = make_task(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    task.recipe = Recipe(partial(torch.optim.AdamW, lr=1e-2), groups=ParameterGroups(1.0))
    make_trainer(max_epochs=6).fit(task, datamodule=module)
    [values] = make_trainer().test(task, datamodule=module, verbose=False)
    assert values["test/lm_loss"] < values["test/unigram_loss"] - 0.5


def test_a_checkpoint_gives_the_same_logits_and_can_be_transferred(tmp_path, tokenizer):
    module, task = data(tokenizer), make_task()
    trainer = make_trainer(max_steps=2)
    trainer.fit(task, datamodule=module)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    loaded, batch = load(tmp_path / "last.ckpt").task, make_batch()
    assert type(loaded) is CausalLanguageModelling
    assert torch.equal(loaded(batch), task.eval()(batch))
    start = read_weights(tmp_path / "last.ckpt")
    same = make_task(seed=9)
    assert "head kept" in str(transfer_weights(start, same.backbone, same.head, NEXT))
    assert torch.equal(same(batch), task(batch))
    moods = Labels("single_label", ("good", "bad"))
    assert "new head" in str(transfer_weights(start, same.backbone, LinearHead(HIDDEN, 2), moods))


def test_the_model_folder_gives_the_same_logits_and_text_in_transformers(tmp_path):
    task, batch = make_task(), make_batch()
    assert export(task, make_tokenizer(), tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours = task(inputs)
        assert torch.allclose(ours, model(**inputs).logits[batch["attention_mask"].bool()])
        again = load(tmp_path / "model").task
        assert torch.equal(again(inputs), ours)
        first = batch["input_ids"][:1]
        generated = model.generate(
            first, attention_mask=first * 0 + 1, max_new_tokens=1, do_sample=False
        )
    assert generated[0, -1] == ours[first.shape[1] - 1].argmax()


def test_labels_of_next_tokens_match_no_other_kind():
    assert match_outputs(NEXT, NEXT) == []
    assert (
        match_outputs(NEXT, Labels("masked_tokens"))
        is match_outputs(Labels("masked_tokens"), NEXT)
        is None
    )
    assert (NEXT.num_outputs, NEXT.is_raw_text, Labels("text").is_raw_text) == (0, True, False)
    with pytest.raises(ValueError, match=r"'next_tokens' labels have no names, got \['next'\]"):
        Labels("next_tokens", ("next",))


def test_wrong_backbone_head_labels_or_data_are_errors(tokenizer):
    causal = make_seq2seq("gpt2")
    head = NextTokenHead(HIDDEN, 0, vocabulary=(VOCABULARY, HIDDEN))
    with pytest.raises(ValueError, match=r"needs a NextTokenHead, .* got LinearHead; set head="):
        CausalLanguageModelling(causal, LinearHead(HIDDEN, 1), labels=NEXT)
    with pytest.raises(
        ValueError, match="needs labels of kind 'next_tokens', got 'masked_tokens'; use raw text"
    ):
        CausalLanguageModelling(causal, head, labels=Labels("masked_tokens"))
    with pytest.raises(
        ValueError, match="got Backbone without a true `is_causal`; set backbone=hub"
    ):
        CausalLanguageModelling(make_backbone(), head, labels=NEXT)
    own = OwnBackbone()
    own.is_causal = True
    with pytest.raises(ValueError, match="OwnBackbone has no `token_embeddings`"):
        CausalLanguageModelling(own, head, labels=NEXT)
    with pytest.raises(ValueError, match="predicts tokens of raw text and has no labels"):
        Predictor(make_task(), tokenizer, None)
    with pytest.raises(ValueError, match="pretraining must be one of masked, causal, got 'last'"):
        RawText(Listed("a"), pretraining="last")
    with pytest.raises(
        ValueError,
        match=r"pairs needs pretraining=masked, got pretraining='causal'; set data.block",
    ):
        RawText(Listed("a"), pretraining="causal", blocks=BlockSpec(20, "pairs"))


def test_is_causal_is_true_for_gpt2_and_false_for_encoders():
    assert make_seq2seq("gpt2").is_causal
    assert not any(make_backbone(name).is_causal for name in ("bert", "distilbert", "deberta-v2"))
