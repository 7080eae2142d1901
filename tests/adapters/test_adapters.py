"""Common properties of all adapters on all architectures, and computations of each."""

import copy
import sys
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_transfer.adapters import IA3, Bottleneck, LoRA, PrefixTuning, merge
from lightning_transfer.adapters.adapter import applied
from lightning_transfer.callbacks import Freezing, GradualUnfreezing
from lightning_transfer.optim import ParameterGroups, Recipe, depth_of_parameters
from tests.adapters.cases import (
    ADAPTERS,
    CASES,
    HEAD,
    MERGEABLE,
    MODELS,
    NO_PREFIX,
    make_task,
    names,
    perturb,
    trainable,
)
from tests.tiny import HIDDEN, OwnBackbone, make_backbone, make_batch, make_loader, make_trainer
from tests.tiny_seq2seq import make_model, texts_of

BATCH = make_batch("single_label", outputs=3)
RECIPE = Recipe(partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5))


def logits(task):
    task.eval()
    with torch.no_grad():
        return task(BATCH)


def fit(task, *callbacks, **arguments):
    loaders = make_loader("single_label", outputs=3), make_loader("single_label", outputs=3)
    freezing = Freezing(function=applied(task.backbone).freezes)
    make_trainer(callbacks=[*callbacks, freezing], **arguments).fit(task, *loaders)


def state(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_only_adapter_and_head_are_trainable(adapter, model):
    assert trainable(make_task(model, adapter)) == names(adapter, model) | HEAD


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_training_starts_from_the_base_models_output(adapter, model):
    task = make_task(model)
    before = logits(task)
    ADAPTERS[adapter].apply(task.backbone)
    difference = (logits(task) - before).abs().max().item()
    if adapter == "prefix":  # it starts with small random values
        assert 0 < difference < 0.1
    else:
        assert difference == 0


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_a_step_changes_adapter_and_head_and_no_frozen_weight(adapter, model):
    task = make_task(model, adapter, recipe=RECIPE)
    before, output = state(task), logits(task)
    fit(task, max_steps=2)
    after = task.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == names(adapter, model) | HEAD
    assert (logits(task) - output).abs().max() > 1e-3


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_adapter_parameters_have_the_depth_of_their_layer(adapter, model):
    task = make_task(model, adapter)
    depths = depth_of_parameters(task.backbone)
    found = {n: depths[id(p)] for n, p in task.named_parameters() if n in names(adapter, model)}
    layers = [next(int(part) for part in name.split(".") if part.isdigit()) for name in found]
    assert list(found.values()) == [layer + 1 for layer in layers]
    assert set(found.values()) == {1, 2, 3}


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_a_partial_forward_is_exact(adapter, model):
    backbone = perturb(make_task(model, adapter)).backbone.eval()
    ids, mask = BATCH["input_ids"], BATCH["attention_mask"]
    for depth in range(len(backbone.layers)):
        seen = []
        layer = backbone.layers[depth]
        layer = layer[0] if isinstance(layer, nn.ModuleList) else layer
        hook = layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        with torch.no_grad():
            whole = backbone(ids, mask)
            hook.remove()
            hidden = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
            if model == "electra" and depth == 0:  # with the projection after the embeddings
                hidden = backbone.model.embeddings_project(hidden)
            assert torch.equal(backbone(ids, mask, from_depth=depth, hidden=hidden), whole)


@pytest.mark.parametrize(("adapter", "model"), CASES)
def test_layers_with_adapters_are_in_train_mode_and_the_embeddings_are_not(adapter, model):
    modes = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            layers = [list(layer.modules()) for layer in pl_module.backbone.layers]
            if isinstance(layers[0][0], nn.ModuleList):  # a CompositeLayer of the embeddings
                layers[0] = layers[0][1:]
            modes.append([[part.training for part in layer] for layer in layers])

    task = make_task(model, adapter, recipe=RECIPE).eval()
    fit(task, Recorder(), max_epochs=2)
    assert len(modes) == 6
    for embeddings, *layers in modes:
        assert not any(embeddings)
        assert all(all(layer) for layer in layers)


@pytest.mark.parametrize("adapter", MERGEABLE)
@pytest.mark.parametrize("model", MODELS)
def test_merged_weights_give_the_same_logits_with_the_base_names(adapter, model):
    task = perturb(make_task(model, adapter))
    before = logits(task)
    plain = make_task(model)
    merge(task.backbone)
    assert (logits(task) - before).abs().max() < 1e-5
    assert list(task.state_dict()) == list(plain.state_dict())
    assert {type(m) for m in task.modules()} == {type(m) for m in plain.modules()}
    assert trainable(task) == set(dict(task.named_parameters()))
    assert applied(task.backbone) is None
    ADAPTERS[adapter].apply(task.backbone)  # a new one can be applied
    assert (logits(task) - before).abs().max() < 1e-5


@pytest.mark.parametrize("adapter", ["prefix", "bottleneck"])
def test_merging_an_unmergeable_adapter_raises(adapter):
    task = make_task("bert", adapter)
    with pytest.raises(
        ValueError, match=r"(PrefixTuning|Bottleneck) cannot be merged.*LoRA and IA3$"
    ):
        merge(task.backbone)


def test_merging_without_an_adapter_raises():
    with pytest.raises(ValueError, match="has no adapter, so there is nothing to merge"):
        merge(make_backbone())


def test_a_second_adapter_raises():
    task = make_task("bert", "lora")
    with pytest.raises(
        ValueError, match=r"already has LoRA, so IA3 cannot be applied; call merge\(backbone\)"
    ):
        IA3().apply(task.backbone)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_copy_has_the_same_output_and_separate_weights(adapter):
    task = perturb(make_task("bert", adapter))
    twin = copy.deepcopy(task)
    before = logits(task)
    assert torch.equal(logits(twin), before)
    perturb(twin)
    assert torch.equal(logits(task), before)
    assert not torch.equal(logits(twin), before)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_args_build_an_equal_adapter(adapter):
    original = ADAPTERS[adapter]
    assert type(original)(**original.args) == original
    assert all(type(value) in (int, float, str, bool, list, type(None)) for value in original.args)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_freezing_by_depth_freezes_adapters(adapter):
    task = make_task("bert", adapter, recipe=RECIPE)
    fit(task, Freezing(3), max_steps=1)
    top = {name for name in names(adapter, "bert") if ".layer.2." in name}
    assert trainable(task) == top | HEAD
    assert not any(module.training for m in task.backbone.layers[:3] for module in m.modules())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradual_unfreezing_unfreezes_adapters_but_no_base_weight(adapter):
    seen = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            layers = pl_module.backbone.layers[1:]
            modes = [{part.training for part in layer.modules()} for layer in layers]
            seen.append((trainable(pl_module), modes))

    task = make_task("bert", adapter, recipe=RECIPE)
    base = {n: v for n, v in state(task).items() if n not in names(adapter, "bert") | HEAD}
    unfreezing = GradualUnfreezing("head > top 1 > all > head")
    fit(task, unfreezing, Recorder(), max_epochs=4)
    for step, top in zip(range(0, 12, 3), (3, 2, 0, 3), strict=True):
        inside = {n for n in names(adapter, "bert") if int(n.split(".layer.")[1][0]) >= top}
        assert seen[step] == (inside | HEAD, [{depth >= top} for depth in range(3)])
    assert all(
        torch.equal(value, base[name]) for name, value in state(task).items() if name in base
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_parameter_is_in_one_group_and_scales_have_no_weight_decay(adapter):
    task = make_task("bert", adapter)
    groups = ParameterGroups(layer_decay=0.5)(task, task.backbone)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in task.parameters())
    named = {id(p): name for name, p in task.named_parameters()}
    no_decay = {named[id(p)] for g in groups if g.get("weight_decay") == 0 for p in g["params"]}
    scales = {name for name in named.values() if "ia3_l" in name}
    assert scales <= no_decay
    assert bool(scales) == (adapter == "ia3")
    assert not {name for name in no_decay if "lora" in name or name.endswith("prefix.key")}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_training_under_bf16_autocast(adapter):
    task = make_task("bert", adapter, recipe=RECIPE)
    before = state(task)
    fit(task, max_steps=2, precision="bf16-mixed")
    after = task.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == names(adapter, "bert") | HEAD
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_bfloat16_backbone(adapter):
    task = perturb(make_task("bert", adapter, dtype="bfloat16"))
    assert {p.dtype for p in task.backbone.parameters()} == {torch.bfloat16}
    assert logits(task).isfinite().all()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_accumulated_batches_equal_one_large_batch(adapter):
    def accumulated(size, accumulate):
        task = make_task("bert", adapter, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        for module in task.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        task.recipe = Recipe(partial(torch.optim.SGD, lr=0.1))
        loader = make_loader("single_label", outputs=3, batch_size=size)
        make_trainer(accumulate_grad_batches=accumulate).fit(task, loader, loader)
        return task.state_dict()

    small, large = accumulated(3, 4), accumulated(12, 1)
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("adapter", "target"), [(LoRA, ["first"]), (IA3, ["second"]), (Bottleneck, ["first"])]
)
def test_a_users_backbone_takes_adapters_by_layer_names(adapter, target):
    backbone = OwnBackbone()
    ids = BATCH["input_ids"]
    before = backbone(ids)
    adapter(target_modules=target).apply(backbone)
    assert torch.equal(backbone(ids), before)
    inside = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert inside == set(target)


@pytest.mark.parametrize("model", NO_PREFIX)
def test_a_prefix_without_the_attention_interface_raises(model):
    backbone = make_backbone(model)
    before = set(dict(backbone.named_parameters()))
    with pytest.raises(
        ValueError,
        match=r"Model does not use transformers' attention interface.*lora, .*ia3 or .*bottl",
    ):
        PrefixTuning().apply(backbone)
    assert set(dict(backbone.named_parameters())) == before
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("model", ["gpt2", "t5", "bart", "bert2bert"])
def test_a_prefix_for_causal_attention_raises(model):
    backbone, _ = make_model(model)
    before = set(dict(backbone.named_parameters()))
    with pytest.raises(
        ValueError, match=r"Model has causal attention.*set finetuning=lora or finetuning=ia3"
    ):
        PrefixTuning().apply(backbone)
    assert set(dict(backbone.named_parameters())) == before


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
@pytest.mark.parametrize("model", ["t5", "bart"])
def test_a_partial_forward_of_an_encoder_decoder_is_exact(adapter, model):
    backbone, batch = make_model(model)
    ADAPTERS[adapter].apply(backbone)
    features = backbone.eval()(**batch)
    for depth, hidden in backbone.hidden_states_at(range(4), **texts_of(batch)).items():
        assert torch.equal(backbone(**batch, from_depth=depth, hidden=hidden), features)


ERRORS = {
    r"r must be an integer >= 1, got 0; set finetuning.adapter.r=8": lambda: LoRA(r=0),
    r"r must be an integer >= 1, got 2.5": lambda: LoRA(r=2.5),
    r"alpha must be > 0, got -1": lambda: LoRA(alpha=-1),
    r"dropout must be in \[0, 1\), got 1": lambda: LoRA(dropout=1),
    r"target_modules must be null, all-linear or a list .*got 'query'": lambda: LoRA(
        target_modules="query"
    ),
    r"feedforward_modules must be null, .*got 'key'; set finetuning.adapter.feedf": lambda: IA3(
        feedforward_modules="key"
    ),
    r"size must be an integer >= 1, got 0": lambda: Bottleneck(size=0),
    r"placement must be one of attention\+ffn, ffn, got 'top'": lambda: Bottleneck(placement="top"),
    r"activation must be one of gelu, relu, silu, tanh, got 'swish'": lambda: Bottleneck(
        activation="swish"
    ),
    r"length must be an integer >= 1, got 0; set finetuning.adapter.length=20": lambda: (
        PrefixTuning(length=0)
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_invalid_arguments_raise(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()


@pytest.mark.parametrize("adapter", [LoRA, IA3, Bottleneck])
def test_an_unknown_target_raises_with_the_names_of_the_linear_layers(adapter):
    backbone = make_backbone()
    expected = (
        r"unknown linear layer 'qurey'; did you mean query\? "
        "The backbone has: dense, key, query, value$"
    )
    with pytest.raises(ValueError, match=expected):
        adapter(target_modules=["value", "qurey"]).apply(backbone)
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("adapter", [LoRA, IA3, Bottleneck])
def test_an_unknown_architecture_raises_with_the_names_of_its_linear_layers(adapter):
    with pytest.raises(
        ValueError, match=r"known for OwnBackbone; set .*linear layers: first, second$"
    ):
        adapter().apply(OwnBackbone())


def test_feedforward_modules_outside_of_the_targets_raise():
    with pytest.raises(
        ValueError, match=r"must be a subset of target_modules, got \['dense'\] and \['k"
    ):
        IA3(target_modules=["key"], feedforward_modules=["dense"]).apply(make_backbone())


def test_all_linear_excludes_the_embeddings():
    task = make_task("bert")
    LoRA(r=1, target_modules="all-linear").apply(task.backbone)
    assert len(trainable(task) - HEAD) == 3 * 6 * 2
    electra = make_backbone("electra")  # with a linear layer after the embeddings
    LoRA(r=1, target_modules="all-linear").apply(electra)
    assert not any(p.requires_grad for p in electra.layers[0].parameters())


def test_lora_equals_the_formula_of_the_paper():
    backbone = make_backbone()
    LoRA(r=2, alpha=6, target_modules=["query"]).apply(backbone)
    layer = backbone.model.encoder.layer[0].attention.self.query
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(3, HIDDEN)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + 3 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected)


def test_bottleneck_equals_the_formula_of_the_paper():
    backbone = make_backbone()
    Bottleneck(size=4, activation="relu").apply(backbone)
    layer = perturb(backbone).model.encoder.layer[0].output.dense
    x = torch.randn(3, 32)
    inside = layer.bottleneck
    hidden = nn.functional.linear(x, layer.weight, layer.bias)
    expected = hidden + inside.up(torch.relu(inside.down(hidden)))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", ["bert", "distilbert", "modernbert"])
def test_padding_does_not_change_the_output_with_a_prefix(attention, model):
    backbone = make_backbone(model)
    backbone = type(backbone).from_config(backbone.config, attn_implementation=attention)
    PrefixTuning(length=3).apply(backbone)
    perturb(backbone, by=1.0).eval()
    ids, mask = BATCH["input_ids"], BATCH["attention_mask"]
    with torch.no_grad():
        batched = backbone(ids, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = backbone(ids[row : row + 1, :length])
            torch.testing.assert_close(batched[row, :length], alone[0], atol=1e-5, rtol=1e-5)
    assert backbone.model.config._attn_implementation == attention


def test_a_prefix_equals_the_formula_of_the_paper():
    """Attention over [prefix; text] with one head."""
    backbone = make_backbone(num_attention_heads=1)
    PrefixTuning(length=3).apply(backbone)
    attention = perturb(backbone, by=1.0).eval().model.encoder.layer[0].attention.self
    x = torch.randn(2, 5, HIDDEN)
    key = torch.cat([attention.prefix.key.expand(2, -1, -1), attention.key(x)], dim=1)
    value = torch.cat([attention.prefix.value.expand(2, -1, -1), attention.value(x)], dim=1)
    weights = (attention.query(x) @ key.transpose(1, 2) / HIDDEN**0.5).softmax(-1)
    torch.testing.assert_close(attention(x)[0], weights @ value)


def test_a_prefix_with_another_attention_implementation_raises():
    backbone = make_backbone()
    backbone.config._attn_implementation = "flex_attention"
    with pytest.raises(
        ValueError, match=r"sdpa, eager for a prefix, got 'flex_attention'; set backbone.att"
    ):
        PrefixTuning().apply(backbone)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_segments_change_the_output(adapter):
    backbone = make_task("bert", adapter).backbone.eval()
    ids, mask = BATCH["input_ids"], BATCH["attention_mask"]
    plain = backbone(ids, mask, token_type_ids=torch.zeros_like(ids))
    assert torch.equal(plain, backbone(ids, mask))
    assert not torch.equal(plain, backbone(ids, mask, token_type_ids=torch.ones_like(ids)))


def test_a_prefix_takes_no_positions_from_the_text():
    backbone = make_backbone()
    PrefixTuning(length=30).apply(backbone)
    ids = torch.full((1, backbone.max_tokens), 7)
    assert backbone(ids).shape == (1, 40, HIDDEN)


@pytest.mark.parametrize("adapter", [LoRA(), IA3()])
def test_the_error_without_peft_has_the_install_command(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    backbone = make_backbone()
    with pytest.raises(ImportError, match=r"(LoRA|IA3) needs the peft library.*'\.\[peft\]'"):
        adapter.apply(backbone)
    assert all(p.requires_grad for p in backbone.parameters())
