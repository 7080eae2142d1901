"""Encoder-decoders joined from two pretrained models."""

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

from lightning_transfer.backbones.lm_heads import lm_head_layout
from lightning_transfer.backbones.pretrained import (
    check_safetensors,
    parse_dtype,
    read_model,
    resolve_source,
    set_dropout,
    without_load_report,
)

log = logging.getLogger(__name__)

# Names of cross-attention in BERT and GPT-2; a pretrained encoder has no weights for it.
_CROSS = re.compile(r"cross_?attention|cross_attn")


def join_pretrained(
    encoder: str | Path,
    decoder: str | Path | Mapping[str, Any],
    *,
    attn_implementation: str | None,
    dtype: str,
    dropout: float | None,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Join an encoder and a decoder; for the arguments see ``Backbone.warm_start``.

    Returns:
        The model, and the names of its random weights, such as those of the cross-attention.

    Raises:
        OSError: If there are no weights, or none in safetensors files.
        ValueError: If ``encoder`` is an encoder-decoder, if the decoder's architecture has no
            cross-attention or an unknown head, or if a new decoder has no ``model_type``.
    """
    options: dict[str, Any] = {
        "attn_implementation": attn_implementation,
        "dtype": parse_dtype(dtype),
    }
    encoder_model, missing_in_encoder = read_model(
        encoder, attn_implementation=attn_implementation, dtype=dtype, dropout=dropout
    )
    config, source = _config_of(decoder)
    if dropout is not None:
        set_dropout(config, dropout)
    _check(encoder_model, config)
    config.is_decoder = True  # causal attention
    config.add_cross_attention = True
    decoder_model, missing_in_decoder = _build_decoder(config, source, options, called=decoder)
    # The start token of the decoder stays unset: it depends on the tokenizer of the targets.
    joined = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder_model.config, decoder_model.config
    )
    model = EncoderDecoderModel(encoder=encoder_model, decoder=decoder_model, config=joined)
    newly_initialized = {f"encoder.{name}" for name in missing_in_encoder} | {
        f"decoder.{name}" for name in missing_in_decoder
    }
    # The projection between two different widths.
    between = {name for name in model.state_dict() if not name.startswith(("encoder.", "decoder."))}
    return model, frozenset(newly_initialized | between)


def _build_decoder(
    config: PretrainedConfig, source: str | None, options: Mapping[str, Any], *, called: Any
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return a decoder and the names of its random weights.

    Args:
        config: Config of the decoder.
        source: Folder or hub id of its weights; None for random weights.
        options: Attention implementation and dtype.
        called: Name of the decoder in the log.
    """
    if source is None:
        random: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
        return random, random.state_dict()
    return _load_decoder(source, config, options, called=called)


def _load_decoder(
    source: str, config: PretrainedConfig, options: Mapping[str, Any], *, called: Any
) -> tuple[PreTrainedModel, Iterable[str]]:
    """Return a decoder with the weights of a pretrained model, and log its random parts."""
    # transformers would print a table of every missing weight, as for a damaged checkpoint.
    with without_load_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True, **options
        )
    model, loading_info = loaded
    missing = dict.fromkeys(
        "cross-attention" if _CROSS.search(name) else ".".join(name.split(".")[:2])
        for name in sorted(loading_info["missing_keys"])
    )
    if missing:
        log.info("decoder from %s; reinitialised: %s", called, ", ".join(missing))
    return model, loading_info["missing_keys"]


def _config_of(
    decoder: str | Path | Mapping[str, Any],
) -> tuple[PretrainedConfig, str | None]:
    """Return the config of a decoder and the source of its weights, None for random weights."""
    if not isinstance(decoder, Mapping):
        source = resolve_source(decoder)
        check_safetensors(source)
        return AutoConfig.from_pretrained(source), source
    if "model_type" not in decoder:
        raise ValueError(
            "backbone.decoder has the sizes of a new decoder and no model_type; set "
            "backbone.decoder.model_type=bert, or set backbone.decoder to the name of a pretrained "
            "model"
        )
    values = {str(name): value for name, value in decoder.items() if name != "model_type"}
    return AutoConfig.for_model(str(decoder["model_type"]), **values), None


def _check(encoder: PreTrainedModel, config: PretrainedConfig) -> None:
    """Raise if encoder and decoder cannot be joined, before the decoder's weights are read."""
    if getattr(encoder.config, "is_encoder_decoder", False):
        name = encoder.config.name_or_path
        raise ValueError(
            f"backbone.encoder is a whole encoder-decoder ({encoder.config.model_type}); set "
            f"backbone=hub backbone.name={name}, or set backbone.encoder to an encoder"
        )
    try:
        lm_head_layout(EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, config))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a {config.model_type!r} cannot be the decoder of a warm start "
            f"({str(error).splitlines()[0][:120]}); choose BERT, RoBERTa, XLM-RoBERTa, CamemBERT "
            "or GPT-2"
        ) from error
