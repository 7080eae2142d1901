"""Transfer between architectures: encoders, decoders, layers and positions."""

import pytest
import torch
from torch import nn

from lightning_transfer.adapters import LoRA, PrefixTuning
from lightning_transfer.adapters.adapter import applied
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, make_inputs
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_pairs
from tests.weight_transfer.weights import make, pair, rows, run_transfer, state, weights_of


def equal(one, other, names=None):
    names = one.keys() & other.keys() if names is None else names
    return bool(names) and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
def test_a_backbone_is_transferred_to_one_of_the_same_config(name):
    old, new = make(name), make(name, seed=9)
    report = run_transfer(old, new)
    assert equal(old.state_dict(), new.state_dict())
    assert {status for _, status in rows(report)} == {"transferred"}
    held = sum(p.numel() for p in new.parameters())
    sizes = [part.parameters for part in report.parts if part.part != "head"]
    assert sum(sizes) == held


def test_an_encoder_is_transferred_to_an_encoder_decoder():
    old, new = make("bert"), pair(seed=9)
    decoder = state(new, "decoder")
    report = run_transfer(old, new)
    assert equal(state(old, "encoder"), state(new, "encoder"))
    assert equal(decoder, state(new, "decoder"))
    assert rows(report) == [
        ("encoder token embeddings", "transferred"),
        ("decoder token embeddings", "reinitialised"),
        ("encoder positions", "transferred"),
        ("encoder", "transferred"),
        ("decoder", "reinitialised"),
    ]
    assert [p.why for p in report.parts][1] == "the weights have no decoder"


def test_a_decoder_is_filled_from_an_encoder_on_request():
    old, new = make("bert"), pair(seed=9)
    before = state(new, "decoder")
    report = run_transfer(old, new, {"decoder": "encoder"})
    one, after = state(old, "encoder"), state(new, "decoder")
    cross = {name for name in after if "crossattention" in name}
    assert cross == after.keys() - one.keys()
    assert equal(before, after, cross)
    assert equal(one, after)
    assert equal(one, state(new, "encoder"))
    found = [(p.part, p.status, p.why) for p in report.parts if p.part == "decoder"]
    assert found == [
        ("decoder", "transferred", "from the encoder of the weights"),
        ("decoder", "reinitialised", "cross-attention: not in the weights"),
    ]


def test_the_encoder_of_an_encoder_decoder_is_transferred_to_an_encoder():
    old, new = pair(), make("bert", seed=9)
    report = run_transfer(old, new)
    assert equal(state(old, "encoder"), state(new, "encoder"))
    assert ("decoder", "skipped") in rows(report)
    ids, mask = make_inputs()
    expected = old.model.encoder.eval()(ids, attention_mask=mask)[0]
    assert torch.equal(new.eval()(ids, mask), expected)


def test_a_causal_model_is_transferred_to_a_decoder():
    old, new = make("gpt2"), pair("bert", "gpt2", seed=9)
    encoder = state(new, "encoder")
    report = run_transfer(old, new)
    one, after = state(old, "decoder"), state(new, "decoder")
    assert equal(one, after)
    assert {n for n in after if "cross" in n} == after.keys() - one.keys()
    assert equal(encoder, state(new, "encoder"))
    assert ("decoder", "transferred") in rows(report)
    back = make("gpt2", seed=5)
    run_transfer(new, back)
    assert equal(state(back, "decoder"), one)


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "mbart", "pegasus", "marian-apart"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_one_stack_is_transferred_without_the_other(name, stack):
    old, new = make(name), make(name, seed=9)
    other = {"encoder": "decoder", "decoder": "encoder"}[stack]
    before = state(new, other)
    report = run_transfer(old, new, [stack])
    assert equal(state(old, stack), state(new, stack))
    after = state(new, other)
    tied = name != "marian-apart"
    names = {n for n in before if not (tied and n == "embed_tokens.weight")}
    assert equal(before, after, names)
    assert (stack, "transferred") in rows(report)
    assert (other, "reinitialised") in rows(report)
    assert (other, "skipped") in rows(report)
    if tied:
        tables = [new.model.get_submodule(f"{s}.embed_tokens").weight for s in (stack, other)]
        assert tables[0] is tables[1] is new.model.shared.weight


def test_token_embeddings_are_transferred_without_layers():
    old, new = make("bart"), make("bart", seed=9)
    before = state(new, "encoder")
    report = run_transfer(old, new, ["embeddings"])
    assert torch.equal(new.model.shared.weight, old.model.shared.weight)
    assert equal(before, state(new, "encoder"), before.keys() - {"embed_tokens.weight"})
    assert rows(report)[0] == ("token embeddings", "transferred")


def test_layers_are_transferred_without_token_embeddings():
    old, new = make("bert"), make("bert", seed=9)
    table = new.token_embeddings.weight.detach().clone()
    report = run_transfer(old, new, {"embeddings": False})
    assert torch.equal(new.token_embeddings.weight, table)
    name = "embeddings.word_embeddings.weight"
    assert equal(
        state(old, "encoder"), state(new, "encoder"), state(old, "encoder").keys() - {name}
    )
    assert rows(report)[0] == ("token embeddings", "reinitialised")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"num_hidden_layers": 2}, "the weights have layer 3, the backbone has 2 layers"),
        ({"num_hidden_layers": 1}, {}, "the backbone has layers 2 to 3, the weights have 1 layers"),
        (
            {},
            {"intermediate_size": 48},
            r"layer.0.intermediate.dense.weight has shape \(32, 16\) in the weights and \(48, 16\)",
        ),
        ({}, {"max_position_embeddings": 50}, "the weights have 40 positions, the backbone has 50"),
        ({}, {"vocab_size": 40}, "the token embeddings have 33 rows in the weights and 40 in"),
    ],
)
def test_a_mismatch_is_named(old, new, message):
    with pytest.raises(
        ValueError, match=rf"a.ckpt do not fit .* BertModel: .*{message}.*Set on_mi"
    ):
        run_transfer(make("bert", **old), make("bert", seed=9, **new))


@pytest.mark.parametrize(("old_size", "new_size"), [(3, 2), (2, 3)])
def test_a_longer_or_shorter_stack_is_filled_with_on_mismatch_new(old_size, new_size):
    old = make("bert", num_hidden_layers=old_size)
    new = make("bert", seed=9, num_hidden_layers=new_size)
    before = state(new, "encoder")
    report = run_transfer(old, new, on_mismatch="new")
    one, after = state(old, "encoder"), state(new, "encoder")
    assert equal(one, after)
    assert equal(before, after, after.keys() - one.keys()) or new_size < old_size
    [part] = [p for p in report.parts if "layer 3" in p.why]
    assert part.status == ("skipped" if old_size > new_size else "reinitialised")
    assert part.parameters == sum(v.numel() for k, v in {**one, **after}.items() if "layer.2." in k)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "bart"])
@pytest.mark.parametrize("new_size", [30, 50])
def test_positions_are_transferred_up_to_the_shorter_table(name, new_size):
    option = "n_positions" if name == "gpt2" else "max_position_embeddings"
    old, new = make(name), make(name, seed=9, **{option: new_size})
    before = new.state_dict()
    with pytest.raises(ValueError, match="positions, the backbone has"):
        run_transfer(old, make(name, seed=9, **{option: new_size}))
    before = {k: v.clone() for k, v in before.items()}
    report = run_transfer(old, new, on_mismatch="new")
    assert "resized" in dict(rows(report)).values()
    ids, mask = make_inputs()
    inputs = make_pairs() if name == "bart" else {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(new.eval()(**inputs), old.eval()(**inputs))
    if new_size > 40:
        [key, *_] = [k for k in before if "position" in k or "wpe" in k]
        assert torch.equal(new.state_dict()[key][-5:], before[key][-5:])


def test_computed_positions_fit_any_length():
    old, new = make("marian"), make("marian", seed=9, max_position_embeddings=50)
    table = new.model.encoder.embed_positions.weight.detach().clone()
    report = run_transfer(old, new)
    assert torch.equal(new.model.encoder.embed_positions.weight, table)
    assert "reinitialised" not in dict(rows(report)).values()
    inputs = make_pairs()
    assert torch.equal(new.eval()(**inputs), old.eval()(**inputs))


def test_another_architecture_with_equal_names_is_an_error():
    with pytest.raises(
        ValueError, match="the weights are of a bert model, the backbone is a roberta model"
    ):
        run_transfer(make("bert"), make("roberta"))
    new = make("roberta", seed=9)
    before = state(new, "encoder")
    report = run_transfer(make("bert"), new, {"embeddings": False}, on_mismatch="new")
    layers = [name for name in before if "layer." in name]
    assert equal(before, state(new, "encoder"), layers)
    assert ("encoder", "reinitialised") in rows(report)


def test_weights_without_a_matching_part_are_an_error():
    with pytest.raises(ValueError, match="no part of the weights fits"):
        run_transfer(make("bert"), make("gpt2"))


def test_a_named_part_missing_from_the_weights_is_an_error():
    with pytest.raises(
        ValueError, match="weight_transfer names the decoder, but the weights have none"
    ):
        run_transfer(make("bert"), pair(), ["encoder", "decoder"])


def test_another_width_leaves_the_backbone_unchanged():
    old, new = make("bert"), make("bert", seed=9, hidden_size=24)
    before = state(new, "encoder")
    report = run_transfer(old, new, on_mismatch="new")
    after = state(new, "encoder")
    assert equal(before, after, [n for n in before if before[n].shape[-1:] == (24,)])
    assert dict(rows(report))["token embeddings"] == "reinitialised"
    assert "width 16 in the weights and 24 in the backbone" in report.parts[0].why


def test_the_backbone_may_be_left_behind():
    old, new = make("bert"), make("distilbert", seed=9)
    before = state(new, "encoder")
    report = run_transfer(old, new, ["head"])
    assert equal(before, state(new, "encoder"))
    assert ("backbone of the weights", "skipped") in rows(report)
    assert report.parts[-1].status == "transferred"


def test_each_weight_keeps_its_dtype():
    old, new = make("bert"), pair(seed=9)
    new.to(torch.bfloat16)
    run_transfer(old, new)
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}
    one, other = state(old, "encoder"), state(new, "encoder")
    assert all(torch.equal(one[name].bfloat16(), other[name]) for name in one)


def adapted(adapter, name="bert"):
    old = make(name)
    adapter.apply(old)
    with torch.no_grad():
        for key, value in old.named_parameters():
            if adapter.owns(key):
                value.normal_(std=0.3)  # larger values would round by more than the tolerance
    return old


def test_an_adapter_is_merged_for_another_model():
    old, new = adapted(LoRA(r=2)), pair(seed=9)
    report = run_transfer(old, new)
    ids, mask = make_inputs()
    found = new.model.encoder.eval()(ids, attention_mask=mask)[0]
    torch.testing.assert_close(found, old.eval()(ids, mask), atol=1e-5, rtol=1e-5)
    assert "LoRA merged into the base weights" in str(report)
    assert applied(new) is None


def test_an_adapter_without_a_merge_is_refused_by_another_backbone():
    old = adapted(PrefixTuning(length=2))
    with pytest.raises(ValueError, match="were trained with PrefixTuning, which cannot be merged"):
        run_transfer(old, pair(), adapter=PrefixTuning(length=2))
    left = make("bert", seed=9)
    report = run_transfer(old, left, ["head"])
    assert "PrefixTuning skipped" in str(report)


def test_a_new_adapter_is_applied_after_a_transfer_of_layers():
    old, new = make("bert"), make("bert", seed=9, num_hidden_layers=2)
    report = run_transfer(old, new, on_mismatch="new", adapter=LoRA(r=2))
    assert str(report).endswith("; new LoRA")
    assert isinstance(applied(new), LoRA)


def test_a_custom_backbone_is_transferred_whole_or_not_at_all():
    old, new = OwnBackbone(), OwnBackbone()
    report = run_transfer(old, new)
    assert equal(old.state_dict(), new.state_dict())
    assert rows(report) == [("backbone", "transferred")]
    with pytest.raises(
        ValueError, match="parts of a backbone can only be transferred between Hugging Face models"
    ):
        run_transfer(old, new, ["encoder"])
    assert rows(run_transfer(old, OwnBackbone(), []))[0] == ("backbone", "kept")


def test_a_head_is_unchanged_if_it_is_not_requested():
    old = weights_of(make("bert"))
    new, head = make("bert", seed=9), nn.Linear(HIDDEN, 1)
    before = head.weight.detach().clone()
    report = run_transfer(old, new, ["backbone"], head=head)
    assert torch.equal(head.weight, before)
    assert str(report) == "new head: not requested"
