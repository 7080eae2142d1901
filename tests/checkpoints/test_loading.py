"""Loading of tasks, weights, labels and tokenizers from checkpoints and model folders."""

import json
import shutil
import socket

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from lightning_transfer.checkpoints.loading import (
    load,
    load_tokenizer,
    read_position,
    read_weights,
    same_tokenizer,
)
from lightning_transfer.checkpoints.model_folder import DESCRIPTION, export
from lightning_transfer.data import Tokens
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import KEY
from tests.conftest import make_tokenizer
from tests.tiny import (
    HIDDEN,
    OwnBackbone,
    OwnHead,
    make_backbone,
    make_batch,
    make_loader,
    make_trainer,
)

SINGLE = Labels("single_label", ("negative", "neutral", "positive"))
BATCH = make_batch()


class Data(LightningDataModule):
    """DataModule with the attributes stored in a checkpoint."""

    tokens = Tokens(max_length=9)

    def __init__(self):
        super().__init__()
        self.tokenizer = make_tokenizer()


def save(task, path, *, datamodule=True):
    """Save a checkpoint with Lightning's Trainer."""
    trainer = make_trainer(plugins=[AtomicCheckpointIO()])
    trainer.strategy.connect(task)
    task.trainer = trainer
    if datamodule:
        trainer.datamodule = Data()
    trainer.save_checkpoint(path, weights_only=True)
    return path


def make_task(backbone=None, head=None, labels=SINGLE):
    backbone = backbone or make_backbone()  # also seeds the head
    head = head or MLPHead(HIDDEN, labels.num_outputs)
    return SequenceClassification(backbone, head, labels=labels).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(make_task(), tmp_path_factory.mktemp("saved") / "a.ckpt")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    export(make_task(), make_tokenizer(), folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_run_folder_model_folder_and_checkpoint_load_the_same_task(
    checkpoint, model_folder, no_network
):
    expected = make_task()(BATCH)
    for path in (checkpoint, model_folder, str(model_folder.parent)):
        loaded = load(path)
        assert torch.equal(loaded.task(BATCH), expected)
        assert loaded.task.labels == SINGLE
        assert not any(module.training for module in loaded.task.modules())
        assert same_tokenizer(loaded.tokenizer, make_tokenizer())
    assert load(checkpoint).tokens == Tokens(max_length=9)


@pytest.mark.parametrize("head", [LinearHead(HIDDEN, 3, pooling="max"), MLPHead(HIDDEN, 3)])
@pytest.mark.parametrize("name", ["distilbert", "electra", "deberta-v2-conv", "modernbert"])
def test_any_backbone_and_head_of_the_package_is_rebuilt(name, head, tmp_path):
    task = make_task(make_backbone(name), head)
    loaded = load(save(task, tmp_path / "a.ckpt"))
    assert loaded.task.head.args == head.args
    assert torch.equal(loaded.task(BATCH), task(BATCH))


def test_a_checkpoint_without_a_tokenizer_loads_none(tmp_path):
    loaded = load(save(make_task(), tmp_path / "a.ckpt", datamodule=False))
    assert loaded.tokenizer is None
    assert loaded.tokens == Tokens()


def test_a_custom_backbone_and_head_are_trained_and_loaded_if_passed(tmp_path):
    task = SequenceRegression(OwnBackbone(), OwnHead(HIDDEN, 1), labels=Labels("regression"))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = make_trainer(plugins=[AtomicCheckpointIO()])
    trainer.fit(task, make_loader(), make_loader())
    assert not any(torch.equal(v, before[n]) for n, v in task.state_dict().items())
    path = tmp_path / "own.ckpt"
    trainer.save_checkpoint(path)
    loaded = load(path, backbone=OwnBackbone(), head=OwnHead)
    assert torch.equal(loaded.task(BATCH), task.eval()(BATCH))
    with pytest.raises(
        ValueError, match=r"own.ckpt is of your own class; pass it: load\(path, backbone="
    ):
        load(path, head=OwnHead)
    with pytest.raises(
        ValueError, match=r"is of your own class tests.tiny.OwnHead; .*load\(path, head=OwnHead"
    ):
        load(path, backbone=OwnBackbone())
    with pytest.raises(ValueError, match=r"own.ckpt do not fit the backbone, a Backbone: "):
        load(path, backbone=make_backbone(), head=OwnHead)
    with pytest.raises(ValueError, match=r"own.ckpt do not fit the head, a LinearHead: "):
        load(path, backbone=OwnBackbone(), head=lambda size, _: LinearHead(size, 2))
    with pytest.raises(ValueError, match=r"Linear has no `hidden_size`, .* got None"):
        load(path, backbone=nn.Linear(1, 1), head=OwnHead)


def test_a_subclass_of_the_backbone_has_to_be_passed(tmp_path):
    class Doubled(Backbone):
        def forward(self, *args, **kwargs):
            return 2 * super().forward(*args, **kwargs)

    task = make_task(Doubled(make_backbone().model))
    path = save(task, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"load\(path, backbone="):
        load(path)
    loaded = load(path, backbone=Doubled(make_backbone(seed=5).model))
    assert torch.equal(loaded.task(BATCH), task(BATCH))


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Return the file that a module creates when it is imported."""
    (tmp_path / "trapped.py").write_text(
        f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass Trap: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "mark"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"head": {"class": "trapped.Trap", "args": {}}},
            "your own class trapped.Trap; .*head=Trap",
        ),
        (
            {"task": "trapped.Trap"},
            "unknown task 'trapped.Trap' in .*; tasks: CausalLanguageModelling, LeadSe",
        ),
        ({"backbone": {"model_type": "trapped"}}, "trapped"),
        (
            {"backbone": {"model_type": "trapped", "auto_map": {"AutoModel": "trapped.Trap"}}},
            "trapped",
        ),
    ],
)
def test_a_class_named_in_a_checkpoint_is_never_imported(
    checkpoint, tmp_path, trap, change, message
):
    found = read_checkpoint(checkpoint)
    found[KEY] |= change
    torch.save(found, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.ckpt")
    assert not trap.exists()


def test_code_named_in_a_tokenizer_is_never_run(model_folder, tmp_path, trap):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    shutil.copy(tmp_path / "trapped.py", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {
        "tokenizer_class": "Trap",
        "auto_map": {"AutoTokenizer": ["trapped.Trap", "trapped.Trap"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        read_weights(folder)
    except ValueError:
        pass
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, this version reads format 1; use the version of"),
        ({"format": None}, "has format None"),
        (None, "contains no description of a task; pass a file written by this package"),
    ],
)
def test_a_description_of_another_format_is_refused(checkpoint, tmp_path, change, message):
    found = read_checkpoint(checkpoint)
    found[KEY] = {"format": 1} if change is None else found[KEY] | change
    torch.save(found, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=rf"a.ckpt.* {message}"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "other", [{"state_dict": {}}, {"weight": torch.ones(2)}, {KEY: {"format": 1}}, {}]
)
def test_a_checkpoint_of_another_package_is_refused(tmp_path, other):
    torch.save(other, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt is not a checkpoint of this package: it has no"):
        load(tmp_path / "a.ckpt")


def test_weights_with_a_wrong_description_are_refused(checkpoint, tmp_path):
    found = read_checkpoint(checkpoint)
    found["state_dict"].pop("head.out.weight")
    torch.save(found, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"do not fit the head, a MLPHead: .*Missing key"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", ["model.safetensors", DESCRIPTION])
def test_a_damaged_file_of_a_model_folder_is_named(model_folder, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\); export the model again"):
        load(folder)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"neither a finished run nor .* {DESCRIPTION} is"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(tmp_path / "gone.ckpt")


def test_objectives_of_a_training_run_are_not_loaded(checkpoint, tmp_path):
    found = read_checkpoint(checkpoint)
    found["state_dict"]["objectives.own.weight"] = torch.ones(3)
    torch.save(found, tmp_path / "a.ckpt")
    assert torch.equal(load(tmp_path / "a.ckpt").task(BATCH), make_task()(BATCH))


def test_read_position_returns_stage_seed_epoch_and_step(tmp_path):
    task = make_task()
    task.position = {"stage": "source", "seed": 2}
    path = save(task, tmp_path / "a.ckpt")
    assert read_position(path) == {"stage": "source", "seed": 2, "epoch": 0, "step": 0}
    export(task, make_tokenizer(), tmp_path / "model", position={"stage": "target"})
    assert read_position(tmp_path / "model") == {"stage": "target"}
    assert read_position(tmp_path) == {"stage": "target"}
    export(task, make_tokenizer(), tmp_path / "model")
    assert read_position(tmp_path) == {}
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert read_position(tmp_path / "other.ckpt") == {}


def test_the_tokenizer_of_a_folder_is_loaded(tiny_folder, no_network):
    assert same_tokenizer(load_tokenizer(tiny_folder), make_tokenizer())


def test_tokenizers_are_compared_by_their_rules(tmp_path):
    one, other = make_tokenizer(), make_tokenizer()
    assert same_tokenizer(one, one)
    assert same_tokenizer(one, other)
    assert not same_tokenizer(one, None)
    other(["good film"] * 2, padding="max_length", truncation=True, max_length=4)
    assert same_tokenizer(one, other)  # settings of a call are not compared
    other.save_pretrained(tmp_path)
    assert same_tokenizer(one, load_tokenizer(tmp_path))
    other.add_tokens(["new"])
    assert not same_tokenizer(one, other)
    third = make_tokenizer()
    third.backend_tokenizer.normalizer = None
    assert not same_tokenizer(one, third)
