"""Content of checkpoints, atomic writing, and safe reading."""

import collections
import errno
import pickle
import pickletools
import random
import zipfile

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import Freezing, ResumePoint
from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from lightning_transfer.data import Columns, Files, LabelSpec, Splits, Tokens
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.optim import ParameterGroups, Recipe, linear_schedule
from lightning_transfer.tasks import SequenceRegression
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import (
    FORMAT,
    KEY,
    config_to_dict,
    describe_task,
    tokenizer_files,
    write_tokenizer,
)
from tests.conftest import make_tokenizer
from tests.tiny import CONFIGS, HIDDEN, OwnBackbone, OwnHead, make_backbone, make_trainer

RATING = Labels("regression")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, reviews):
    """Folder with the resume point and the best weights of a run, and the trained task."""
    folder = tmp_path_factory.mktemp("run")
    data = Files(
        str(reviews),
        columns=Columns(label="rating"),
        label=LabelSpec("regression", names=["bad", "good"], cutoffs=[0.0]),
        splits=Splits(val=16, test=16),
        tokens=Tokens(max_length=12, truncation="tail"),
        train_size=24,
        batch_size=8,
    )
    data.tokenizer = make_tokenizer()
    data.setup("fit")
    recipe = Recipe(
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        lambda optimizer, total_steps: linear_schedule(optimizer, total_steps=total_steps),
        ParameterGroups(layer_decay=0.9),
    )
    head = MLPHead(HIDDEN, 1, dropout=0.2)
    task = SequenceRegression(make_backbone(), head, labels=data.labels, recipe=recipe)
    task.position = {"stage": "target", "seed": 3, "run": "stages/target-seed3"}
    callbacks = [
        Freezing("embeddings"),
        EarlyStopping("val/loss", patience=5),
        ModelCheckpoint(folder, "best", "val/loss", save_weights_only=True),
        ResumePoint(folder, every_n_steps=2),
    ]
    trainer = make_trainer(
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=True,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(task, datamodule=data)
    return folder, task


def walk(value, where=""):
    """Yield the path and the value of every element of nested containers."""
    yield where, value
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{where}, a key", key
            yield from walk(part, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from walk(part, f"{where}/{index}")


PLAIN = (
    *(dict, list, tuple, str, int, float, bool, type(None)),
    *(torch.Tensor, collections.OrderedDict, collections.defaultdict),
)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_contains_only_plain_values_and_tensors(trained, name):
    checkpoint = torch.load(trained[0] / name, weights_only=True)
    other = [(where, type(v)) for where, v in walk(checkpoint) if type(v) not in PLAIN]
    assert other == []


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_names_only_classes_of_torch(trained, name):
    with zipfile.ZipFile(trained[0] / name) as archive:
        [pickled] = [n for n in archive.namelist() if n.endswith("data.pkl")]
        operations = list(pickletools.genops(archive.read(pickled)))
    named = {argument for code, argument, _ in operations if code.name == "GLOBAL"}
    assert "STACK_GLOBAL" not in {code.name for code, _, _ in operations}
    assert {name.split(".")[0].split()[0] for name in named} <= {"torch", "collections"}
    strings = {str(argument) for _, argument, _ in operations if isinstance(argument, str)}
    assert not [text for text in strings if "hydra" in text or "omegaconf" in text]


def test_a_checkpoint_contains_the_whole_description_of_the_task(trained):
    description = read_checkpoint(trained[0] / "best.ckpt")[KEY]
    assert description.pop("tokenizer").keys() >= {"tokenizer.json", "tokenizer_config.json"}
    config = description.pop("backbone")
    assert (config["model_type"], config["hidden_size"]) == ("bert", HIDDEN)
    assert description == {
        "format": FORMAT,
        "task": "SequenceRegression",
        "task_args": {},
        "labels": {"kind": "regression", "names": ["bad", "good"], "cutoffs": [0.0]},
        "adapter": None,
        "head": {
            "class": "lightning_transfer.heads.mlp.MLPHead",
            "args": {"pooling": "cls", "activation": "tanh", "dropout": 0.2},
        },
        "tokens": {
            "max_length": 12,
            "truncation": "tail",
            "head_fraction": 0.25,
            "prefix": "",
        },
        "pairs": False,
        "target_tokenizer": None,
        "target_tokens": None,
        "position": {
            "stage": "target",
            "seed": 3,
            "run": "stages/target-seed3",
            "epoch": 0,
            "step": 3,
        },
    }


def test_only_a_plain_backbone_is_described_by_its_config():
    class Changed(Backbone):
        """Subclass with another function."""

    for backbone in (Changed(make_backbone().model), OwnBackbone()):
        task = SequenceRegression(backbone, OwnHead(HIDDEN, 1), labels=RATING)
        description = describe_task(task, tokenizer=None, tokens=None)
        assert description["backbone"] is None
        assert description["head"] == {"class": "tests.tiny.OwnHead", "args": {}}
        assert description["tokenizer"] is None
        assert description["tokens"] is None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_converted_to_plain_values(name):
    config = config_to_dict(make_backbone(name).config)
    assert [(w, type(v)) for w, v in walk(config) if type(v) not in PLAIN] == []


def test_a_tokenizer_is_restored_from_its_files(tmp_path):
    tokenizer = make_tokenizer()
    write_tokenizer(tokenizer_files(tokenizer), tmp_path)
    read = type(tokenizer).from_pretrained(tmp_path)
    text = "good movie, dull plot zzz"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", ".", ""])
def test_a_tokenizer_file_with_a_path_is_refused(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(ValueError, match="tokenizer file with a path"):
        write_tokenizer({name: torch.zeros(3, dtype=torch.uint8)}, inner)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


def test_save_checkpoint_creates_the_folder_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "new" / "a.ckpt"
    for number in range(2):
        AtomicCheckpointIO().save_checkpoint({"number": number}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"number": 1}
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"number": 0}, path)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        AtomicCheckpointIO().save_checkpoint({"number": lambda: 1}, path)
    assert read_checkpoint(path) == {"number": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"storage_options are not supported, got {'a': 1}"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={"a": 1})


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone.ckpt; pass a run folder"):
        read_checkpoint(tmp_path / "gone.ckpt")


def assert_refused(path):
    with pytest.raises(ValueError, match=rf"{path.name} is not a checkpoint.* by this package"):
        read_checkpoint(path)


def test_a_checkpoint_truncated_at_any_point_is_refused(trained, tmp_path):
    whole = (trained[0] / "best.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    for share in (0, 1 / len(whole), 0.01, 0.1, 0.5, 0.9, 0.999, (len(whole) - 1) / len(whole)):
        path.write_bytes(whole[: int(share * len(whole))])
        assert_refused(path)


def test_a_damaged_checkpoint_is_refused_or_read(trained, tmp_path):
    """Damage to a weight is not detected; damage to the structure is a ``ValueError``."""
    whole = (trained[0] / "best.ckpt").read_bytes()
    path = tmp_path / "damaged.ckpt"
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        start = rng.randrange(len(whole)) if rng.random() < 0.5 else rng.randrange(4000)
        damaged[start : start + 40] = rng.randbytes(40)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert "damaged.ckpt is not a checkpoint" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "content",
    [b"", b"text, not a checkpoint\n", b"\x80\x04N.", b"PK\x03\x04", b"(", bytes(5000)],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    assert_refused(path)


def test_a_disk_error_is_not_reported_as_a_damaged_checkpoint(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "input/output error")

    (tmp_path / "a.ckpt").write_bytes(b"content")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match="input/output error"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("found", [torch.ones(2), [1, 2], "text"])
def test_a_torch_file_of_another_type_is_refused(tmp_path, found):
    torch.save(found, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=f"not a checkpoint: it contains a {type(found).__name__}"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Return the file that a module creates when it is imported."""
    (tmp_path / "trapped.py").write_text(
        f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass Trap: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "mark"


def test_a_checkpoint_with_a_foreign_object_is_refused_without_an_import(tmp_path, trap):
    path = tmp_path / "a.ckpt"
    # Pickle of GLOBAL 'trapped Trap', called without arguments, in a zip archive and alone.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02ctrapped\nTrap\n)R.")
        archive.writestr("a/version", "3\n")
    assert_refused(path)
    path.write_bytes(b"\x80\x02ctrapped\nTrap\n)R.")
    assert_refused(path)
    with pytest.raises(ValueError, match="not a checkpoint"):  # weights_only is ignored
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not trap.exists()


def test_a_linear_head_is_described_by_its_arguments():
    head = LinearHead(HIDDEN, 1, pooling="max", dropout=0.0)
    task = SequenceRegression(make_backbone(), head, labels=RATING)
    assert describe_task(task, tokenizer=None, tokens=None)["head"] == {
        "class": "lightning_transfer.heads.linear.LinearHead",
        "args": {"pooling": "max", "dropout": 0.0},
    }


def test_the_message_does_not_advise_to_run_a_foreign_file(tmp_path):
    path = tmp_path / "notes.ckpt"
    path.write_text("no checkpoint at all")
    with pytest.raises(ValueError, match="is not a checkpoint that can be read safely") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
