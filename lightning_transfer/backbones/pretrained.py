"""What a pretrained model is read from, and how: its source, its class, its type, its dropout."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from lightning_transfer import assets
from lightning_transfer.backbones.lm_heads import has_head

# What model configs call their dropout probabilities.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "activation_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
)


def resolve_source(name: str | Path) -> str:
    """Return the folder or hub id behind a model name; ``asset:`` names are fetched.

    Raises:
        OSError: If an asset cannot be fetched, or a path leads to no folder.
        ValueError: If there is no such asset.
    """
    text = str(name)
    if text.startswith("asset:"):
        return str(assets.fetch(text.removeprefix("asset:")))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(
            f"no model folder at {text}; a model is asset:<name>, a folder or a hub id"
        )
    return text


def check_safetensors(source: str) -> None:
    """Refuse a folder of pickled weights before transformers looks for them elsewhere."""
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "it is empty"
        raise OSError(
            f"{source} holds no model.safetensors ({names}); other weight files can run code when "
            "they are read, so write them anew with model.save_pretrained(folder)"
        )


def parse_dtype(dtype: str) -> torch.dtype:
    """Return the torch type called ``dtype``.

    Raises:
        ValueError: If torch has no floating type of that name.
    """
    value = getattr(torch, str(dtype), None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(
            f"backbone.dtype must be float32, bfloat16, float16 or float64, got {dtype!r}"
        )
    return value


def auto_class(config: PretrainedConfig) -> Any:
    """Return the class of transformers that builds a backbone's model from its config.

    Encoder-decoders come with what stands above their decoder: it may hold weights of its own.
    """
    return AutoModelForSeq2SeqLM if has_head(config) else AutoModel


def read_model(
    name: str | Path,
    *,
    attn_implementation: str | None,
    dtype: str,
    dropout: float | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Read a pretrained model; the arguments are those of ``Backbone.from_pretrained``.

    Returns:
        The model, and the names of what it has and the files lack: that is random.

    Raises:
        OSError: If the weights are not there, or not as safetensors.
        ValueError: If the dtype is unknown or the dropout is out of its range.
    """
    source = resolve_source(name)
    check_safetensors(source)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(source, **shared)
    if dropout is not None:
        set_dropout(config, dropout)
    model, found = auto_class(config).from_pretrained(
        source,
        config=config,
        use_safetensors=True,
        attn_implementation=attn_implementation,
        dtype=parse_dtype(dtype),
        output_loading_info=True,
        **shared,
    )
    return model, frozenset(found["missing_keys"])


@contextlib.contextmanager
def without_load_report() -> Iterator[None]:
    """Silence transformers where it reads weights that are known not to be all that a model has."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def set_dropout(config: PretrainedConfig, dropout: float) -> None:
    """Set every dropout probability of a model config, of both sides of an encoder-decoder.

    Raises:
        ValueError: If the probability is out of its range, or the config has none to set.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}; set backbone.dropout")
    sides = [getattr(config, name, None) for name in ("encoder", "decoder")]
    configs = [config, *(side for side in sides if isinstance(side, PretrainedConfig))]
    found = [(each, name) for each in configs for name in _DROPOUTS if hasattr(each, name)]
    if not found:
        raise ValueError(f"{type(config).__name__} has no dropout that is known; drop dropout=")
    for each, name in found:
        setattr(each, name, float(dropout))
