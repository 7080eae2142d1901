"""Encoder-decoders from pretrained encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PretrainedConfig,
    PreTrainedModel,
)

from lightning_transfer.lm_head import head_form
from lightning_transfer.pretrained import (
    check_safetensors,
    parse_dtype,
    read_model,
    resolve_source,
    set_dropout,
)


def join_pretrained(
    encoder: str | Path,
    decoder: str | Path | Mapping[str, Any],
    *,
    attn_implementation: str | None,
    dtype: str,
    dropout: float | None,
) -> PreTrainedModel:
    """Join an encoder and a decoder; the arguments are those of ``Backbone.warm_start``.

    Which token begins a target is left open: that is up to the target's tokenizer.

    Raises:
        OSError: If weights are not there, or not as safetensors.
        ValueError: If the decoder's architecture has no cross-attention, or it is not known how it
            computes logits.
    """
    how: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": parse_dtype(dtype)}
    reader = read_model(
        encoder, attn_implementation=attn_implementation, dtype=dtype, dropout=dropout
    )
    source = None if isinstance(decoder, Mapping) else resolve_source(decoder)
    if source is None:
        values = {str(k): v for k, v in dict(decoder).items() if k != "model_type"}  # type: ignore
        config = AutoConfig.for_model(str(decoder["model_type"]), **values)  # type: ignore
    else:
        check_safetensors(source)
        config = AutoConfig.from_pretrained(source)
    if dropout is not None:
        set_dropout(config, dropout)
    _check(reader, config)
    config.is_decoder = True
    config.add_cross_attention = True
    writer = (
        AutoModelForCausalLM.from_config(config, **how)
        if source is None
        else AutoModelForCausalLM.from_pretrained(
            source, config=config, use_safetensors=True, **how
        )
    )
    joined = EncoderDecoderConfig.from_encoder_decoder_configs(reader.config, writer.config)
    return EncoderDecoderModel(encoder=reader, decoder=writer, config=joined)


def _check(reader: PreTrainedModel, config: PretrainedConfig) -> None:
    """Refuse what cannot be joined before weights are read."""
    if getattr(reader.config, "is_encoder_decoder", False):
        raise ValueError(
            f"backbone.encoder is a whole encoder-decoder ({reader.config.model_type}); give its "
            "name to backbone=hub, or an encoder here"
        )
    try:
        head_form(EncoderDecoderConfig.from_encoder_decoder_configs(reader.config, config))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a {config.model_type!r} can't be the decoder of a warm start: {error}; choose BERT, "
            "RoBERTa, XLM-RoBERTa, CamemBERT or GPT-2"
        ) from error
