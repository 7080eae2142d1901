"""What one architecture takes of another: encoder, decoder, layers, positions."""

import pytest
import torch
from torch import nn

from lightning_transfer.adapters import LoRA, PrefixTuning
from lightning_transfer.adapters.adapter import applied
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, make_inputs
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_pairs
from tests.weight_transfer.weights import hand, make, pair, rows, state, weights_of


def equal(one, other, names=None):
    names = one.keys() & other.keys() if names is None else names
    return bool(names) and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
def test_all_of_a_backbone_goes_to_one_of_the_same_form(name):
    old, new = make(name), make(name, seed=9)
    handed = hand(old, new)
    assert equal(old.state_dict(), new.state_dict())
    assert {became for _, became in rows(handed)} == {"transferred"}
    held = sum(p.numel() for p in new.parameters())
    sizes = [part.parameters for part in handed.parts if part.part != "head"]
    assert sum(sizes) == held


def test_an_encoder_goes_below_a_decoder():
    old, new = make("bert"), pair(seed=9)
    decoder = state(new, "decoder")
    handed = hand(old, new)
    assert equal(state(old, "encoder"), state(new, "encoder"))
    assert equal(decoder, state(new, "decoder"))
    assert rows(handed) == [
        ("encoder token embeddings", "transferred"),
        ("decoder token embeddings", "reinitialised"),
        ("encoder positions", "transferred"),
        ("encoder", "transferred"),
        ("decoder", "reinitialised"),
    ]
    assert [p.why for p in handed.parts][1] == "the weights have no decoder"


def test_a_decoder_takes_the_self_attention_of_an_encoder_where_it_is_told_to():
    old, new = make("bert"), pair(seed=9)
    before = state(new, "decoder")
    handed = hand(old, new, {"decoder": "encoder"})
    one, after = state(old, "encoder"), state(new, "decoder")
    cross = {name for name in after if "crossattention" in name}
    assert cross == after.keys() - one.keys()
    assert equal(before, after, cross)
    assert equal(one, after)
    assert equal(one, state(new, "encoder"))
    told = [(p.part, p.status, p.why) for p in handed.parts if p.part == "decoder"]
    assert told == [
        ("decoder", "transferred", "from the encoder of the weights"),
        ("decoder", "reinitialised", "cross-attention: none in the weights"),
    ]


def test_an_encoder_is_taken_out_of_an_encoder_decoder():
    old, new = pair(), make("bert", seed=9)
    handed = hand(old, new)
    assert equal(state(old, "encoder"), state(new, "encoder"))
    assert ("decoder", "skipped") in rows(handed)
    ids, mask = make_inputs()
    expected = old.model.encoder.eval()(ids, attention_mask=mask)[0]
    assert torch.equal(new.eval()(ids, mask), expected)


def test_a_causal_model_goes_into_a_decoder():
    old, new = make("gpt2"), pair("bert", "gpt2", seed=9)
    encoder = state(new, "encoder")
    handed = hand(old, new)
    one, after = state(old, "decoder"), state(new, "decoder")
    assert equal(one, after)
    assert {n for n in after if "cross" in n} == after.keys() - one.keys()
    assert equal(encoder, state(new, "encoder"))
    assert ("decoder", "transferred") in rows(handed)
    back = make("gpt2", seed=5)
    hand(new, back)
    assert equal(state(back, "decoder"), one)


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "mbart", "pegasus", "marian-apart"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_side_is_taken_and_the_other_stays(name, side):
    old, new = make(name), make(name, seed=9)
    other = {"encoder": "decoder", "decoder": "encoder"}[side]
    before = state(new, other)
    handed = hand(old, new, [side])
    assert equal(state(old, side), state(new, side))
    after = state(new, other)
    tied = name != "marian-apart"
    names = {n for n in before if not (tied and n == "embed_tokens.weight")}
    assert equal(before, after, names)
    assert (side, "transferred") in rows(handed)
    assert (other, "reinitialised") in rows(handed)
    assert (other, "skipped") in rows(handed)
    if tied:
        tables = [new.model.get_submodule(f"{s}.embed_tokens").weight for s in (side, other)]
        assert tables[0] is tables[1] is new.model.shared.weight


def test_tables_alone_are_taken_if_they_alone_are_named():
    old, new = make("bart"), make("bart", seed=9)
    before = state(new, "encoder")
    handed = hand(old, new, ["embeddings"])
    assert torch.equal(new.model.shared.weight, old.model.shared.weight)
    assert equal(before, state(new, "encoder"), before.keys() - {"embed_tokens.weight"})
    assert rows(handed)[0] == ("token embeddings", "transferred")


def test_layers_without_their_tables():
    old, new = make("bert"), make("bert", seed=9)
    table = new.token_embeddings.weight.detach().clone()
    handed = hand(old, new, {"embeddings": False})
    assert torch.equal(new.token_embeddings.weight, table)
    name = "embeddings.word_embeddings.weight"
    assert equal(
        state(old, "encoder"), state(new, "encoder"), state(old, "encoder").keys() - {name}
    )
    assert rows(handed)[0] == ("token embeddings", "reinitialised")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"num_hidden_layers": 2}, "they have layer 3, and the backbone has 2 layers"),
        ({"num_hidden_layers": 1}, {}, "the backbone has layers 2 to 3, and they have 1 layers"),
        (
            {},
            {"intermediate_size": 48},
            r"encoder.layer.0.intermediate.dense.weight is \(32, 16\) in them and \(48, 16\) in th",
        ),
        ({}, {"max_position_embeddings": 50}, "they have 40 positions and the backbone 50"),
        ({}, {"vocab_size": 40}, "the token embeddings have 33 rows in the weights and 40 here"),
    ],
)
def test_what_does_not_fit_is_named(old, new, message):
    with pytest.raises(
        ValueError, match=rf"a.ckpt do not fit .* BertModel: .*{message}.*Set on_mi"
    ):
        hand(make("bert", **old), make("bert", seed=9, **new))


@pytest.mark.parametrize(("there", "here"), [(3, 2), (2, 3)])
def test_a_longer_or_shorter_stack_where_that_is_asked_for(there, here):
    old = make("bert", num_hidden_layers=there)
    new = make("bert", seed=9, num_hidden_layers=here)
    before = state(new, "encoder")
    handed = hand(old, new, on_mismatch="new")
    one, after = state(old, "encoder"), state(new, "encoder")
    assert equal(one, after)
    assert equal(before, after, after.keys() - one.keys()) or here < there
    [told] = [p for p in handed.parts if "layer 3" in p.why]
    assert told.status == ("skipped" if there > here else "reinitialised")
    assert told.parameters == sum(v.numel() for k, v in {**one, **after}.items() if "layer.2." in k)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "bart"])
@pytest.mark.parametrize("here", [30, 50])
def test_positions_up_to_the_shorter_table(name, here):
    option = "n_positions" if name == "gpt2" else "max_position_embeddings"
    old, new = make(name), make(name, seed=9, **{option: here})
    before = new.state_dict()
    with pytest.raises(ValueError, match="positions and the backbone"):
        hand(old, make(name, seed=9, **{option: here}))
    before = {k: v.clone() for k, v in before.items()}
    handed = hand(old, new, on_mismatch="new")
    assert "resized" in dict(rows(handed)).values()
    ids, mask = make_inputs()
    inputs = make_pairs() if name == "bart" else {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(new.eval()(**inputs), old.eval()(**inputs))
    if here > 40:
        [key, *_] = [k for k in before if "position" in k or "wpe" in k]
        assert torch.equal(new.state_dict()[key][-5:], before[key][-5:])


def test_positions_that_are_computed_are_of_any_length():
    old, new = make("marian"), make("marian", seed=9, max_position_embeddings=50)
    table = new.model.encoder.embed_positions.weight.detach().clone()
    handed = hand(old, new)
    assert torch.equal(new.model.encoder.embed_positions.weight, table)
    assert "reinitialised" not in dict(rows(handed)).values()
    inputs = make_pairs()
    assert torch.equal(new.eval()(**inputs), old.eval()(**inputs))


def test_another_architecture_is_refused_although_the_names_agree():
    with pytest.raises(ValueError, match="they are of a bert and the backbone is a roberta"):
        hand(make("bert"), make("roberta"))
    new = make("roberta", seed=9)
    before = state(new, "encoder")
    handed = hand(make("bert"), new, {"embeddings": False}, on_mismatch="new")
    layers = [name for name in before if "layer." in name]
    assert equal(before, state(new, "encoder"), layers)
    assert ("encoder", "reinitialised") in rows(handed)


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="nothing of them has a place in it"):
        hand(make("bert"), make("gpt2"))


def test_a_part_that_is_named_has_to_be_there():
    with pytest.raises(ValueError, match="take names the decoder, and they have none"):
        hand(make("bert"), pair(), ["encoder", "decoder"])


def test_other_widths_leave_all_as_it_is_built():
    old, new = make("bert"), make("bert", seed=9, hidden_size=24)
    before = state(new, "encoder")
    handed = hand(old, new, on_mismatch="new")
    after = state(new, "encoder")
    assert equal(before, after, [n for n in before if before[n].shape[-1:] == (24,)])
    assert dict(rows(handed))["token embeddings"] == "reinitialised"
    assert "16 wide in the weights and 24 here" in handed.parts[0].why


def test_the_backbone_may_be_left_behind():
    old, new = make("bert"), make("distilbert", seed=9)
    before = state(new, "encoder")
    handed = hand(old, new, ["head"])
    assert equal(before, state(new, "encoder"))
    assert ("backbone of the weights", "skipped") in rows(handed)
    assert handed.parts[-1].status == "transferred"


def test_each_weight_keeps_its_type():
    old, new = make("bert"), pair(seed=9)
    new.to(torch.bfloat16)
    hand(old, new)
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}
    one, other = state(old, "encoder"), state(new, "encoder")
    assert all(torch.equal(one[name].bfloat16(), other[name]) for name in one)


def adapted(adapter, name="bert"):
    old = make(name)
    adapter.apply(old)
    with torch.no_grad():
        for key, value in old.named_parameters():
            if adapter.owns(key):
                value.normal_(std=0.3)  # a larger change is rounded by more than it may be off
    return old


def test_an_adapter_is_merged_on_its_way_into_another_model():
    old, new = adapted(LoRA(r=2)), pair(seed=9)
    handed = hand(old, new)
    ids, mask = make_inputs()
    found = new.model.encoder.eval()(ids, attention_mask=mask)[0]
    torch.testing.assert_close(found, old.eval()(ids, mask), atol=1e-5, rtol=1e-5)
    assert "LoRA merged into the base weights" in str(handed)
    assert applied(new) is None


def test_an_adapter_that_cannot_be_merged_stays_in_its_backbone():
    old = adapted(PrefixTuning(length=2))
    with pytest.raises(ValueError, match="PrefixTuning, which the weights"):
        hand(old, pair(), adapter=PrefixTuning(length=2))
    left = make("bert", seed=9)
    handed = hand(old, left, ["head"])
    assert "PrefixTuning left behind" in str(handed)


def test_a_fresh_adapter_goes_on_top_of_a_side():
    old, new = make("bert"), make("bert", seed=9, num_hidden_layers=2)
    handed = hand(old, new, on_mismatch="new", adapter=LoRA(r=2))
    assert str(handed).endswith("; new LoRA")
    assert isinstance(applied(new), LoRA)


def test_a_backbone_of_the_users_own_is_taken_whole_or_not_at_all():
    old, new = OwnBackbone(), OwnBackbone()
    handed = hand(old, new)
    assert equal(old.state_dict(), new.state_dict())
    assert rows(handed) == [("backbone", "transferred")]
    with pytest.raises(ValueError, match="parts of a backbone can be told in our Backbone alone"):
        hand(old, new, ["encoder"])
    assert rows(hand(old, OwnBackbone(), []))[0] == ("backbone", "kept")


def test_a_head_is_left_behind_where_it_is_not_asked_for():
    old = weights_of(make("bert"))
    new, head = make("bert", seed=9), nn.Linear(HIDDEN, 1)
    before = head.weight.detach().clone()
    handed = hand(old, new, ["backbone"], head=head)
    assert torch.equal(head.weight, before)
    assert str(handed) == "new head: not asked for"
