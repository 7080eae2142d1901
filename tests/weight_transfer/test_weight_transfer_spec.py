"""Parts requested in a weight transfer spec, and the text of a report."""

import pytest

from lightning_transfer.weight_transfer import (
    TransferredPart,
    WeightTransferReport,
    WeightTransferSpec,
)

STACKS = ("encoder", "decoder")


def requested(spec):
    """Return the names of all transferred parts."""
    layers = {name for name in STACKS if spec.transfers_layers(name)}
    tables = {f"{name} tokens" for name in STACKS if spec.transfers_tokens(name)}
    return layers | tables | ({"head"} if spec.head else set())


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
def test_a_list_contains_all_parts_and_a_mapping_changes_single_parts(value, expected):
    spec = WeightTransferSpec.of(value)
    assert requested(spec) == expected
    assert spec.whole_backbone == (expected >= ALL - {"head"})
    assert spec.any_of_backbone == bool(expected - {"head"})


def test_a_decoder_may_be_filled_from_the_encoder():
    spec = WeightTransferSpec.of({"decoder": "encoder"})
    assert (spec.source_stack("decoder"), spec.source_stack("encoder")) == ("encoder", "encoder")
    assert requested(spec) == ALL
    assert not spec.whole_backbone


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            ["encodr"],
            "unknown part 'encodr' in weight_transfer; did you mean encoder.*Parts: backbone, ",
        ),
        ({"heads": True}, "unknown part 'heads' in weight_transfer; did you mean head?"),
        (
            "backbone",
            r"weight_transfer must be null, a list such as \[backbone, head\] .*, got 'backbone'",
        ),
        (True, "weight_transfer must be null, a list .*, got True"),
        ({"encoder": "decoder"}, "weight_transfer.encoder must be true or false, got 'decoder'"),
        (
            {"decoder": "head"},
            "weight_transfer.decoder must be true, false or encoder, got 'head'",
        ),
        ({"head": None}, "weight_transfer.head must be true or false, got None"),
    ],
)
def test_a_wrong_part_or_value_is_an_error(value, message):
    with pytest.raises(ValueError, match=message):
        WeightTransferSpec.of(value)


def test_an_unknown_on_mismatch_is_an_error():
    with pytest.raises(ValueError, match="on_mismatch must be error or new, got 'skip'"):
        WeightTransferSpec.of(None, on_mismatch="skip")


def test_the_report_is_a_table_of_plain_text():
    report = WeightTransferReport(
        [
            TransferredPart("encoder", "transferred", 10646784),
            TransferredPart("head", "reinitialised", 148225, "the labels a, b become c, d"),
        ]
    )
    lines = report.to_text("target").splitlines()
    assert [line.split() for line in lines if "encoder" in line] == [
        ["encoder", "transferred", "10,646,784"]
    ]
    assert lines[0].strip() == "target"
    assert "the labels a, b become c, d" in lines[-1]
    assert "\x1b" not in report.to_text("target")
    assert max(map(len, report.to_text("target", width=60).splitlines())) <= 60
    title = "target after source · seed 0: transferred from stage source"
    assert WeightTransferReport(report.parts[:1]).to_text(title).splitlines()[0] == title
    assert report.to_rows()[0] == {
        "part": "encoder",
        "status": "transferred",
        "parameters": 10646784,
        "why": "",
    }
    assert report.has_transferred
    assert not WeightTransferReport(report.parts[1:]).has_transferred
