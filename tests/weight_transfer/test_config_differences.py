"""Layers with equal names and shapes, but with configs of another function."""

import pytest
import torch

from lightning_transfer.heads import DecoderHead, LanguageModelHead, MLPHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer import transfer_weights
from lightning_transfer.weight_transfer.config_differences import compute_alike
from tests.tiny import CONFIGS, HIDDEN
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ
from tests.weight_transfer.weights import make, pair, rows, run_transfer, state, weights_of

UNLIKE = [
    ("bert", {"hidden_act": "relu"}, "hidden_act is 'gelu' in the weights and 'relu' in"),
    ("bert", {"num_attention_heads": 4}, "num_attention_heads is 2 in the weights and 4 in"),
    ("bert", {"layer_norm_eps": 1e-3}, "layer_norm_eps is 1e-12 in the weights and 0.001"),
    (
        "distilbert",
        {"sinusoidal_pos_embds": True},
        "sinusoidal_pos_embds is False in the weights and T",
    ),
    ("deberta-v2", {"position_buckets": 4}, "position_buckets is 8 in the weights and 4 in the ba"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is True in the weights and False"),
    ("t5", {"relative_attention_max_distance": 9}, "relative_attention_max_distance is 128 in t"),
    (
        "bart",
        {"activation_function": "relu"},
        "activation_function is 'gelu' in the weights and 'relu'",
    ),
    ("marian", {"scale_embedding": True}, "scale_embedding is False in the weights and True in"),
    (
        "mbart",
        {"decoder_attention_heads": 4},
        "decoder_attention_heads is 2 in the weights and 4 in",
    ),
]


@pytest.mark.parametrize(("name", "changes", "message"), UNLIKE)
def test_layers_with_another_function_are_an_error(name, changes, message):
    old = make(name)
    with pytest.raises(ValueError, match=f"the configs differ: .*{message}.*on_mismatch=new"):
        run_transfer(old, make(name, seed=9, **changes))


def test_layers_with_another_function_are_kept_with_on_mismatch_new():
    old, new = make("bert"), make("bert", seed=9, hidden_act="relu", num_attention_heads=4)
    before = state(new, "encoder")
    report = run_transfer(old, new, on_mismatch="new")
    after = state(new, "encoder")
    table = "embeddings.word_embeddings.weight"
    assert all(torch.equal(before[name], after[name]) for name in before if name != table)
    assert torch.equal(after[table], old.token_embeddings.weight)
    assert rows(report) == [
        ("token embeddings", "transferred"),
        ("positions", "reinitialised"),
        ("encoder", "reinitialised"),
        ("encoder", "skipped"),
    ]
    [why] = {part.why for part in report.parts if part.status == "reinitialised"}
    assert "hidden_act is 'gelu'" in why
    assert "num_attention_heads is 2" in why


def test_a_difference_in_the_other_stack_is_ignored():
    old, new = make("bart"), make("bart", seed=9, decoder_attention_heads=4)
    report = run_transfer(old, new, ["encoder"])
    assert ("encoder", "transferred") in rows(report)
    with pytest.raises(ValueError, match="decoder_attention_heads is 2 in the weights and 4 in"):
        run_transfer(old, new, ["decoder"])


def test_a_decoder_is_compared_with_the_encoder_that_fills_it():
    sizes = {"encoder_attention_heads": 4, "decoder_layers": 3}
    old = make("bart", **sizes)
    like = make("bart", seed=9, **sizes, decoder_attention_heads=4)
    assert ("decoder", "transferred") in rows(run_transfer(old, like, {"decoder": "encoder"}))
    with pytest.raises(ValueError, match="decoder_attention_heads is 4 in the weights and 2 in"):
        run_transfer(old, make("bart", seed=9, **sizes), {"decoder": "encoder"})


def test_a_table_with_another_scale_is_not_transferred():
    old, new = make("bart"), make("bart", seed=9, scale_embedding=True)
    before = new.model.shared.weight.detach().clone()
    with pytest.raises(ValueError, match="token embeddings are used differently: scale_embeddin"):
        run_transfer(old, new, ["embeddings"])
    assert torch.equal(new.model.shared.weight, before)


@pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
def test_sizes_names_and_dropout_do_not_change_the_function(name):
    config = config_to_dict(make(name).config)
    other = {
        **config,
        "dropout": 0.7,
        "hidden_dropout_prob": 0.7,
        "resid_pdrop": 0.7,
        "num_hidden_layers": 9,
        "vocab_size": 99,
        "eos_token_id": 5,
        "initializer_range": 0.5,
        "id2label": {"0": "a"},
        "_name_or_path": "elsewhere",
        "use_cache": False,
    }
    assert compute_alike(config, other)


HEADS = [
    ({"activation": "relu"}, "activation is 'tanh' in the weights and 'relu' in the config"),
    ({"pooling": "mean"}, "pooling is 'cls' in the weights and 'mean' in the config"),
    ({"dropout": 0.5}, None),
]


@pytest.mark.parametrize(("changes", "message"), HEADS)
def test_a_head_with_another_function_is_reinitialised(changes, message):
    old = weights_of(make("bert"), head=MLPHead(HIDDEN, 1))
    head = MLPHead(HIDDEN, 1, **changes)
    report = run_transfer(old, make("bert", seed=9), head=head)
    part = report.parts[-1]
    assert part.status == ("transferred" if message is None else "reinitialised")
    assert message is None or message in part.why


def test_a_masked_lm_head_with_another_norm_is_reinitialised():
    labels, old, new = Labels("masked_tokens"), make("bert"), make("bert", seed=9)
    start = weights_of(old, head=make_head(LanguageModelHead, old, 0), labels=labels)
    size = tuple(old.token_embeddings.weight.shape)
    head = LanguageModelHead(HIDDEN, 0, vocabulary=size, norm_eps=1e-5)
    assert "norm_eps is 1e-12" in transfer_weights(start, new, head, labels).parts[-1].why


def test_a_decoder_head_with_another_scale_is_reinitialised():
    labels = Labels("text")
    old, new = make("t5"), make("t5", seed=9, scale_decoder_outputs=False)
    start = weights_of(old, head=make_head(DecoderHead, old, 0), labels=labels)
    part = transfer_weights(start, new, make_head(DecoderHead, new, 0), labels).parts[-1]
    assert part.status == "reinitialised"
    assert "scale is 0.25 in the weights and 1.0 in the config" in part.why


# Parameters in the layers of a decoder, but not in those of an encoder, by architecture.
CROSS = {
    "t5": (".1.EncDecAttention", ".1.layer_norm"),
    "mt5": (".1.EncDecAttention", ".1.layer_norm"),
    "umt5": (".1.EncDecAttention", ".1.layer_norm"),
    "bart": ("encoder_attn",),
    "mbart": ("encoder_attn",),
    "marian": ("encoder_attn",),
    "pegasus": ("encoder_attn",),
    "bert2bert": ("crossattention",),
    "roberta": ("crossattention",),
}


@pytest.mark.parametrize("name", CROSS)
def test_a_decoder_is_filled_from_the_encoder_except_for_cross_attention(name):
    if name in ("bert2bert", "roberta"):
        kind = {"bert2bert": "bert"}.get(name, name)
        old, new = pair(kind, kind), pair(kind, kind, seed=9)
    else:
        depth = "num_decoder_layers" if "t5" in name else "decoder_layers"
        old, new = make(name, **{depth: 3}), make(name, seed=9, **{depth: 3})
    before = state(new, "decoder")
    report = run_transfer(old, new, {"decoder": "encoder"})
    one, after = state(old, "encoder"), state(new, "decoder")
    cross = {n for n in after if any(part in n for part in CROSS[name])}
    one_way = {n for n in after if "relative_attention_bias" in n}
    assert len(cross) >= 3 * 5
    assert bool(one_way) == ("t5" in name)
    for key, value in after.items():
        plain = key.removeprefix("bert.")
        if key in cross | one_way:
            assert torch.equal(value, before[key]), key
        else:
            source = plain.replace(".layer.2.", ".layer.1.") if "t5" in name else plain
            assert torch.equal(value, one[source]), key
    found = {p.why: p.status for p in report.parts if p.part == "decoder" and p.status != "skipped"}
    expected = {
        "from the encoder of the weights": "transferred",
        "cross-attention: not in the weights": "reinitialised",
    }
    if one_way:
        why = "relative positions: the encoder of the weights is bidirectional"
        expected[why] = "reinitialised"
    assert found == expected


@pytest.mark.parametrize("name", ["t5", "umt5", "bart", "bert2bert"])
def test_a_decoder_is_transferred_with_its_cross_attention(name):
    old, new = make(name), make(name, seed=9)
    run_transfer(old, new, ["decoder"])
    one, after = state(old, "decoder"), state(new, "decoder")
    assert all(torch.equal(one[key], after[key]) for key in one)
