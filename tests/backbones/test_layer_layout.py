"""Layer layouts of encoder-decoders and decoders."""

import json

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartForConditionalGeneration,
    EncoderDecoderModel,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperModel,
)

from lightning_transfer.backbones import Backbone
from lightning_transfer.callbacks import GradualUnfreezing
from lightning_transfer.optim import ParameterGroups
from lightning_transfer.optim.parameter_groups import depth_of_parameters
from lightning_transfer.utils.checkpoint_format import config_to_dict
from tests.tiny import CONFIGS, HIDDEN, make_backbone, make_inputs, make_trainer
from tests.tiny_seq2seq import CAUSAL, SEQ2SEQ, make_model, make_pairs, make_seq2seq, texts_of

new = pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
encoder_decoders = pytest.mark.parametrize("name", list(SEQ2SEQ))
# Norms after the last layer of T5's, mBART's and Pegasus' decoders, and of GPT-2.
LAST_NORMS = ("decoder.final_layer_norm", "decoder.layer_norm", "ln_f")


@new
def test_every_parameter_except_a_final_norm_is_in_one_layer(name):
    backbone, _ = make_model(name)
    depths = [{id(p) for p in layer.parameters()} for layer in backbone.layers]
    for low, one in enumerate(depths):
        for high in range(low + 1, len(depths)):
            assert not one & depths[high], (low, high)
    inside = set().union(*depths)
    outside = [n for n, p in backbone.named_parameters() if id(p) not in inside]
    assert {n.removeprefix("model.").rpartition(".")[0] for n in outside} <= set(LAST_NORMS)
    assert set(depth_of_parameters(backbone)) == {id(p) for p in backbone.parameters()}


@encoder_decoders
def test_the_layers_are_embeddings_then_encoder_then_decoder(name):
    backbone, batch = make_model(name)
    order = []
    for depth, layer in enumerate(backbone.layers):
        for module in layer.modules() if depth else ():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *_, depth=depth: order.append(depth))
    backbone(**batch)
    assert list(dict.fromkeys(order)) == [1, 2, 3, 4, 5]
    assert order == sorted(order)
    tables = {n for n, m in backbone.named_modules() if isinstance(m, nn.Embedding)}
    relative = {n for n in tables if "relative_attention_bias" in n}  # in T5's layers
    lowest = {id(p) for p in backbone.layers[0].parameters()}
    for table in tables - relative:
        assert id(backbone.get_submodule(table).weight) in lowest, table


@new
def test_features_are_those_of_transformers(name):
    backbone, batch = make_model(name)
    backbone.eval()
    features = backbone(**batch)
    # BERT's decoder without its head returns the features as logits.
    assert torch.equal(features, backbone.model(**batch, use_cache=False)[0])
    width = 24 if name == "bert2bert-wider" else HIDDEN
    rows, length = batch.get("decoder_input_ids", batch["input_ids"]).shape
    assert features.shape == (rows, length, width)
    assert backbone.hidden_size == width
    assert backbone.partial_hidden_size == HIDDEN
    assert backbone.is_encoder_decoder == (name in SEQ2SEQ)


@new
def test_token_embeddings_are_the_table_of_the_input_ids(name):
    backbone, batch = make_model(name)
    used = set()

    def record(table, args):
        if torch.is_tensor(args[0]) and torch.equal(args[0], batch["input_ids"]):
            used.add(id(table.weight))

    for module in backbone.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(record)
    backbone(**batch)
    assert used == {id(backbone.token_embeddings.weight)}


@encoder_decoders
def test_padding_of_texts_and_targets_changes_no_feature(name):
    backbone, batch = make_model(name)
    backbone.eval()
    before = backbone(**batch)
    tokens = batch["decoder_attention_mask"].bool()
    for ids, mask in (
        ("input_ids", "attention_mask"),
        ("decoder_input_ids", "decoder_attention_mask"),
    ):
        changed = {**batch, ids: batch[ids].masked_fill(batch[mask] == 0, 9)}
        assert not torch.equal(changed[ids], batch[ids])
        assert torch.equal(backbone(**changed)[tokens], before[tokens])


@new
def test_a_later_target_token_changes_no_earlier_feature(name):
    backbone, batch = make_model(name)
    backbone.eval()
    ids = "decoder_input_ids" if name in SEQ2SEQ else "input_ids"
    batch = {key: value for key, value in batch.items() if key in ("input_ids", ids)}
    before = backbone(**batch)
    changed = batch[ids].clone()
    changed[:, 2] = 11
    after = backbone(**{**batch, ids: changed})
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.equal(after[:, 2:], before[:, 2:])


@new
def test_a_loaded_model_is_in_train_mode_and_has_the_weights_of_the_folder(name, tmp_path):
    original, batch = make_model(name)
    original.model.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(tmp_path)
    assert all(module.training for module in backbone.modules())
    assert not torch.equal(backbone(**batch), backbone(**batch))  # dropout is on
    assert torch.equal(backbone.eval()(**batch), original.eval()(**batch))


@new
def test_a_config_in_json_and_weights_build_the_same_model(name):
    original, batch = make_model(name)
    config = json.loads(json.dumps(config_to_dict(original.config)))
    rebuilt = Backbone.from_config(config).eval()
    rebuilt.load_state_dict(original.state_dict())
    assert torch.equal(rebuilt(**batch), original.eval()(**batch))
    assert len(list(rebuilt.parameters())) == len(list(original.parameters()))  # still tied


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "pegasus", "mbart"])
def test_tied_tables_are_one_parameter_after_a_step(name):
    backbone, batch = make_model(name)
    tables = [
        backbone.model.get_submodule(f"{stack}.embed_tokens") for stack in ("encoder", "decoder")
    ]
    torch.optim.SGD(backbone.parameters(), 0.1).step(
        lambda: backbone(**batch).pow(2).mean().backward()
    )
    assert tables[0].weight is tables[1].weight is backbone.model.shared.weight


@new
def test_every_trainable_parameter_gets_a_gradient(name):
    backbone, batch = make_model(name)
    backbone(**batch).pow(2).sum().backward()
    unused = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_dropout_outside_of_the_layers_has_the_mode_of_the_embeddings(name):
    backbone, _ = make_model(name)
    encoder, decoder = backbone.model.encoder, backbone.model.decoder
    backbone.layers[0].eval()
    assert not encoder.training
    assert decoder.training
    assert all(layer.training for layer in backbone.layers[2:])
    if name == "t5":
        assert not encoder.dropout.training
    backbone.layers[0].train()
    assert all(module.training for module in backbone.modules())


@pytest.mark.parametrize("name", [*CONFIGS, *CAUSAL, *SEQ2SEQ])
def test_the_mode_of_a_depth_is_that_of_its_modules(name):
    """`layers` builds a new list on each access; an older one must have the current modes."""
    backbone, _ = make_model(name)
    earlier = backbone.layers
    for depth in range(len(earlier)):
        assert all(layer.training for layer in earlier[depth:])
        backbone.layers[depth].eval()
        modules = [module for layer in earlier[: depth + 1] for module in layer.modules()]
        assert not any(module.training for module in modules)
    backbone.train()
    assert all(layer.training for layer in earlier)
    backbone.eval()
    assert not any(layer.training for layer in earlier)


def test_the_head_of_a_decoder_is_removed_and_stored():
    torch.manual_seed(0)
    model = EncoderDecoderModel(SEQ2SEQ["bert2bert"])
    weight = model.decoder.cls.predictions.transform.dense.weight.detach().clone()
    backbone = Backbone(model)
    assert torch.equal(backbone.lm_head_state["cls.predictions.transform.dense.weight"], weight)
    assert "cls.predictions.bias" in backbone.lm_head_state
    assert not [n for n, _ in backbone.named_parameters() if "cls" in n or "pooler" in n]
    assert backbone.pooler_state is None
    assert make_backbone("bert").lm_head_state is None


def test_encoders_of_any_architecture_work_in_an_encoder_decoder_model():
    decoder = SEQ2SEQ["bert2bert"].decoder
    for name in ("deberta-v2-conv", "electra", "mpnet"):
        config = type(SEQ2SEQ["bert2bert"]).from_encoder_decoder_configs(CONFIGS[name], decoder)
        torch.manual_seed(0)
        backbone = Backbone(EncoderDecoderModel(config)).eval()
        batch = make_pairs()
        features = backbone(**batch)
        states = backbone.hidden_states_at(range(4), **texts_of(batch))
        for depth, hidden in states.items():
            assert torch.equal(backbone(**batch, from_depth=depth, hidden=hidden), features)
        inside = {id(p) for layer in backbone.layers for p in layer.parameters()}
        assert [n for n, p in backbone.named_parameters() if id(p) not in inside] == [], name


@pytest.mark.parametrize(
    ("name", "tokens", "targets"),
    [("bart", 40, 40), ("marian", 40, 40), ("t5", None, None), ("bert2bert", 40, 40)],
)
def test_max_tokens_of_texts_and_targets_are_the_sizes_of_their_tables(name, tokens, targets):
    backbone, _ = make_model(name)
    assert (backbone.max_tokens, backbone.max_target_tokens) == (tokens, targets)
    longest = {"input_ids": torch.full((1, 40), 5), "decoder_input_ids": torch.full((1, 40), 5)}
    assert backbone(**longest).shape == (1, 40, HIDDEN)
    if tokens is not None:
        for ids, message in (
            ("input_ids", r"41 tokens per text, .* at most 40"),
            (
                "decoder_input_ids",
                r"41 tokens per target, .* at most 40; set data.target_tokens.max_length=40$",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                backbone(**{**longest, ids: torch.full((1, 41), 5)})


def test_only_encoder_decoders_take_targets():
    backbone, batch = make_model("t5")
    with pytest.raises(ValueError, match=r"T5Model is an encoder-decoder and needs decoder_input_"):
        backbone(**texts_of(batch))
    with pytest.raises(ValueError, match=r"BertModel is not an encoder-decoder, but got .* T5"):
        make_backbone("bert")(*make_inputs(), decoder_input_ids=batch["decoder_input_ids"])


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: AlbertModel(AlbertConfig(hidden_size=16, num_attention_heads=2)), "none"),
        (
            lambda: WhisperModel(
                WhisperConfig(
                    d_model=16,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    num_mel_bins=4,
                )
            ),
            r"\['encoder.layers', 'decoder.layers'\]",
        ),
        (
            lambda: BartForConditionalGeneration(
                BartConfig(vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1)
            ),
            r"\['model.encoder.layers', 'model.decoder.layers'\]",
        ),
    ],
)
def test_a_model_without_known_layers_raises(model, found):
    with pytest.raises(
        ValueError, match=rf"is not a text model .*\(stacks found: {found}\).*your own"
    ):
        Backbone(model())


def test_an_encoder_decoder_with_a_head_raises():
    with pytest.raises(
        ValueError, match=r"T5ForConditionalGeneration has a language modelling hea"
    ):
        Backbone(T5ForConditionalGeneration(SEQ2SEQ["t5"]))


@encoder_decoders
def test_groups_have_every_parameter_once_and_learning_rates_fall_towards_the_input(name):
    backbone, _ = make_model(name)
    task = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(backbone.hidden_size, 2)})
    groups = ParameterGroups(layer_decay=0.5)(task, backbone)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in task.parameters())
    ratios = {group["name"].removesuffix(", no decay"): group["lr_ratio"] for group in groups}
    assert ratios == {
        **{f"depth {depth}": 0.5 ** (5 - depth) for depth in range(6)},
        "head": 10.0,
    }


class Fit(pl.LightningModule):
    """Trains an encoder-decoder and records the depths with changed weights in each epoch."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.hidden_size, 1)
        self.changed, self.frozen_depths = [], []

    def training_step(self, batch, batch_idx):
        frozen = self.backbone.layers[: self.backbone.max_partial_depth + 1]
        depth = sum(not any(p.requires_grad for p in layer.parameters()) for layer in frozen) - 1
        if depth >= 0:  # in the modes set by the callback
            with torch.no_grad():
                first, second = (
                    self.backbone.hidden_states_at([depth], **texts_of(batch))[depth]
                    for _ in range(2)
                )
            assert torch.equal(first, second)
            self.frozen_depths.append(depth)
            batch = {**batch, "from_depth": depth, "hidden": first}
        return self.head(self.backbone(**batch)).pow(2).mean()

    def on_train_epoch_start(self):
        self.before = [[p.detach().clone() for p in la.parameters()] for la in self.backbone.layers]

    def on_train_epoch_end(self):
        self.changed.append(
            [
                depth
                for depth, (layer, old) in enumerate(
                    zip(self.backbone.layers, self.before, strict=True)
                )
                if any(not torch.equal(p, q) for p, q in zip(layer.parameters(), old, strict=True))
            ]
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(ParameterGroups()(self, self.backbone), lr=0.01, weight_decay=0.5)


@encoder_decoders
def test_gradual_unfreezing_from_the_decoder_down_with_partial_forward_passes(name):
    backbone, batch = make_model(name)
    module = Fit(backbone)
    phases = [
        {"from_depth": "head"},
        {"from_depth": 4, "at_epoch": 1},
        {"from_depth": 2, "at_epoch": 2},
        {"from_depth": 0, "at_epoch": 3},
    ]
    trainer = make_trainer(max_epochs=4, callbacks=[GradualUnfreezing(phases)])
    trainer.fit(module, DataLoader([batch], batch_size=None))
    assert module.changed == [[], [4, 5], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert module.frozen_depths == [3, 3, 1]
    assert all(part.training for part in backbone.modules())


def test_encoder_and_decoder_may_have_different_numbers_of_layers():
    backbone = make_seq2seq("bart", encoder_layers=1, decoder_layers=4)
    assert (len(backbone.layers), backbone.max_partial_depth) == (6, 1)


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "distilbert", "bert2bert"])
def test_segments_change_only_models_with_segments(name):
    backbone, batch = make_model(name)
    backbone.eval()
    segments = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        plain, typed = backbone(**batch), backbone(**batch, token_type_ids=segments)
    assert torch.equal(plain, typed) == (name != "bert2bert")
