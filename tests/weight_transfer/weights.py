"""Tiny backbones and their weights for tests of weight transfer."""

import copy
from dataclasses import replace

import torch
from torch import nn
from transformers import EncoderDecoderConfig

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import Weights
from lightning_transfer.heads import LinearHead
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import WeightTransferSpec, transfer_weights
from lightning_transfer.weight_transfer.stack_weights import stacks_of
from tests.tiny import CONFIGS, make_backbone
from tests.tiny_seq2seq import CAUSAL, make_seq2seq

RATING = Labels("regression")


def make(name, *, seed=0, **changes):
    make_any = make_backbone if name in CONFIGS else make_seq2seq
    return make_any(name, seed=seed, **changes)


def pair(name="bert", decoder="bert", *, seed=0, layers=3):
    """Return an encoder-decoder of two models of equal width."""
    configs = [copy.deepcopy({**CONFIGS, **CAUSAL}[one]) for one in (name, decoder)]
    if layers != 3:
        configs[1].num_hidden_layers = layers
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*configs)
    torch.manual_seed(seed)
    return Backbone.from_config(config)


def weights_of(backbone, *, head=None, labels=RATING, tokenizer=None, target=None):
    task = nn.Module()
    task.backbone = backbone
    task.head = head or LinearHead(backbone.hidden_size, labels.num_outputs)
    task.labels = labels
    start = Weights.of(task, tokenizer=tokenizer, where="a.ckpt")
    return replace(start, target_tokenizer=target)


def run_transfer(old, new, parts=None, *, on_mismatch="error", tokenizers=(None, None), **more):
    """Transfer the weights of one backbone to another, and return the report."""
    start = old if isinstance(old, Weights) else weights_of(old, tokenizer=tokenizers[0])
    spec = WeightTransferSpec.of(parts, on_mismatch=on_mismatch)
    head = more.pop("head", None) or LinearHead(new.hidden_size, 1)
    return transfer_weights(start, new, head, RATING, spec=spec, tokenizer=tokenizers[1], **more)


def rows(report):
    """Return name and status of all parts except the head."""
    return [(p.part, p.status) for p in report.parts if p.part != "head"]


def state(backbone, stack):
    """Return copies of the weights of a stack by name."""
    return {
        k: v.detach().clone() for k, v in stacks_of(backbone)[stack].module.state_dict().items()
    }
