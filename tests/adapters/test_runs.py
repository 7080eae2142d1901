"""Runs with adapters: transfer between stages, resumption, export and prediction."""

import json
import re

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from lightning_transfer.adapters import Adapter, LoRA
from lightning_transfer.adapters.adapter import applied
from lightning_transfer.adapters.peft_layers import base_name
from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.cli import main
from tests.runs import Stop, Watch, transfer, weights, without_seconds

pytestmark = pytest.mark.slow  # whole runs

METHODS = ("lora", "ia3", "prefix", "bottleneck", "bitfit")
SOURCE, TARGET = "source-seed0", "source-seed0/target-seed0"
# Dropout inside the adapter, if it has one, so that resuming depends on its random numbers.
DROPOUT = {"lora": ("adapter.dropout=0.3",), "bottleneck": ("adapter.dropout=0.3",)}


def with_method(name, stage="target", *options):
    key = f"stages.{stage}.finetuning"
    return [f"finetuning@{key}={name}", *(f"{key}.{option}" for option in options)]


def alone(runs, folder, name, *options, **arguments):
    overrides = with_method(name, "target", *options)
    return runs.target(folder, overrides=overrides, **arguments)


def final(folder, name):
    return weights(folder / "stages" / name / "final.ckpt")


def both(runs, source, target, *more):
    overrides = [*with_method(source, "source"), *with_method(target, "target")]
    return transfer(runs.news, runs.movies, *overrides, *more, baselines=False)


@pytest.mark.parametrize("name", METHODS)
def test_the_log_has_the_number_of_trained_parameters(runs, tmp_path, name, caplog):
    caplog.set_level("INFO")
    alone(runs, tmp_path, name)
    title = {"lora": "LoRA", "ia3": "IA3", "prefix": "PrefixTuning", "bottleneck": "Bottleneck"}
    chosen = rf"chosen by {title[name]}" if name in title else r"matching \S+"
    line = rf"froze parameters {chosen}: ([\d,]+) of ([\d,]+) parameters \((.*) %\) trainable"
    [(trains, total, percent)] = re.findall(line, caplog.text)
    trains, total = (int(number.replace(",", "")) for number in (trains, total))
    assert float(percent) == pytest.approx(100 * trains / total, abs=0.005)
    [(_, before)] = Watch.started
    after = final(tmp_path, "target-seed0")
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert sum(after[key].numel() for key in changed) == trains
    assert {key for key in changed if key.startswith("head.")} == {
        key for key in after if key.startswith("head.")
    }
    loaded = load(tmp_path / "stages/target-seed0/final.ckpt").task
    adapter = applied(loaded.backbone)
    for key in changed:
        inside = key.removeprefix("backbone.")
        owned = adapter.owns(inside) if adapter else key.endswith("bias")
        assert owned or key.startswith("head.")


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(runs, tmp_path, name):
    def fit(folder, *, resume=False):
        overrides = [*with_method(name, "target", *DROPOUT.get(name, ())), "resume_every=1"]
        overrides = transfer(runs.news, runs.movies, *overrides, baselines=False)
        return runs.fit(folder, *overrides, "order=[target]", resume=resume)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(whole)
    for step in (2, 4, 7):
        Watch.stop = ("target-seed0", "batch", step)
        with pytest.raises(Stop):
            fit(parts, resume=step > 2)
    point = read_checkpoint(parts / "stages/target-seed0/last.ckpt")
    assert point["optimizer_states"][0]["state"]
    Watch.stop = None
    assert without_seconds(fit(parts, resume=True)) == without_seconds(expected)
    one, other = (final(folder, "target-seed0") for folder in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_the_next_stage_starts_from_merged_weights(runs, tmp_path, name, caplog):
    caplog.set_level("INFO")
    runs.fit(tmp_path, *both(runs, name, "full"))
    title = {"lora": "LoRA", "ia3": "IA3"}[name]
    assert f"head kept: labels regression; {title} merged into the base weights" in caplog.text
    trained = load(tmp_path / "stages" / SOURCE / "final.ckpt").task
    batch = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4).long()}
    expected = trained(batch)
    start = dict(Watch.started)[TARGET]
    assert not any("lora" in key or "ia3" in key for key in start)
    plain = load(tmp_path / "model").task.eval()
    plain.load_state_dict(start)
    assert (plain(batch) - expected).abs().max() < 1e-6
    end = final(tmp_path, TARGET)
    assert not any(torch.equal(start[k], end[k]) for k in start if k.endswith("query.weight"))


def test_a_new_adapter_is_applied_to_merged_weights(runs, tmp_path, caplog):
    caplog.set_level("INFO")
    runs.fit(tmp_path, *both(runs, "lora", "lora", "stages.target.finetuning.adapter.r=2"))
    assert "LoRA merged into the base weights; new LoRA" in caplog.text
    source, start = final(tmp_path, SOURCE), dict(Watch.started)[TARGET]
    for key, value in start.items():
        if "lora_B" in key:
            assert not value.any()
            assert value.shape[1] == 2
        elif "query.base_layer.weight" in key:
            path = key.removesuffix("base_layer.weight")
            a, b = (source[f"{path}lora_{part}.default.weight"] for part in "AB")
            torch.testing.assert_close(value, source[key] + 2 * b @ a, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["prefix", "bottleneck"])
def test_an_unmergeable_adapter_continues_training(runs, tmp_path, name, caplog):
    caplog.set_level("INFO")
    runs.fit(tmp_path, *both(runs, name, name))
    title = {"prefix": "PrefixTuning", "bottleneck": "Bottleneck"}[name]
    assert f"head kept: labels regression; {title} continues training" in caplog.text
    source, start, end = (
        final(tmp_path, SOURCE),
        dict(Watch.started)[TARGET],
        final(tmp_path, TARGET),
    )
    assert all(torch.equal(source[key], start[key]) for key in source)
    assert any(not torch.equal(start[k], end[k]) for k in start if name in k)


@pytest.mark.parametrize(
    ("methods", "current"),
    [
        (("bottleneck", "full"), "no adapter"),
        (("prefix", "lora"), "LoRA {'r': 8"),
        (
            ("bottleneck", "bottleneck", "stages.target.finetuning.adapter.size=8"),
            "Bottleneck {'siz",
        ),
    ],
)
def test_an_adapter_without_continuation_raises_before_the_first_step(
    runs, tmp_path, methods, current
):
    message = (
        r"stages.target.finetuning.adapter: the previous stage trained "
        r"(Bottleneck|PrefixTuning) \{.*"
        rf"which cannot be merged.*this stage has {re.escape(current)}.*both stages the same"
    )
    with pytest.raises(ValueError, match=message):
        runs.fit(tmp_path, *both(runs, *methods))
    assert Watch.started == []


@pytest.mark.parametrize("name", ["lora", "bottleneck"])
@pytest.mark.parametrize("where", ["", "stages/target-seed0/final.ckpt"])
def test_a_stage_starts_from_a_finished_run(runs, tmp_path, name, where):
    alone(runs, tmp_path / "first", name)
    Watch.reset()
    start = f"init_from={tmp_path / 'first' / where}"
    runs.target(tmp_path / "then", start, overrides=with_method(name), epochs=1)
    loaded, batch = (
        load(tmp_path / "first"),
        {
            "input_ids": torch.tensor([[2, 7, 9, 3]]),
            "attention_mask": torch.ones(1, 4).long(),
        },
    )
    then = load(tmp_path / "then/stages/target-seed0/final.ckpt").task
    then.load_state_dict(Watch.started[0][1])
    assert (then(batch) - loaded.task(batch)).abs().max() < 1e-6
    if name == "bottleneck":
        with pytest.raises(ValueError, match="this stage has no adapter"):
            runs.target(tmp_path / "not", start, epochs=1)


def test_the_option_merge_decides_on_merged_weights(runs, tmp_path, capsys, monkeypatch):
    for merge in (True, False):
        folder = tmp_path / str(merge)
        alone(runs, folder, "lora", f"adapter.merge={str(merge).lower()}")
        trained = load(folder / "stages/target-seed0/final.ckpt").task
        ids, mask = torch.tensor([[2, 7, 9, 3]]), torch.ones(1, 4).long()
        expected = trained({"input_ids": ids, "attention_mask": mask})
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
        assert (folder / "model/adapter").exists() != merge
        if not merge:
            model = PeftModel.from_pretrained(model, folder / "model/adapter").eval()
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask).logits
        assert (found - expected).abs().max() < 1e-5
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert main(["predict", f"ckpt={folder}", 'text="a good film"']) in (0, None)
    lines = [line for line in capsys.readouterr().out.splitlines() if "\t" in line]
    first, second = (float(line.rpartition("\t")[2]) for line in lines)
    assert first == pytest.approx(second, abs=1e-3)


class Shift(Adapter):
    """Adapter of a user: a vector added to the output of the top layer."""

    parts = ("shift",)
    args = {}  # noqa: RUF012

    def inject(self, backbone):
        top = backbone.layers[-1].output.dense
        top.shift = nn.Parameter(torch.zeros(backbone.hidden_size))
        top.register_forward_hook(lambda module, _, output: output + module.shift)


def test_a_users_adapter_is_built_from_the_config(runs, tmp_path, capsys):
    own = "+stages.target.finetuning.adapter={_target_: tests.adapters.test_runs.Shift}"
    own = own.replace("+", "")
    runs.target(tmp_path, overrides=[own])
    after = final(tmp_path, "target-seed0")
    [name] = [key for key in after if "shift" in key]
    assert after[name].any()
    described = json.loads((tmp_path / "model/lightning_transfer.json").read_text())
    assert described["adapter"] == {"class": "tests.adapters.test_runs.Shift", "args": {}}


class Folding(Shift):
    """Adapter of a user that can be merged into a bias."""

    mergeable = True

    def fold(self, backbone):
        top = backbone.layers[-1].output.dense
        with torch.no_grad():
            top.bias += top.shift
        del top.shift
        top._forward_hooks.clear()


def test_a_users_mergeable_adapter_is_merged_by_the_next_stage(runs, tmp_path, caplog):
    caplog.set_level("INFO")
    own = "stages.source.finetuning.adapter={_target_: tests.adapters.test_runs.Folding}"
    runs.fit(tmp_path, *transfer(runs.news, runs.movies, own, baselines=False))
    assert "Folding merged into the base weights" in caplog.text
    source, start = final(tmp_path, SOURCE), dict(Watch.started)[TARGET]
    [shift] = [key for key in source if key.endswith("shift")]
    bias = shift.replace("shift", "bias")
    assert torch.equal(start[bias], source[bias] + source[shift])


def test_another_class_than_an_adapter_raises(runs, tmp_path):
    other = "stages.target.finetuning.adapter={_target_: torch.nn.Identity}"
    with pytest.raises(ValueError, match=r"adapter: torch.nn.Identity .*lightning_transfer.adapte"):
        runs.target(tmp_path, overrides=[other])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("adapter.r=0", r"stages.target.finetuning.adapter: r must be an integer >= 1, got 0"),
        (
            "adapter.target_modules=[qurey]",
            r"layer 'qurey'; did you mean query\? The backbone has:",
        ),
    ],
)
def test_an_invalid_argument_raises_before_the_first_step(runs, tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        alone(runs, tmp_path, "lora", option)
    assert Watch.started == []


def test_base_names_and_owned_parameters():
    assert base_name("a.query.base_layer.weight") == "a.query.weight"
    assert LoRA().owns("a.query.lora_A.default.weight")
    assert not LoRA().owns("a.query.base_layer.weight")
