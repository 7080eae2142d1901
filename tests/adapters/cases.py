"""Adapters, their architectures and the names of their parameters, for the tests."""

import torch

from lightning_transfer.adapters import IA3, Bottleneck, LoRA, PrefixTuning
from lightning_transfer.heads import MLPHead
from lightning_transfer.tasks import SequenceClassification
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, make_backbone

SINGLE = Labels("single_label", ("negative", "neutral", "positive"))
ADAPTERS = {
    "lora": LoRA(r=2, dropout=0.2),
    "ia3": IA3(),
    "prefix": PrefixTuning(length=3),
    "bottleneck": Bottleneck(size=4, dropout=0.2),
    "bottleneck-ffn": Bottleneck(size=4, placement="ffn"),
}
MERGEABLE = ("lora", "ia3")
MODELS = ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert")
# Architectures that do not use transformers' attention interface.
NO_PREFIX = ("deberta", "deberta-v2", "mpnet", "rembert")
CASES = [(a, m) for a in ADAPTERS for m in MODELS if a != "prefix" or m not in NO_PREFIX]
HEAD = {"head.dense.weight", "head.dense.bias", "head.out.weight", "head.out.bias"}
ACTIVATIONS = {"distilbert": "relu", "electra": "gelu", "deberta-v2": "gelu"}
STACKS = {"distilbert": "transformer.layer", "modernbert": "layers"}
# Paths below a layer.
QUERY_VALUE = {
    "distilbert": ("attention.q_lin", "attention.v_lin"),
    "deberta-v2": ("attention.self.query_proj", "attention.self.value_proj"),
    "modernbert": ("attn.Wqkv",),
}
SCALED = {
    "distilbert": ("attention.k_lin", "attention.v_lin", "ffn.lin2"),
    "electra": ("attention.self.key", "attention.self.value"),
    "deberta-v2": ("attention.self.key_proj", "attention.self.value_proj"),
    "modernbert": ("attn.Wqkv", "mlp.Wo"),
}
SUBLAYERS = {
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
}
ATTENTION = {"distilbert": "attention", "modernbert": "attn"}
BERT_OUTPUTS = ("attention.output.dense", "output.dense")


def names_in_a_layer(adapter, model):
    """Return the names of an adapter's parameters in one layer, from lists written by hand."""
    if adapter == "lora":
        targets = QUERY_VALUE.get(model, ("attention.self.query", "attention.self.value"))
        return {f"{t}.lora_{part}.default.weight" for t in targets for part in "AB"}
    if adapter == "ia3":
        targets = SCALED.get(model, ("attention.self.key", "attention.self.value"))
        bert = () if model in ("distilbert", "modernbert") else BERT_OUTPUTS
        return {f"{t}.ia3_l.default" for t in (*targets, *bert)}
    if adapter == "prefix":
        where = ATTENTION.get(model, "attention.self")
        return {f"{where}.prefix.{part}" for part in ("key", "value")}
    targets = SUBLAYERS.get(model, BERT_OUTPUTS)[1 if adapter == "bottleneck-ffn" else 0 :]
    parts = [f"{way}.{leaf}" for way in ("down", "up") for leaf in ("weight", "bias")]
    return {f"{t}.bottleneck.{part}" for t in targets for part in parts}


def names(adapter, model):
    """Return the names of an adapter's parameters in a task."""
    stack = STACKS.get(model, "encoder.layer")
    inside = names_in_a_layer(adapter, model)
    return {f"backbone.model.{stack}.{i}.{name}" for i in range(3) for name in inside}


def make_task(model="bert", adapter=None, *, seed=0, recipe=None, **changes):
    """Return a task with the head of transformers' classification model."""
    backbone = make_backbone(model, seed=seed, **changes)
    head = MLPHead(HIDDEN, 3, activation=ACTIVATIONS.get(model, "tanh"))
    if adapter is not None:
        ADAPTERS[adapter].apply(backbone)
    return SequenceClassification(backbone, head, labels=SINGLE, recipe=recipe)


def perturb(task, *, by=0.3):
    """Change all trainable parameters of a task at random, as a replacement for training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * by)
    return task


def trainable(task):
    return {name for name, p in task.named_parameters() if p.requires_grad}
