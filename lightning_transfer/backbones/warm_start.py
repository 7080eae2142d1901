"""Encoder-decoders from pretrained encoders."""

import logging
import re
from collections.abc import Iterable, Mapping
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

from lightning_transfer.backbones.lm_heads import head_form
from lightning_transfer.backbones.pretrained import (
    check_safetensors,
    parse_dtype,
    read_model,
    resolve_source,
    set_dropout,
    without_load_report,
)

log = logging.getLogger(__name__)

# What an encoder has not, as BERT and GPT-2 call it.
_CROSS = re.compile(r"cross_?attention|cross_attn")


def join_pretrained(
    encoder: str | Path,
    decoder: str | Path | Mapping[str, Any],
    *,
    attn_implementation: str | None,
    dtype: str,
    dropout: float | None,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Join an encoder and a decoder; the arguments are those of ``Backbone.warm_start``.

    Which token begins a target is left open: that is up to the target's tokenizer.

    Returns:
        The model, and the names of what is random in it, such as the cross-attention.

    Raises:
        OSError: If weights are not there, or not as safetensors.
        ValueError: If the decoder's architecture has no cross-attention, or it is not known how it
            computes logits.
    """
    how: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": parse_dtype(dtype)}
    reader, unread = read_model(
        encoder, attn_implementation=attn_implementation, dtype=dtype, dropout=dropout
    )
    config, source = _config_of(decoder)
    if dropout is not None:
        set_dropout(config, dropout)
    _check(reader, config)
    config.is_decoder = True
    config.add_cross_attention = True
    writer, unwritten = _decoder(config, source, how, called=decoder)
    joined = EncoderDecoderConfig.from_encoder_decoder_configs(reader.config, writer.config)
    model = EncoderDecoderModel(encoder=reader, decoder=writer, config=joined)
    fresh = {f"encoder.{name}" for name in unread} | {f"decoder.{name}" for name in unwritten}
    between = {name for name in model.state_dict() if not name.startswith(("encoder.", "decoder."))}
    return model, frozenset(fresh | between)


def _decoder(
    config: PretrainedConfig, source: str | None, how: Mapping[str, Any], *, called: Any
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return a decoder, and the names of what is random in it."""
    if source is None:
        fresh: PreTrainedModel = AutoModelForCausalLM.from_config(config, **how)
        return fresh, fresh.state_dict()
    return _pretrained_writer(source, config, how, called=called)


def _pretrained_writer(
    source: str, config: PretrainedConfig, how: Mapping[str, Any], *, called: Any
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return a decoder that begins as an encoder, and tell and return what it finds nothing for.

    For transformers that is a checkpoint that seems corrupted, and a table of many lines.
    """
    with without_load_report():
        read: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True, **how
        )
    writer, found = read
    missing = dict.fromkeys(
        "cross-attention" if _CROSS.search(name) else ".".join(name.split(".")[:2])
        for name in sorted(found["missing_keys"])
    )
    if missing:
        log.info("decoder from %s; made anew: %s", called, ", ".join(missing))
    return writer, found["missing_keys"]


def _config_of(
    decoder: str | Path | Mapping[str, Any],
) -> tuple[PretrainedConfig, str | None]:
    """Return the config of a decoder, and where its weights are; None for a new one."""
    if not isinstance(decoder, Mapping):
        source = resolve_source(decoder)
        check_safetensors(source)
        return AutoConfig.from_pretrained(source), source
    if "model_type" not in decoder:
        raise ValueError(
            "backbone.decoder is a new one and lacks its model_type; add model_type: bert, or give "
            "the name of a pretrained model"
        )
    values = {str(name): value for name, value in decoder.items() if name != "model_type"}
    return AutoConfig.for_model(str(decoder["model_type"]), **values), None


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
            f"a {config.model_type!r} can't be the decoder of a warm start "
            f"({str(error).splitlines()[0][:120]}); choose BERT, RoBERTa, XLM-RoBERTa, CamemBERT "
            "or GPT-2"
        ) from error
