"""Model folders: loading with transformers, and replacement as a whole."""

import json
import logging

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.hf.state_dict_layouts import find_hf_layout
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import DESCRIPTION, export
from lightning_transfer.data import Tokens
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.tasks import SequenceClassification, SequenceRegression
from lightning_transfer.utils import Labels
from tests.conftest import make_tokenizer
from tests.tiny import HIDDEN, OwnBackbone, OwnHead, make_backbone, make_inputs

SINGLE = Labels("single_label", ("negative", "neutral", "positive"))
ACTIVATIONS = {
    "bert": "tanh",
    "roberta": "tanh",
    "xlm-roberta": "tanh",
    "camembert": "tanh",
    "mpnet": "tanh",
    "distilbert": "relu",
    "electra": "gelu",
    "deberta": "gelu",
    "deberta-v2": "gelu",
    "deberta-v2-conv": "gelu",
}
IDS, MASK = make_inputs(lengths=(9, 3, 6))


def make_task(name="bert", labels=SINGLE, head=None, **changes):
    task_class = SequenceRegression if labels.kind == "regression" else SequenceClassification
    backbone = make_backbone(name, **changes)
    head = head or MLPHead(HIDDEN, labels.num_outputs, activation=ACTIVATIONS.get(name, "tanh"))
    nn.init.normal_(head.out.bias)
    return task_class(backbone, head, labels=labels).eval()


def logits_of(task):
    with torch.no_grad():
        return task({"input_ids": IDS, "attention_mask": MASK})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_transformers_gives_the_same_logits_and_label_names(name, tokenizer, tmp_path):
    task = make_task(name)
    assert export(task, tokenizer, tmp_path / "model") is True
    model, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert {kind: list(names) for kind, names in report.items() if names} == {}
    expected = logits_of(task)
    with torch.no_grad():
        found = model.eval()(input_ids=IDS, attention_mask=MASK).logits
    assert (found - expected).abs().max() < 1e-5
    assert expected.std(0).min() > 1e-4  # the texts have different logits
    assert model.config.id2label == dict(enumerate(SINGLE.names))
    assert model.config.label2id == {name: i for i, name in enumerate(SINGLE.names)}
    assert torch.equal(logits_of(load(tmp_path / "model").task), expected)


@pytest.mark.parametrize(
    ("labels", "names", "problem"),
    [
        (SINGLE, SINGLE.names, "single_label_classification"),
        (Labels("multi_label", ("a", "b")), ("a", "b"), "multi_label_classification"),
        (Labels("regression", ("low", "high"), (0,)), ("value",), "regression"),
    ],
)
def test_the_config_contains_the_kind_of_labels(labels, names, problem, tokenizer, tmp_path):
    task = make_task(labels=labels)
    export(task, tokenizer, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert tuple(model.config.id2label.values()) == names
    assert model.config.num_labels == len(names)
    assert model.config.problem_type == problem
    assert (model(IDS, attention_mask=MASK).logits - logits_of(task)).abs().max() < 1e-5
    assert load(tmp_path / "model").task.labels == labels


@pytest.mark.parametrize(
    ("name", "has_segments"), [("bert", True), ("roberta", True), ("distilbert", False)]
)
def test_the_tokenizer_returns_only_inputs_of_the_model(name, has_segments, tmp_path):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = make_tokenizer(model_input_names=names)
    export(make_task(name), tokenizer, tmp_path / "model")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")("good film", return_tensors="pt")
    assert ("token_type_ids" in inputs) is has_segments
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model(**inputs).logits.shape == (1, 3)
    assert tokenizer.model_input_names == names


def test_the_tokenizer_is_saved_with_the_weights(tokenizer, tmp_path):
    export(make_task(), tokenizer, tmp_path / "model")
    read = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "a good film, very dull plot"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


OTHERS = {
    "another head": (
        "bert",
        lambda: LinearHead(HIDDEN, 3),
        "transformers has no LinearHead for 'bert'",
    ),
    "another pooling": (
        "bert",
        lambda: MLPHead(HIDDEN, 3, pooling="mean"),
        "the 'bert' head of transformers has cls pooling and tanh, "
        "this one has mean pooling and tanh",
    ),
    "another activation": (
        "distilbert",
        lambda: MLPHead(HIDDEN, 3),
        "the 'distilbert' head of transformers has cls pooling and relu, "
        "this one has cls pooling and tanh",
    ),
    "another model": (
        "modernbert",
        lambda: MLPHead(HIDDEN, 3),
        "no layout for model type 'modernbert' and 'single_label' labels",
    ),
    "DeBERTa with another pooler": (
        "deberta-v2",
        lambda: MLPHead(HIDDEN, 3, activation="gelu"),
        "the model's config has a pooler with tanh",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_model_without_a_class_in_transformers_is_stored_in_two_files(
    case, tokenizer, tmp_path, caplog
):
    name, make_head, reason = OTHERS[case]
    changes = {"pooler_hidden_act": "tanh"} if name == "deberta-v2" else {}
    task = make_task(name, head=make_head(), **changes)
    caplog.set_level(logging.INFO)
    assert export(task, tokenizer, tmp_path / "model") is False
    assert f"contains backbone and head in separate files: {reason}" in caplog.text
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        expected = task.backbone(IDS, MASK)
        assert (model(IDS, attention_mask=MASK)[0] - expected).abs().max() < 1e-5
    assert torch.equal(logits_of(load(tmp_path / "model").task), logits_of(task))


def test_a_custom_head_is_stored_in_a_separate_file(tokenizer, tmp_path):
    task = make_task(head=OwnHead(HIDDEN, 3))
    assert export(task, tokenizer, tmp_path / "model") is False
    loaded = load(tmp_path / "model", head=OwnHead)
    assert torch.equal(logits_of(loaded.task), logits_of(task))


def test_a_custom_backbone_has_no_model_folder(tokenizer, tmp_path):
    class Changed(Backbone):
        """Subclass with another function."""

    for backbone, name in ((OwnBackbone(), "OwnBackbone"), (Changed(make_backbone().model), "Ch")):
        task = SequenceClassification(backbone, MLPHead(HIDDEN, 3), labels=SINGLE)
        with pytest.raises(
            ValueError, match=f"{name}.* is not a Hugging Face model, so it has no model"
        ):
            export(task, tokenizer, tmp_path / "model")
        assert find_hf_layout(backbone, task.head, task.labels)[0] is None
    assert list(tmp_path.iterdir()) == []


def test_the_description_contains_position_and_tokenization(tokenizer, tmp_path):
    tokens = Tokens(max_length=9, truncation="head+tail")
    position = {"stage": "target", "seed": 1}
    export(make_task(), tokenizer, tmp_path / "model", tokens=tokens, position=position)
    description = json.loads((tmp_path / "model" / DESCRIPTION).read_text())
    assert description["position"] == position
    assert description["native"] is True
    loaded = load(tmp_path / "model")
    assert loaded.tokens == tokens
    assert loaded.position == position


def test_an_older_folder_is_replaced_completely(tokenizer, tmp_path):
    folder = tmp_path / "model"
    export(make_task(head=LinearHead(HIDDEN, 3)), tokenizer, folder)
    (folder / "left-over.txt").write_text("old")
    task = make_task()
    export(task, tokenizer, folder)
    assert not (folder / "left-over.txt").exists()
    assert not (folder / "head.safetensors").exists()
    assert torch.equal(logits_of(load(folder).task), logits_of(task))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_logits_is_not_written(tokenizer, tmp_path):
    export(make_task(), tokenizer, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    task = make_task()
    task.head.act = nn.ReLU()  # differs from the head's arguments
    nn.init.normal_(task.head.out.weight)
    with pytest.raises(RuntimeError, match=r"other logits than the trained one \(off by \d"):
        export(task, tokenizer, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_does_not_change_modes_or_config(tokenizer, tmp_path):
    task = make_task().train()
    task.backbone.layers[0].eval()
    modes = [module.training for module in task.modules()]
    config = task.backbone.config.to_dict()
    export(task, tokenizer, tmp_path / "model")
    assert [module.training for module in task.modules()] == modes
    assert task.backbone.config.to_dict() == config


def test_weights_in_16_bits_are_exported_without_change(tokenizer, tmp_path):
    task = make_task(dtype="bfloat16")
    assert export(task, tokenizer, tmp_path / "model") is True
    loaded = load(tmp_path / "model").task
    for one, other in zip(task.backbone.parameters(), loaded.backbone.parameters(), strict=True):
        assert torch.equal(one.float(), other)


def test_weights_are_stored_as_safetensors_only(tokenizer, tmp_path):
    export(make_task(), tokenizer, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        DESCRIPTION,
    }
