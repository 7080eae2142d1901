"""Sequence to sequence: loss, generation, metrics, checkpoints, special tokens and errors."""

import math
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.text import chrf_score, rouge_score, sacre_bleu_score
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import ActivationCache, Freezing
from lightning_transfer.checkpoints.loading import load, read_weights
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.heads import DecoderHead, LinearHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks import Generation, SequenceToSequence
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import align_outputs, transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.seq2seq import (
    FAMILIES,
    IDS,
    SHORT,
    TEXT,
    Pairs,
    make_batch,
    make_target_tokenizer,
    make_task,
)
from tests.tiny import HIDDEN, make_backbone, make_trainer
from tests.tiny_seq2seq import SEQ2SEQ, make_seq2seq

ADAM = Recipe(partial(torch.optim.AdamW, lr=1e-2))
BEAMS = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True}


QUICK = ("t5", "bart", "marian-apart", "bert2bert-wider")


def families(names):
    """Return the names of model families, all but one of each head layout marked as slow."""
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


def logits_of(task, batch):
    with torch.no_grad():
        return task(batch)


@pytest.mark.parametrize("name", families(SEQ2SEQ))
def test_logits_equal_those_of_the_model_of_transformers(name):
    task, batch = make_task(name), make_batch()
    whole = task.hf_model().eval()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = whole(**inputs, decoder_input_ids=task.shift_right(batch["labels"])).logits
    found = logits_of(task, batch)
    assert torch.allclose(found, expected[batch["labels"] != -100], atol=1e-5)
    assert found.std() > 1e-3


@pytest.mark.parametrize("name", families(FAMILIES))
@pytest.mark.parametrize(
    "settings", [{}, BEAMS, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.5}]
)
def test_texts_equal_those_of_generate_in_transformers(name, settings):
    task, batch = make_task(name, generation={**SHORT, **settings}), make_batch()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    found = task.generate(batch)
    expected = task.hf_model().generate(**inputs, **IDS, **SHORT, **settings)
    assert torch.equal(found, expected[:, 1:])
    assert 1 < found.shape[1] <= 8


def test_samples_are_reproducible_with_a_seed():
    task, batch = make_task(generation={**SHORT, "do_sample": True, "top_p": 0.9}), make_batch()
    torch.manual_seed(1)
    first = task.generate(batch)
    torch.manual_seed(1)
    again = task.generate(batch)
    other = task.generate(batch)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("name", families(FAMILIES))
def test_generation_uses_the_trained_weights_without_a_copy(name):
    task, batch = make_task(name), make_batch()
    task.generate(batch)
    own = {id(p) for p in task.parameters()}
    assert {id(p) for p in task.hf_model().parameters()} <= own
    assert not any(name.startswith("_hf_model") for name, _ in task.named_modules())
    before = logits_of(task, batch)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(1.5)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        shifted = task.shift_right(batch["labels"])
        expected = task.hf_model().eval()(**inputs, decoder_input_ids=shifted).logits
    assert torch.allclose(logits_of(task, batch), expected[batch["labels"] != -100], atol=1e-5)
    assert not torch.allclose(logits_of(task, batch), before, atol=1e-3)


def test_generation_keeps_train_and_eval_modes():
    task = make_task().train()
    task.backbone.layers[1].eval()
    before = [module.training for module in task.modules()]
    task.generate(make_batch())
    assert [module.training for module in task.modules()] == before


def test_decoder_inputs_are_the_start_token_and_the_shifted_labels():
    task, batch = make_task(), make_batch()
    shifted = task.shift_right(batch["labels"])
    assert shifted[:, 0].tolist() == [2, 2, 2]
    assert torch.equal(shifted[0, 1:], batch["labels"][0, :-1])
    assert shifted[1].tolist() == [2, *batch["labels"][1, :3].tolist(), 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_smoothed_cross_entropy_of_the_target_tokens(smoothing):
    task, batch = make_task(label_smoothing=smoothing), make_batch()
    whole = task.hf_model().eval()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    logits = whole(**inputs, decoder_input_ids=task.shift_right(batch["labels"])).logits
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing, ignore_index=-100)(
        logits.flatten(0, 1), batch["labels"].flatten()
    )
    assert torch.allclose(task.loss(task(batch), batch["labels"]), expected, atol=1e-5)


@pytest.mark.parametrize("name", families(SEQ2SEQ))
def test_every_parameter_gets_a_gradient(name):
    task, batch = make_task(name).train(), make_batch()
    task.loss(task(batch), batch["labels"]).backward()
    fixed = ("embed_positions",) if name.startswith(("marian", "pegasus")) else ()
    without = [n for n, p in task.named_parameters() if p.grad is None and p.requires_grad]
    assert [n for n in without if not any(part in n for part in fixed)] == []


def fit(task, data=None, **arguments):
    trainer = make_trainer(**{"max_epochs": 1, **arguments})
    trainer.fit(task, datamodule=data or Pairs())
    return trainer


@pytest.mark.parametrize("name", families(FAMILIES))
def test_a_checkpoint_gives_the_same_logits_and_texts(name, tmp_path):
    backbone = make_seq2seq(name)
    wide = backbone.target_embeddings.num_embeddings >= len(make_tokenizer())
    target_tokenizer = None if wide else make_target_tokenizer()
    task = make_task(backbone=backbone, generation={**SHORT, **BEAMS})
    trainer = fit(task, Pairs(target_tokenizer=target_tokenizer), limit_train_batches=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    found = load(tmp_path / "last.ckpt")
    batch = make_batch()
    assert found.task.generation == task.generation
    assert torch.equal(logits_of(found.task, batch), logits_of(task.eval(), batch))
    assert torch.equal(found.task.generate(batch), task.generate(batch))
    assert found.target_tokens.max_length == 24
    assert (found.target_tokenizer is None) == (target_tokenizer is None)


@pytest.mark.parametrize("name", families([*FAMILIES, "t5-gated", "umt5", "mbart", "bert2bert"]))
def test_the_model_folder_gives_the_same_logits_and_texts_in_transformers(name, tmp_path):
    task = make_task(name, generation={**SHORT, **BEAMS})
    task.backbone.eval()
    tokenizer, target_tokenizer = make_tokenizer(), make_target_tokenizer()
    assert export(task, tokenizer, tmp_path / "model", target_tokenizer=target_tokenizer)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    batch = make_batch()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=task.shift_right(batch["labels"])).logits
    assert torch.allclose(logits_of(task, batch), expected[batch["labels"] != -100], atol=1e-5)
    assert torch.equal(model.generate(**inputs)[:, 1:], task.generate(batch))
    found = load(tmp_path / "model")
    assert torch.equal(logits_of(found.task, batch), logits_of(task, batch))
    assert torch.equal(found.task.generate(batch), task.generate(batch))
    assert len(found.target_tokenizer) == 19
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model/target_tokenizer")) == 19


def test_scores_are_those_of_the_generated_texts_against_the_references():
    data, task = Pairs(), make_task()
    [values] = make_trainer().test(task, datamodule=data, verbose=False)
    texts, losses = [], []
    for batch in data.test_dataloader():
        ids = task.generate(batch)
        texts += map(str.strip, data.tokenizer.batch_decode(ids, skip_special_tokens=True))
        labels = batch["labels"]
        logits = logits_of(task, batch)
        losses += nn.functional.cross_entropy(
            logits, labels[labels != -100], reduction="none"
        ).tolist()
    targets = list(data.rows("test")["target"])
    listed = [[target] for target in targets]
    mean = sum(losses) / len(losses)
    assert values["test/loss"] == pytest.approx(mean, rel=1e-4)
    assert values["test/perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert values["test/bleu"] == pytest.approx(100 * float(sacre_bleu_score(texts, listed)))
    chrf = 100 * float(chrf_score(texts, listed, n_word_order=0))
    assert values["test/chrf"] == pytest.approx(chrf, rel=1e-5)
    for kind in ("rouge1", "rouge2", "rougeL"):
        expected = 100 * float(rouge_score(texts, targets, rouge_keys=kind)[f"{kind}_fmeasure"])
        assert values[f"test/{kind}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("every", "expected"), [(1, 3), (2, 1), (None, 0)])
def test_texts_are_generated_every_n_epochs(every, expected, monkeypatch):
    task = make_task(generate_every=every, generation={**SHORT, "scores": ["chrf"]})
    calls = []
    plain = task._generate
    monkeypatch.setattr(task, "_generate", lambda *args: calls.append(1) or plain(*args))
    trainer = fit(task, max_epochs=3)
    assert len(calls) == expected * 3  # batches
    assert ("val/chrf" in trainer.callback_metrics) == (expected > 0)
    assert {"val/loss", "val/perplexity"} <= set(trainer.callback_metrics)


def test_training_improves_loss_and_generated_texts():
    torch.manual_seed(0)
    task = make_task("bart", recipe=ADAM, generate_every=None, generation={"max_new_tokens": 8})
    data = Pairs()
    [before] = make_trainer().test(task, datamodule=data, verbose=False)
    fit(task.train(), data, max_epochs=25)
    [after] = make_trainer().test(task, datamodule=data, verbose=False)
    assert after["test/loss"] < 0.5 * before["test/loss"]
    assert after["test/chrf"] > before["test/chrf"] + 20


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_activation_cache_of_a_frozen_encoder_changes_no_metric(name):
    def losses(*callbacks):
        task = make_task(name, recipe=ADAM, generation={**SHORT, "scores": ["bleu"]})
        torch.manual_seed(3)
        trainer = fit(task.train(), max_epochs=3, callbacks=list(callbacks))
        return {k: float(v) for k, v in trainer.callback_metrics.items()}

    frozen = partial(Freezing, 4)  # the encoder ends at depth 3
    assert losses(frozen(), ActivationCache()) == pytest.approx(losses(frozen()), rel=1e-4)


def test_head_and_generation_settings_of_a_pretrained_model_are_used(tmp_path):
    config = SEQ2SEQ["bart"]
    torch.manual_seed(0)
    whole = AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        whole.final_logits_bias.normal_()
    whole.generation_config.no_repeat_ngram_size = 3
    whole.generation_config.bad_words_ids = [[7]]
    whole.generation_config.forced_eos_token_id = None
    whole.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(tmp_path)
    head = make_head(DecoderHead, backbone, 0)
    transfer_weights(None, backbone, head, TEXT)
    task = SequenceToSequence(backbone, head, labels=TEXT, generation=SHORT).eval()
    batch = make_batch()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        shifted = task.shift_right(batch["labels"])
        expected = whole(**inputs, decoder_input_ids=shifted).logits[batch["labels"] != -100]
    assert torch.allclose(logits_of(task, batch), expected, atol=1e-5)
    generated = task.generate(batch)
    assert 7 not in generated  # bad_words_ids of the pretrained model
    # Settings of the task replace those of the pretrained model.
    expected = whole.generate(**inputs, **SHORT, no_repeat_ngram_size=0)
    assert torch.equal(generated, expected[:, 1:])


def test_an_untied_output_layer_is_not_replaced_by_the_embeddings(tmp_path):
    torch.manual_seed(0)
    whole = AutoModelForSeq2SeqLM.from_config(SEQ2SEQ["t5"])
    state = {k: v.clone() for k, v in whole.state_dict().items()}
    state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    whole.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    backbone = Backbone.from_pretrained(tmp_path)
    task = make_task(backbone=backbone)
    assert task.head.out is not None
    task.head.out.weight.data.copy_(state["lm_head.weight"])
    assert export(task, make_tokenizer(), tmp_path / "model")
    batch = make_batch()
    assert torch.equal(logits_of(load(tmp_path / "model").task, batch), logits_of(task, batch))
    fresh = Backbone.from_config(read_weights(tmp_path / "model").description["backbone"])
    assert make_head(DecoderHead, fresh, 0).out is not None


def test_the_head_is_transferred_to_the_same_task(tmp_path):
    task = make_task()
    trainer = fit(task, limit_train_batches=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    other = make_task(seed=5)
    weights = read_weights(tmp_path / "last.ckpt")
    assert "head kept" in str(transfer_weights(weights, other.backbone, other.head, TEXT))
    batch = make_batch()
    assert torch.equal(logits_of(other, batch), logits_of(task.eval(), batch))
    again = align_outputs(task, TEXT)
    assert again.generation == task.generation


def test_missing_special_tokens_are_set_from_the_tokenizer():
    backbone = make_seq2seq("bert2bert")
    head = make_head(DecoderHead, backbone, 0)
    task = SequenceToSequence(backbone, head, labels=TEXT, generation=SHORT)
    with pytest.raises(ValueError, match=r"has no decoder_start_token_id, .*task.set_special_to"):
        task.shift_right(make_batch()["labels"])
    task.set_special_tokens(make_target_tokenizer())
    assert task.shift_right(make_batch()["labels"])[0, 0] == 2  # [CLS]


def test_special_tokens_that_differ_are_errors():
    task = make_task("bart")
    task.backbone.config.eos_token_id = 1
    with pytest.raises(
        ValueError, match=r"eos_token_id of the model is 1, .* is 3 \('\[SEP\]'\); use"
    ):
        task.set_special_tokens(make_tokenizer())
    task.backbone.config.eos_token_id = 3
    task.backbone.config.decoder_start_token_id = 58100
    with pytest.raises(
        ValueError, match=r"decoder_start_token_id of the model is 58100, .* has only 33 t"
    ):
        task.set_special_tokens(make_tokenizer())
    small = make_target_tokenizer()
    small.pad_token = None
    with pytest.raises(
        ValueError, match=r"TokenizersBackend has no pad_token for target texts; .*pad_"
    ):
        task.set_special_tokens(small)
    small.sep_token = None
    with pytest.raises(ValueError, match=r"has no eos_token or sep_token and no pad_token for tar"):
        task.set_special_tokens(small)


def test_several_end_tokens_are_kept(tmp_path):
    task = make_task("bart")
    task.backbone.config.eos_token_id = [1, 3]
    task.set_special_tokens(make_tokenizer())  # its end token is 3
    task.generate(make_batch())
    assert task.hf_model().generation_config.eos_token_id == [1, 3]
    assert export(task, make_tokenizer(), tmp_path / "model")
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert opened.generation_config.eos_token_id == [1, 3]


def test_wrong_backbone_head_labels_or_arguments_are_errors():
    backbone = make_seq2seq("bart")
    head = make_head(DecoderHead, backbone, 0)
    with pytest.raises(ValueError, match="needs an encoder-decoder, got BertModel; use T5"):
        SequenceToSequence(make_backbone(), head, labels=TEXT)
    with pytest.raises(ValueError, match="needs a DecoderHead, got LinearHead; set head=decoder"):
        SequenceToSequence(backbone, LinearHead(HIDDEN, 1), labels=TEXT)
    with pytest.raises(ValueError, match="labels of kind 'text', got 'regression'; use texts"):
        SequenceToSequence(backbone, head, labels=Labels("regression"), generation=SHORT)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1.5"):
        SequenceToSequence(backbone, head, labels=TEXT, label_smoothing=1.5)
    with pytest.raises(
        ValueError, match=r"generate_every must be null or >= 1, got 0; set task.gen"
    ):
        SequenceToSequence(backbone, head, labels=TEXT, generate_every=0)
    with pytest.raises(
        ValueError, match=r"max_new_tokens must be <= 40, .* got 64; set .*tokens=40"
    ):
        SequenceToSequence(backbone, head, labels=TEXT)
    with pytest.raises(
        ValueError, match="the head of a decoder needs an encoder-decoder, got BertModel"
    ):
        make_head(DecoderHead, make_backbone(), 0)
    with pytest.raises(ValueError, match="predicts tokens only, so num_outputs must be 0, got 2"):
        make_head(DecoderHead, backbone, 2)
    with pytest.raises(ValueError, match=r"'text' labels have no names, got \['a'\]"):
        Labels("text", ("a",))


def test_a_monitored_score_requires_generation_in_each_epoch():
    task = make_task(recipe=Recipe(monitor="val/bleu", mode="max"), generate_every=2)
    with pytest.raises(
        ValueError, match=r"monitor=val/bleu is a score .*, got generate_every=2; set"
    ):
        fit(task)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beams": 2}, "unknown generation setting 'beams'; did you mean num_beams"),
        ({"num_beams": 0}, "generation.num_beams must be >= 1, got 0"),
        ({"top_p": 0.0, "do_sample": True}, r"generation.top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 0.9}, "top_p=0.9 need sampling; set generation.do_sample=true"),
        (
            {"length_penalty": 2.0},
            "length_penalty=2.0 .*need beam search; set generation.num_beams=4",
        ),
        ({"scores": ["blue"]}, "unknown score 'blue' in generation.scores; did you mean bleu"),
        ({"temperature": 0.0}, "generation.temperature must be > 0, got 0.0"),
    ],
)
def test_wrong_generation_settings_are_errors(given, message):
    with pytest.raises(ValueError, match=message):
        Generation.of(given)


def test_the_small_tokenizer_knows_the_words_of_the_targets():
    assert len(WORDS[:14]) + 5 == 19
