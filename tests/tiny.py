"""Tiny models, batches and Trainers for tests."""

import lightning.pytorch as pl
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

from lightning_transfer.backbones import Backbone

VOCABULARY, HIDDEN = 33, 16
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
_DEBERTA_V2 = {
    **_DEBERTA,
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
_SPECIAL = {
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

CONFIGS = {
    "bert": transformers.BertConfig(**_SIZES),
    "roberta": transformers.RobertaConfig(**_SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(**_SIZES),
    "camembert": transformers.CamembertConfig(**_SIZES),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=HIDDEN,
        n_layers=3,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=40,
    ),
    "electra": transformers.ElectraConfig(**_SIZES, embedding_size=8),
    "deberta": transformers.DebertaConfig(**_SIZES, **_DEBERTA),
    "deberta-v2": transformers.DebertaV2Config(**_SIZES, **_DEBERTA_V2),
    "deberta-v2-conv": transformers.DebertaV2Config(
        **_SIZES, **_DEBERTA_V2, conv_kernel_size=3, conv_act="gelu"
    ),
    "mpnet": transformers.MPNetConfig(**_SIZES),
    "layoutlm": transformers.LayoutLMConfig(**_SIZES),  # its forward always calls the pooler
    "modernbert": transformers.ModernBertConfig(**_SIZES, **_SPECIAL),
    "rembert": transformers.RemBertConfig(
        **_SIZES, input_embedding_size=8, **{k: v for k, v in _SPECIAL.items() if "_id" in k}
    ),
}


def make_backbone(name="bert", *, seed=0, dtype="float32", **changes):
    torch.manual_seed(seed)
    config = type(CONFIGS[name]).from_dict({**CONFIGS[name].to_dict(), **changes})
    return Backbone.from_config(config, dtype=dtype)


def make_inputs(*, seed=1, lengths=(7, 4, 6)):
    """Return token ids (batch, seq) and the mask (batch, seq) of texts with padding."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths))
    ids = torch.randint(5, VOCABULARY, size, generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids.masked_fill(mask == 0, 0), mask


def make_batch(kind="regression", *, outputs=2, **inputs):
    ids, mask = make_inputs(**inputs)
    generator = torch.Generator().manual_seed(2)
    size = len(ids)
    labels = {
        "regression": torch.randn(size, generator=generator),
        "single_label": torch.arange(size) % outputs,
        "multi_label": torch.randint(0, 2, (size, outputs), generator=generator).float(),
    }[kind]
    index = torch.arange(size)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": index}


def make_loader(kind="regression", *, rows=12, batch_size=4, outputs=2):
    batch = make_batch(kind, outputs=outputs, lengths=tuple(5 + i % 3 for i in range(rows)))
    samples = [{name: value[i] for name, value in batch.items()} for i in range(rows)]
    return DataLoader(samples, batch_size=batch_size)


def make_trainer(**arguments):
    return pl.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **arguments,
        }
    )


class OwnBackbone(nn.Module):
    """Backbone of a user with only `layers`, `hidden_size`, and `forward` of ids and mask."""

    def __init__(self, width=HIDDEN):
        super().__init__()
        self.hidden_size = width
        self.table = nn.Embedding(VOCABULARY, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    @property
    def layers(self):
        return [self.table, self.first, self.second]

    def forward(self, input_ids, attention_mask=None):
        hidden = self.table(input_ids)
        return self.second(torch.tanh(self.first(hidden)))


class OwnHead(nn.Module):
    """Head of a user with an output layer `out`."""

    def __init__(self, hidden_size, num_outputs):
        super().__init__()
        self.out = nn.Linear(hidden_size, num_outputs)

    def forward(self, hidden, attention_mask=None):
        return self.out(hidden[:, 0])
