"""Tiny encoder-decoders and decoders, and batches for them."""

import copy
import functools

import torch
import transformers

from lightning_transfer.backbones import Backbone
from tests.tiny import CONFIGS, HIDDEN, VOCABULARY, make_backbone, make_inputs

_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
    **_IDS,
}
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def _pair(decoder_size=HIDDEN):
    """Return a config of three BERT layers and a decoder of two with another vocabulary."""
    decoder = {**_BERT, "hidden_size": decoder_size, "vocab_size": 21, "num_hidden_layers": 2}
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**_BERT, num_hidden_layers=3), transformers.BertConfig(**decoder)
    )


SEQ2SEQ = {
    "t5": transformers.T5Config(**_T5),
    "t5-gated": transformers.T5Config(
        **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "mt5": transformers.MT5Config(**_T5),
    "umt5": transformers.UMT5Config(**_T5),
    "bart": transformers.BartConfig(**_BART),
    "mbart": transformers.MBartConfig(**_BART),
    "marian": transformers.MarianConfig(**_BART),
    "marian-apart": transformers.MarianConfig(
        **_BART, share_encoder_decoder_embeddings=False, decoder_vocab_size=21
    ),
    "pegasus": transformers.PegasusConfig(**_BART),
    "bert2bert": _pair(),
    "bert2bert-wider": _pair(24),
}
CAUSAL = {
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=3,
        n_head=2,
        n_positions=40,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    ),
}


def make_seq2seq(name, *, seed=0, **changes):
    torch.manual_seed(seed)
    config = {**SEQ2SEQ, **CAUSAL}[name]
    return Backbone.from_config(type(config).from_dict({**config.to_dict(), **changes}))


def make_pairs(*, seed=1):
    """Return a batch of texts and targets for an encoder-decoder, both with padding."""
    ids, mask = make_inputs(seed=seed)
    target_ids, target_mask = make_inputs(seed=seed + 1, lengths=(3, 5, 4))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": target_ids % 21,  # rows of the smallest vocabulary
        "decoder_attention_mask": target_mask,
    }


@functools.cache
def _built(name):
    return make_backbone(name) if name in CONFIGS else make_seq2seq(name)


def make_model(name):
    """Return a backbone of any architecture and a batch for it."""
    backbone = copy.deepcopy(_built(name))  # faster than building a model
    if name in SEQ2SEQ:
        return backbone, make_pairs()
    ids, mask = make_inputs()
    return backbone, {"input_ids": ids, "attention_mask": mask}


def texts_of(batch):
    """Return the inputs of the texts in a batch, without those of the targets."""
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
