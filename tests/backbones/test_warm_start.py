"""Encoder-decoders joined from pretrained encoders and decoders."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertModel,
    GPT2LMHeadModel,
)

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import check_vocabulary, load
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.heads import DecoderHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import make_tokenizer, tiny_config
from tests.seq2seq import SHORT, TEXT, Pairs, make_batch, make_target_tokenizer
from tests.tiny import CONFIGS, make_trainer
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_seq2seq

pytestmark = pytest.mark.jobs

NEW_DECODER = {
    "model_type": "bert",
    "vocab_size": 19,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def make_task(backbone):
    head = make_head(DecoderHead, backbone, 0)
    transfer_weights(None, backbone, head, TEXT)
    return SequenceToSequence(backbone, head, labels=TEXT, generation=SHORT).eval()


def stored(folder):
    return load_file(folder / "model.safetensors")


def test_encoder_and_decoder_start_from_the_pretrained_weights(tiny_folder):
    torch.manual_seed(0)
    backbone = Backbone.warm_start(tiny_folder, tiny_folder)
    assert backbone.is_encoder_decoder
    state, pretrained = backbone.model.state_dict(), stored(tiny_folder)
    for name, value in pretrained.items():
        if not name.startswith("pooler"):
            assert torch.equal(state[f"encoder.{name}"], value), name
            assert torch.equal(state[f"decoder.bert.{name}"], value), name
    new = [name for name in state if "crossattention" in name]
    assert new
    assert len(state) == 2 * (len(pretrained) - 2) + len(new)


def test_the_log_lists_the_reinitialised_parts_of_the_decoder(tiny_folder, caplog, capfd):
    caplog.set_level(logging.INFO, "lightning_transfer")
    Backbone.warm_start(tiny_folder, tiny_folder)
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"decoder from {tiny_folder}; reinitialised: cross-attention, cls.predictions"
    assert "REPORT" not in capfd.readouterr().err


def test_the_attention_of_the_decoder_is_causal(tiny_folder):
    backbone = Backbone.warm_start(tiny_folder, tiny_folder).eval()
    batch = make_batch()
    encoded = backbone.encode(batch["input_ids"], batch["attention_mask"])
    ids = batch["input_ids"]
    changed = torch.cat([ids[:, :3], ids[:, 3:].flip(1) + 1], dim=1)
    first, second = (backbone.decode(encoded, batch["attention_mask"], x) for x in (ids, changed))
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3:], second[:, 3:], atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_head_starts_from_the_pretrained_language_model(name, tiny_folder, tmp_path):
    torch.manual_seed(1)
    pretrained = AutoModelForMaskedLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pretrained.save_pretrained(tmp_path)
    head = make_task(Backbone.warm_start(tiny_folder, tmp_path)).head
    state = stored(tmp_path)
    names = {
        "bert": ("cls.predictions.transform.dense.weight", "cls.predictions.bias"),
        "roberta": ("lm_head.dense.weight", "lm_head.bias"),
    }[name]
    assert torch.equal(head.transform.weight, state[names[0]])
    assert torch.equal(head.bias, state[names[1]])


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "new"])
def test_a_trained_model_is_saved_and_loaded_by_plain_transformers(kind, tiny_folder, tmp_path):
    torch.manual_seed(0)
    decoder = NEW_DECODER
    if kind != "new":
        decoder = tmp_path / "decoder"
        make = {"gpt2": GPT2LMHeadModel, "bert": BertModel}.get(kind)
        config = {**CONFIGS, **CAUSAL}[kind]
        (make(config) if make else AutoModelForMaskedLM.from_config(config)).save_pretrained(
            decoder
        )
    task = make_task(Backbone.warm_start(tiny_folder, decoder))
    target_tokenizer = make_target_tokenizer()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = make_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(task, datamodule=Pairs(target_tokenizer=target_tokenizer))
    task.eval()
    changed = [n for n, v in task.state_dict().items() if not torch.equal(v, before[n])]
    assert any("encoder.layer" in name for name in changed)
    assert any("crossattention" in name.lower() for name in changed)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert export(task, make_tokenizer(), tmp_path / "model", target_tokenizer=target_tokenizer)
    batch = make_batch(vocabulary=19)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = task(batch)
        for found in (load(tmp_path / "last.ckpt"), load(tmp_path / "model")):
            assert torch.equal(found.task(batch), expected)
            assert len(found.target_tokenizer) == 19
        shifted = task.shift_right(batch["labels"])
        theirs = model(**inputs, decoder_input_ids=shifted).logits[batch["labels"] != -100]
    assert torch.allclose(theirs, expected, atol=1e-5)
    assert torch.equal(model.generate(**inputs)[:, 1:], task.generate(batch))


def test_a_target_vocabulary_smaller_than_the_tokenizer_raises(tiny_folder):
    backbone = Backbone.warm_start(tiny_folder, NEW_DECODER)
    check_vocabulary(make_target_tokenizer(), backbone, target=True)
    with pytest.raises(ValueError, match="the target_tokenizer has 33 tokens, the decoder has emb"):
        check_vocabulary(make_tokenizer(), backbone, target=True)


def test_models_that_cannot_be_joined_raise(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="a 'distilbert' cannot be the decoder of a warm start"):
        Backbone.warm_start(tiny_folder, CONFIGS["distilbert"].to_dict())
    with pytest.raises(
        ValueError, match=r"new decoder and no model_type; set backbone.decoder.model_type="
    ):
        Backbone.warm_start(tiny_folder, {"hidden_size": 24})
    whole = AutoModelForSeq2SeqLM.from_config(SEQ2SEQ["bart"])
    whole.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"backbone.encoder is a whole encoder-decoder \(bart\)"):
        Backbone.warm_start(tmp_path, NEW_DECODER)
    with pytest.raises(ValueError, match="transformers has no encoder-decoder with a language mo"):
        make_seq2seq("gpt2").lm_head_layout  # noqa: B018


def test_dropout_is_set_in_encoder_and_decoder(tiny_folder):
    backbone = Backbone.warm_start(tiny_folder, NEW_DECODER, dropout=0.0)
    rates = {m.p for m in backbone.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}


@pytest.mark.slow
def test_encoder_and_decoder_start_from_minilm():
    backbone = Backbone.warm_start("asset:minilm", "asset:minilm")
    assert len(backbone.layers) == 13
    task = make_task(backbone)
    task.set_special_tokens(make_target_tokenizer())
    assert task.generate(make_batch()).shape[0] == 3


def test_the_tiny_vocabulary_has_the_size_of_the_tokenizer():
    assert tiny_config().vocab_size == len(make_tokenizer())
