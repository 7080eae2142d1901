"""Adapters in checkpoints and model folders."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from lightning_transfer.adapters import Adapter, LoRA, merge
from lightning_transfer.adapters.adapter import applied
from lightning_transfer.checkpoints.adapter_files import stored_adapter
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import DESCRIPTION, export
from lightning_transfer.heads import LinearHead
from lightning_transfer.tasks import SequenceClassification
from tests.adapters.cases import ADAPTERS, CASES, MERGEABLE, SINGLE, make_task, perturb
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_inputs, make_loader, make_trainer

IDS, MASK = make_inputs(lengths=(9, 3, 6))
CLASSIFICATION_LAYOUTS = ("bert", "roberta", "distilbert", "electra", "deberta-v2")


def logits(task):
    with torch.no_grad():
        return task.eval()({"input_ids": IDS, "attention_mask": MASK})


def save(task, path):
    trainer = make_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_a_checkpoint_gives_the_same_logits(adapter, model, tmp_path):
    task = perturb(make_task(model, adapter))
    loaded = load(save(task, tmp_path / "a.ckpt")).task
    assert torch.equal(logits(loaded), logits(task))
    assert torch.equal(loaded.head.out.weight, task.head.out.weight)
    assert applied(loaded.backbone) == ADAPTERS[adapter]
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in task.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("adapter", MERGEABLE)
@pytest.mark.parametrize("model", CLASSIFICATION_LAYOUTS)
def test_plain_transformers_loads_merged_weights_with_the_trained_head(
    adapter, model, tokenizer, tmp_path
):
    task = perturb(make_task(model, adapter))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    expected = logits(task)
    assert export(task, tokenizer, tmp_path / "model") is True
    opened, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert {kind: list(names) for kind, names in report.items() if names} == {}
    with torch.no_grad():
        found = opened.eval()(input_ids=IDS, attention_mask=MASK).logits
    assert (found - expected).abs().max() < 1e-5
    assert expected.std(0).min() > 1e-3
    loaded = load(tmp_path / "model").task
    assert applied(loaded.backbone) is None
    assert (logits(loaded) - expected).abs().max() < 1e-5
    after = task.state_dict()  # the task still has its adapter
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert applied(task.backbone) == ADAPTERS[adapter]


def unmerged(model, adapter, head=None):
    """Return a task whose adapter is exported without merging, with random weights."""
    backbone = make_backbone(model)
    replace(ADAPTERS[adapter], merge=False).apply(backbone)
    head = head or make_task(model).head
    return perturb(SequenceClassification(backbone, head, labels=SINGLE))


@pytest.mark.parametrize("adapter", MERGEABLE)
@pytest.mark.parametrize("model", CLASSIFICATION_LAYOUTS)
def test_peft_loads_the_adapter_of_an_unmerged_folder(adapter, model, tokenizer, tmp_path):
    task = unmerged(model, adapter)
    expected = logits(task)
    assert export(task, tokenizer, tmp_path / "model") is True
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        without = base(input_ids=IDS, attention_mask=MASK).logits
        opened = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter").eval()
        found = opened(input_ids=IDS, attention_mask=MASK).logits
    assert (found - expected).abs().max() < 1e-5
    assert (without - expected).abs().max() > 1e-4
    merged = opened.merge_and_unload()
    with torch.no_grad():
        assert (merged(input_ids=IDS, attention_mask=MASK).logits - expected).abs().max() < 1e-5
    assert torch.equal(logits(load(tmp_path / "model").task), expected)


def test_an_unmerged_adapter_with_a_head_unknown_to_transformers(tokenizer, tmp_path):
    for name, adapter in (("bert", "lora"), ("modernbert", "ia3")):
        task = unmerged(name, adapter, head=LinearHead(HIDDEN, 3))
        folder = tmp_path / name
        assert export(task, tokenizer, folder) is False
        base = AutoModel.from_pretrained(folder)
        opened = PeftModel.from_pretrained(base, folder / "adapter").eval()
        with torch.no_grad():
            found = opened(input_ids=IDS, attention_mask=MASK)[0]
            expected = task.eval().backbone(IDS, MASK)
        assert (found - expected).abs().max() < 1e-5
        assert torch.equal(logits(load(folder).task), logits(task))


def test_a_target_in_the_backbone_does_not_match_the_head(tokenizer, tmp_path):
    """BERT's head has a layer `dense`, as the layers of the backbone do."""
    backbone, head = make_backbone("bert"), make_task("bert").head
    LoRA(target_modules=["dense"], merge=False).apply(backbone)
    task = perturb(SequenceClassification(backbone, head, labels=SINGLE))
    assert export(task, tokenizer, tmp_path / "model") is True
    assert not any(
        "pooler" in n for n in load_file(tmp_path / "model/adapter/adapter_model.safetensors")
    )
    assert torch.equal(logits(load(tmp_path / "model").task), logits(task))


@pytest.mark.parametrize(("adapter", "model"), [(a, m) for a, m in CASES if a not in MERGEABLE])
def test_an_unmergeable_adapter_is_stored_beside_the_frozen_backbone(
    adapter, model, tokenizer, tmp_path, caplog
):
    caplog.set_level("INFO")
    plain = make_task(model).backbone.eval()
    task = perturb(make_task(model, adapter))
    assert export(task, tokenizer, tmp_path / "model") is False
    assert "in separate files: neither transformers nor peft can open a " in caplog.text
    assert torch.equal(logits(load(tmp_path / "model").task), logits(task))
    opened, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["unexpected_keys"]
    with torch.no_grad():
        found = opened.eval()(input_ids=IDS, attention_mask=MASK)[0]
        assert (found - plain(IDS, MASK)).abs().max() < 1e-5


def test_a_loaded_adapter_can_be_merged_and_exported(tokenizer, tmp_path):
    task = unmerged("bert", "lora")
    expected = logits(task)
    export(task, tokenizer, tmp_path / "apart")
    loaded = load(tmp_path / "apart")
    merge(loaded.task.backbone)
    assert export(loaded.task, tokenizer, tmp_path / "merged") is True
    assert not (tmp_path / "merged" / "adapter").exists()
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        found = opened(input_ids=IDS, attention_mask=MASK).logits
    assert (found - expected).abs().max() < 1e-5


@dataclass(frozen=True)
class Shift(Adapter):
    """Adapter of a user: a vector added to the output of the top layer."""

    parts = ("shift",)

    def inject(self, backbone):
        top = backbone.layers[-1].output.dense
        top.shift = nn.Parameter(torch.zeros(HIDDEN))
        top.register_forward_hook(lambda module, _, output: output + module.shift)


def test_a_users_adapter_is_an_argument_of_load(tokenizer, tmp_path):
    task = make_task("bert")
    Shift().apply(task.backbone)
    perturb(task)
    path = save(task, tmp_path / "a.ckpt")
    export(task, tokenizer, tmp_path / "model")
    for where in (path, tmp_path / "model"):
        with pytest.raises(
            ValueError, match=r"is of your own class .*Shift; pass it: load\(path, adapter="
        ):
            load(where)
        assert torch.equal(logits(load(where, adapter=Shift()).task), logits(task))


def test_a_users_backbone_is_passed_to_load_without_an_adapter(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        return OwnBackbone()

    backbone = make(0)
    LoRA(r=2, target_modules=["first"]).apply(backbone)
    task = perturb(SequenceClassification(backbone, make_task("bert").head, labels=SINGLE))
    path = save(task, tmp_path / "a.ckpt")
    assert torch.equal(logits(load(path, backbone=make(1)).task), logits(task))
    with pytest.raises(ValueError, match="already has LoRA, so LoRA cannot be applied"):
        load(path, backbone=backbone)


def test_a_checkpoint_rebuilds_only_adapters_of_this_package(tmp_path):
    described = {"adapter": {"class": "os.system", "args": {"command": "true"}}}
    with pytest.raises(ValueError, match=r"own class os.system; .*adapter=system"):
        stored_adapter(described, own=LoRA(), where="a.ckpt")
    task = make_task("bert", "lora")
    stored = json.loads(json.dumps(applied(task.backbone).args)) | {"later": 1}
    described = {"adapter": {"class": "lightning_transfer.adapters.lora.LoRA", "args": stored}}
    with pytest.raises(
        ValueError,
        match=r"a.ckpt contains a LoRA with arguments unknown to this version: .*'later'",
    ):
        stored_adapter(described, own=None, where="a.ckpt")


def test_a_damaged_adapter_file_raises(tokenizer, tmp_path):
    export(unmerged("bert", "lora"), tokenizer, tmp_path / "model")
    path = tmp_path / "model" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"is damaged .*export the model again"):
        load(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "adapter")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "model")
    assert json.loads((tmp_path / "model" / DESCRIPTION).read_text())["adapter"]["args"]["r"] == 2


def test_weights_without_those_of_the_adapter_raise(tmp_path):
    task = make_task("bert", "lora")
    path = save(task, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "lora_B" not in k}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"do not fit the backbone.*lora_B"):
        load(path)


def test_the_trained_head_is_loaded_from_a_checkpoint(tmp_path):
    task = make_task("bert", "lora")
    initial = task.head.out.weight.detach().clone()
    loaders = make_loader("single_label", outputs=3), make_loader("single_label", outputs=3)
    make_trainer().fit(task, *loaders)
    loaded = load(save(task, tmp_path / "a.ckpt")).task
    assert not torch.equal(loaded.head.out.weight, initial)
    assert torch.equal(loaded.head.out.weight, task.head.out.weight)
    assert torch.equal(logits(loaded), logits(task))
