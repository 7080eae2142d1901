"""Tokenizers with language tokens, and generation in a target language."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBart50Tokenizer, MBartTokenizer

from lightning_transfer.checkpoints.loading import same_tokenizer
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data.tokenization.languages import with_languages
from lightning_transfer.data.tokenization.token_table import TargetFrame
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.stage_model import StageModel
from lightning_transfer.heads import DecoderHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.tiny_seq2seq import make_seq2seq

TEXT = Labels("text")
LETTERS = [(f"▁{word}", -1.0) for word in WORDS]
SPECIAL = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]


def make_mbart(kind):
    """Return an mBART tokenizer (language token last) or an mBART-50 tokenizer (first)."""
    codes = [(code, 0.0) for code in ("en_XX", "de_DE", "fr_XX")]
    return kind(vocab=[*SPECIAL, *LETTERS, *codes, ("<mask>", 0.0)])


KINDS = {"mbart": MBartTokenizer, "mbart50": MBart50Tokenizer}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_targets_have_their_language_tokens(kind, tmp_path):
    plain = make_mbart(KINDS[kind])
    tokenizer = with_languages(plain, where="stages.target", source="de_DE", target="fr_XX")
    ids = {code: tokenizer.convert_tokens_to_ids(code) for code in ("de_DE", "fr_XX")}
    assert ids["de_DE"] in tokenizer("film")["input_ids"]
    frame = TargetFrame.of(tokenizer)
    assert ids["fr_XX"] in (frame.start if kind == "mbart50" else frame.end)
    assert tokenizer("film")["input_ids"] == tokenizer("film")["input_ids"]
    assert plain.src_lang == "en_XX"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.src_lang, again.tgt_lang) == ("de_DE", "fr_XX")
    assert again("film")["input_ids"] == tokenizer("film")["input_ids"]


def test_another_language_makes_another_tokenizer():
    plain = make_mbart(MBart50Tokenizer)
    french, german = (
        with_languages(plain, where="stages.target", target=code) for code in ("fr_XX", "de_DE")
    )
    assert same_tokenizer(french, with_languages(plain, where="stages.target", target="fr_XX"))
    assert not same_tokenizer(french, german)
    assert with_languages(plain, where="stages.target") is plain


@pytest.mark.parametrize("kind", KINDS)
def test_generated_texts_start_with_the_requested_language_token(kind, tmp_path):
    tokenizer = with_languages(
        make_mbart(KINDS[kind]), where="stages.target", source="en_XX", target="fr_XX"
    )
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    backbone = make_seq2seq("mbart", vocab_size=len(tokenizer), **ids)
    head = make_head(DecoderHead, backbone, 0)
    transfer_weights(None, backbone, head, TEXT)
    task = SequenceToSequence(backbone, head, labels=TEXT, generation={"max_new_tokens": 5}).eval()
    task.set_special_tokens(tokenizer)
    french = tokenizer.convert_tokens_to_ids("fr_XX")
    batch = tokenizer(["film", "plot"], return_tensors="pt")
    labels = torch.tensor([[5, 6, 2]])
    start = task.shift_right(labels)[0, 0]
    assert start == (2 if kind == "mbart50" else french)
    generated = task.generate(batch)
    if kind == "mbart50":
        assert generated[:, 0].tolist() == [french, french]
    assert export(task, tokenizer, tmp_path / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert french in model.generate(**batch)[0, :2]


def test_an_unsupported_language_is_an_error():
    where = "stages.target"
    with pytest.raises(
        ValueError, match=r"stages.target.source_language needs .* got 'en' for \w+; set"
    ):
        with_languages(make_tokenizer(), where=where, source="en")
    with pytest.raises(
        ValueError,
        match=r"unknown stages.target.target_language 'fr_FR'.*MBartTokenizer: .*de_DE.*fr_XX",
    ):
        with_languages(make_mbart(MBartTokenizer), where=where, target="fr_FR")


def test_each_stage_has_its_own_languages(tmp_path):
    make_mbart(MBart50Tokenizer).save_pretrained(tmp_path)
    stages = {
        "parent": {"source_language": "en_XX", "target_language": "fr_XX"},
        "child": {"source_language": "en_XX", "target_language": "de_DE"},
    }
    backbone = {"_target_": "lightning_transfer.backbones.Backbone.from_config", "config": {}}
    model = StageModel({"tokenizer": str(tmp_path), "backbone": backbone, "stages": stages}, None)
    first = model.tokenizer(StageRun("parent", 0), None)
    description = {"labels": {"kind": "text"}}
    start = SimpleNamespace(tokenizer=first, target_tokenizer=None, description=description)
    second = model.tokenizer(StageRun("child", 0), start)
    assert (first.tgt_lang, second.tgt_lang) == ("fr_XX", "de_DE")
    assert model.target_tokenizer(second) is None
    assert not model.inherits("child")
