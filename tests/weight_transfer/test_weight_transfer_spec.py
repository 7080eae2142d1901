import pytest

from lightning_transfer.weight_transfer import (
    TransferredPart,
    WeightTransferReport,
    WeightTransferSpec,
)

SIDES = ("encoder", "decoder")


def asked(spec):
    """What is taken, as a set of words."""
    sides = {name for name in SIDES if spec.side(name)}
    tables = {f"{name} tokens" for name in SIDES if spec.tokens(name)}
    return sides | tables | ({"head"} if spec.head else set())


ALL = {"encoder", "decoder", "encoder tokens", "decoder tokens", "head"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ALL),
        ([], set()),
        ({}, ALL),
        (["backbone", "head"], ALL),
        (["backbone"], ALL - {"head"}),
        (["head"], {"head"}),
        (["encoder"], {"encoder", "encoder tokens"}),
        (["decoder", "head"], {"decoder", "decoder tokens", "head"}),
        (["embeddings"], {"encoder tokens", "decoder tokens"}),
        ({"backbone": True, "head": True}, ALL),
        ({"head": False}, ALL - {"head"}),
        ({"backbone": False}, {"head"}),
        ({"decoder": False}, {"encoder", "encoder tokens", "head"}),
        ({"embeddings": False}, {"encoder", "decoder", "head"}),
        ({"backbone": False, "encoder": True}, {"encoder", "encoder tokens", "head"}),
    ],
)
def test_a_list_names_all_and_a_mapping_changes_some(value, expected):
    spec = WeightTransferSpec.of(value)
    assert asked(spec) == expected
    assert spec.whole_backbone == (expected >= ALL - {"head"})
    assert spec.any_of_backbone == bool(expected - {"head"})


def test_a_decoder_may_take_from_the_encoder():
    spec = WeightTransferSpec.of({"decoder": "encoder"})
    assert (spec.source("decoder"), spec.source("encoder")) == ("encoder", "encoder")
    assert asked(spec) == ALL
    assert not spec.whole_backbone


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["encodr"], "weight_transfer names 'encodr'; parts: backbone, .*; did you mean encoder?"),
        ({"heads": True}, "weight_transfer names 'heads'.*did you mean head?"),
        (
            "backbone",
            r"weight_transfer must be null, a list such as \[backbone, head\] .*, got 'backbone'",
        ),
        (True, "weight_transfer must be null, a list .*, got True"),
        ({"encoder": "decoder"}, "weight_transfer.encoder must be true or false, got 'decoder'"),
        (
            {"decoder": "head"},
            "weight_transfer.decoder must be true or false, or encoder, got 'head'",
        ),
        ({"head": None}, "weight_transfer.head must be true or false, got None"),
    ],
)
def test_what_is_no_part_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        WeightTransferSpec.of(value)


def test_what_follows_a_mismatch_is_one_of_two():
    with pytest.raises(ValueError, match="on_mismatch must be error or new, got 'skip'"):
        WeightTransferSpec.of(None, on_mismatch="skip")


def test_the_table_is_plain_text():
    handed = WeightTransferReport(
        [
            TransferredPart("encoder", "transferred", 10646784),
            TransferredPart("head", "reinitialised", 148225, "the labels a, b become c, d"),
        ]
    )
    lines = handed.to_text("target").splitlines()
    assert [line.split() for line in lines if "encoder" in line] == [
        ["encoder", "transferred", "10,646,784"]
    ]
    assert lines[0].strip() == "target"
    assert "the labels a, b become c, d" in lines[-1]
    assert "\x1b" not in handed.to_text("target")
    assert max(map(len, handed.to_text("target", width=60).splitlines())) <= 60
    title = "target after source · seed 0: taken from stage source"
    assert WeightTransferReport(handed.parts[:1]).to_text(title).splitlines()[0] == title
    assert handed.to_rows()[0] == {
        "part": "encoder",
        "status": "transferred",
        "parameters": 10646784,
        "why": "",
    }
    assert handed.taken
    assert not WeightTransferReport(handed.parts[1:]).taken
