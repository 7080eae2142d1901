"""Weight transfer between the stages of a run: options, reports, and checks before training."""

import json
import logging

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.experiments.results import Results
from tests.conftest import WORDS, tiny_config
from tests.runs import Stop, Watch, stage, transfer, weights
from tests.weight_transfer.test_embedding_tables import make_other

pytestmark = pytest.mark.jobs

SOURCE, TARGET = "source-seed0", "source-seed0/target-seed0"
ONCE = ["stages.source.epochs=1", "stages.target.epochs=1"]


@pytest.fixture(autouse=True)
def _reset():
    Watch.reset()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of pretrained models with three layers, a larger width, and another tokenizer."""
    root = tmp_path_factory.mktemp("others")
    other = make_other(["zebra", *reversed(WORDS[2:])])
    changes = {
        "deeper": {"num_hidden_layers": 3},
        "wider": {"hidden_size": 24},
        "vocabulary": {"vocab_size": len(other), "pad_token_id": other.pad_token_id},
    }
    for name, values in changes.items():
        torch.manual_seed(7)
        BertModel(tiny_config(**values)).save_pretrained(root / name)
        other.save_pretrained(root / name)
    return root


def final(folder, name):
    return weights(folder / "stages" / name / "final.ckpt")


def parts_of(found, name):
    """Return the status of each part of a stage run in the results."""
    [run] = [run for run in found["weight_transfer"] if run["run"] == f"stages/{name}"]
    return {part["part"]: part["status"] for part in run["parts"]}


def both(runs, *options):
    return [*transfer(runs.news, runs.movies, baselines=False), *ONCE, *options]


def own_backbone(folder, *options):
    return [
        "backbone@stages.target.backbone=hub",
        f"stages.target.backbone.name={folder}",
        *options,
    ]


def test_everything_is_transferred_by_default_and_reported(runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = runs.fit(tmp_path, *both(runs))
    assert [(run["run"], run["from"]) for run in found["weight_transfer"]] == [
        (f"stages/{SOURCE}", None),
        (f"stages/{TARGET}", f"stages/{SOURCE}"),
    ]
    assert set(parts_of(found, SOURCE).values()) == {"kept", "reinitialised"}
    assert parts_of(found, TARGET) == {
        "token embeddings": "transferred",
        "positions": "transferred",
        "encoder": "transferred",
        "head": "transferred",
    }
    assert "transferred from stage source" in caplog.text
    assert "token embeddings" in caplog.text
    assert Results.read(tmp_path).to_dict() == found
    sizes = [part["parameters"] for part in found["weight_transfer"][1]["parts"]]
    assert sum(sizes) == sum(p.numel() for p in load(tmp_path).task.parameters())


def test_the_head_is_reinitialised_if_only_the_backbone_is_requested(runs, tmp_path):
    found = runs.fit(tmp_path, *both(runs, "stages.target.weight_transfer=[backbone]"))
    old, start = final(tmp_path, SOURCE), dict(Watch.started)[TARGET]
    same = {name: torch.equal(old[name], start[name]) for name in old}
    assert all(same[name] for name in old if name.startswith("backbone."))
    assert not same["head.out.weight"]
    assert parts_of(found, TARGET)["head"] == "reinitialised"


def test_the_backbone_is_the_pretrained_one_if_it_is_not_requested(runs, tmp_path):
    found = runs.fit(tmp_path, *both(runs, "stages.target.weight_transfer={backbone: false}"))
    first, start = Watch.started[0][1], dict(Watch.started)[TARGET]
    assert all(torch.equal(first[k], start[k]) for k in first if k.startswith("backbone."))
    assert torch.equal(start["head.out.weight"], final(tmp_path, SOURCE)["head.out.weight"])
    assert parts_of(found, TARGET)["backbone of the weights"] == "skipped"


def test_partly_equal_labels_are_allowed_without_a_transfer_of_the_head(runs, tmp_path):
    classes = {"label": "mood", "kind": "single_label"}
    overrides = [
        *stage("source", runs.news, **classes, epochs=1),
        *stage("target", runs.movies, "data.label.names=[negative,positive]", **classes, epochs=1),
        "order=[source,target]",
        "stages.target.data.on_bad_row=skip",
    ]
    with pytest.raises(ValueError, match="match only in part"):
        runs.fit(tmp_path / "a", *overrides)
    assert Watch.started == []
    found = runs.fit(tmp_path / "b", *overrides, "stages.target.weight_transfer={head: false}")
    assert parts_of(found, TARGET)["head"] == "reinitialised"


def test_a_stage_with_its_own_backbone_gets_matching_layers_and_tokens(runs, folders, tmp_path):
    overrides = own_backbone(folders / "deeper", "stages.target.on_mismatch=new")
    found = runs.fit(tmp_path, *both(runs, *overrides))
    old, start = final(tmp_path, SOURCE), dict(Watch.started)[TARGET]
    own = BertModel.from_pretrained(folders / "deeper").state_dict()
    for name, value in start.items():
        plain = name.removeprefix("backbone.model.")
        if "layer.2." in name:
            assert torch.equal(value, own[plain]), name
        elif "encoder.layer" in name:
            assert torch.equal(value, old[name]), name
    table = "backbone.model.embeddings.word_embeddings.weight"
    old_ids, new_ids = (
        AutoTokenizer.from_pretrained(f).get_vocab() for f in _tokenizers(runs, folders)
    )
    assert torch.equal(start[table][new_ids["film"]], old[table][old_ids["film"]])
    assert parts_of(found, TARGET)["token embeddings"] == "resized"
    loaded = load(tmp_path)
    assert loaded.tokenizer.get_vocab() == new_ids
    assert len(loaded.task.backbone.layers) == 4


def _tokenizers(runs, folders):
    [name] = [w.partition("=")[2] for w in runs.overrides if w.startswith("backbone.name=")]
    return name, folders / "deeper"


def test_a_stage_with_its_own_tokenizer_has_another_token_table(runs, folders, tmp_path):
    found = runs.fit(tmp_path, *both(runs, f"stages.target.tokenizer={folders / 'vocabulary'}"))
    old, start = final(tmp_path, SOURCE), dict(Watch.started)[TARGET]
    table = "backbone.model.embeddings.word_embeddings.weight"
    for name in old:
        if name.startswith("backbone.") and name != table:
            assert torch.equal(start[name], old[name]), name
    old_ids, new_ids = (
        AutoTokenizer.from_pretrained(f).get_vocab() for f in _tokenizers(runs, folders)
    )
    for word in set(old_ids) & set(new_ids):
        assert torch.equal(start[table][new_ids[word]], old[table][old_ids[word]])
    assert len(start[table]) == len(new_ids) != len(old_ids)
    assert parts_of(found, TARGET) == {
        "token embeddings": "resized",
        "positions": "transferred",
        "encoder": "transferred",
        "head": "transferred",
    }


def test_the_next_stage_continues_with_the_backbone_of_the_previous_stage(runs, folders, tmp_path):
    overrides = own_backbone(folders / "wider", "stages.target.weight_transfer=[]")
    third = stage("third", runs.movies, epochs=1)
    found = runs.fit(tmp_path, *both(runs, *overrides), *third, "order=[source,target,third]")
    last = f"{TARGET}/third-seed0"
    assert set(parts_of(found, last).values()) == {"transferred"}
    assert parts_of(found, TARGET)["encoder"] == "kept"
    old, start = final(tmp_path, TARGET), dict(Watch.started)[last]
    assert start["head.out.weight"].shape == (1, 24)
    assert all(torch.equal(old[name], start[name]) for name in old)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["deeper"],
            "the weights in stage source do not fit .* layer 3, the weights have 2 layers",
        ),
        (["wider"], "the token embeddings have width 16 in the weights and 24 in the backbone"),
        (
            ["wider", "stages.target.weight_transfer=[encodr]"],
            "stages.target: unknown part 'encodr' in weight_transfer.*encoder?",
        ),
        (["wider", "stages.target.on_mismatch=no"], "stages.target: on_mismatch must be error or"),
        (["wider", "stages.target.weight_transfer=[decoder]"], "no part of the weights fits"),
        (
            ["wider", "+stages.target.weight_transfers=[]"],
            "unknown key 'stages.target.weight_transfers'.*mean stages.target.weight_transfer?",
        ),
    ],
)
def test_a_mismatch_is_found_before_the_first_step(runs, folders, tmp_path, options, message):
    name, *more = options
    with pytest.raises(ValueError, match=message):
        runs.fit(tmp_path, *both(runs, *own_backbone(folders / name, *more)))
    assert Watch.started == []


def test_a_resumed_run_reports_the_weight_transfer(runs, tmp_path):
    overrides = [*both(runs), "resume_every=1"]
    whole = runs.fit(tmp_path / "whole", *overrides)
    Watch.reset()
    Watch.stop = (TARGET, "batch", 2)
    with pytest.raises(Stop):
        runs.fit(tmp_path / "cut", *overrides)
    Watch.reset()
    found = runs.fit(tmp_path / "cut", *overrides, resume=True)
    assert found["weight_transfer"] == whole["weight_transfer"]
    record = json.loads((tmp_path / "cut/stages" / TARGET / "fit.json").read_text())
    assert record["weight_transfer"] == found["weight_transfer"][1]["parts"]
