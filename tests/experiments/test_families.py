"""Each family of models through a training step, a checkpoint and a model folder."""

import pytest
import torch

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, make_backbone, make_batch, make_loader, make_trainer
from tests.tiny_seq2seq import SEQ2SEQ, make_seq2seq

SINGLE = Labels("single_label", ("negative", "neutral", "positive"))
BACKBONES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2")


def make_task(name, head_class=MLPHead, labels=SINGLE):
    causal = name == "gpt2"
    backbone = make_seq2seq(name) if causal else make_backbone(name)
    pooling = "last" if causal else "cls"
    task_class = SequenceRegression if labels.kind == "regression" else SequenceClassification
    head = head_class(HIDDEN, labels.num_outputs, pooling=pooling)
    return task_class(backbone, head, labels=labels)


def outputs(task, batch):
    with torch.no_grad():
        return task.eval()(batch)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_model_is_trained_saved_and_loaded_with_equal_outputs(name, tokenizer, tmp_path):
    task = make_task(name)
    before = {k: v.clone() for k, v in task.state_dict().items()}
    trainer = make_trainer(max_steps=1)
    loader = make_loader("single_label", outputs=3)
    trainer.fit(task, loader, loader)
    after = task.state_dict()
    unchanged = {k for k in before if torch.equal(before[k], after[k])}
    assert not {k for k in unchanged if "query" in k or "c_attn" in k or "q_lin" in k}
    assert not {k for k in unchanged if k.startswith("head.out")}
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    export(task, tokenizer, tmp_path / "model")
    batch = make_batch("single_label", outputs=3, seed=5)
    expected = outputs(task, batch)
    assert expected.std(0).min() > 0
    for path in ("one.ckpt", "model"):
        assert torch.equal(outputs(load(tmp_path / path).task, batch), expected)


@pytest.mark.parametrize("head_class", [MLPHead, LinearHead])
@pytest.mark.parametrize("labels", [SINGLE, Labels("regression")])
def test_a_causal_model_is_pooled_at_its_last_token(head_class, labels):
    task = make_task("gpt2", head_class, labels)
    batch = make_batch()
    before = outputs(task, batch)
    padded = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 9)}
    torch.testing.assert_close(outputs(task, padded), before)
    changed = batch["input_ids"].clone()
    changed[:, 1] = 11
    assert (outputs(task, {**batch, "input_ids": changed}) - before).abs().min() > 0


@pytest.mark.parametrize(("head_class", "name"), [(MLPHead, "MLPHead"), (LinearHead, "LinearHead")])
def test_cls_pooling_of_a_causal_model_is_an_error(head_class, name):
    with pytest.raises(
        ValueError, match=rf"GPT2Model is causal, so .* {name} has pooling=cls; set head.pool"
    ):
        SequenceClassification(
            make_seq2seq("gpt2"), head_class(HIDDEN, 3, pooling="cls"), labels=SINGLE
        )


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "bert2bert"])
@pytest.mark.parametrize("labels", [SINGLE, Labels("regression")])
def test_an_encoder_decoder_is_an_error_in_tasks_without_targets(name, labels):
    task_class = SequenceRegression if labels.kind == "regression" else SequenceClassification
    kind = type(make_seq2seq(name).model).__name__
    with pytest.raises(
        ValueError, match=rf"{kind} is an encoder-decoder, .* weight_transfer=\[encoder\]"
    ):
        task_class(make_seq2seq(name), LinearHead(HIDDEN, labels.num_outputs), labels=labels)
    assert name in SEQ2SEQ
