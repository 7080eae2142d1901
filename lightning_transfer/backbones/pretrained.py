"""Loading of pretrained models: source, class, dtype and dropout."""

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
from lightning_transfer.backbones.lm_heads import has_lm_head

# Keys of dropout probabilities in the model configs of transformers.
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
    """Return the folder or hub id of a model name; assets are fetched.

    Args:
        name: ``asset:<name>``, a folder, or a hub model id.

    Raises:
        OSError: If an asset cannot be fetched, or a path is not a folder.
        ValueError: If the asset is unknown.
    """
    text = str(name)
    if text.startswith("asset:"):
        return str(assets.fetch(text.removeprefix("asset:")))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder)
    # A hub id is `model` or `owner/model`; anything else is a mistyped path.
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(
            f"no model folder at {text}; a model is asset:<name>, a folder or a hub id"
        )
    return text


def check_safetensors(source: str) -> None:
    """Raise an OSError if a folder has no safetensors file.

    Args:
        source: A folder, or a hub id, which is not checked.
    """
    # Before transformers, so that the error lists the files and the way to convert them.
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "it is empty"
        raise OSError(
            f"{source} has no model.safetensors ({names}); other weight files can run code when "
            "they are loaded, so convert them with model.save_pretrained(folder)"
        )


def parse_dtype(dtype: str) -> torch.dtype:
    """Return the floating-point dtype with this name.

    Raises:
        ValueError: If torch has no floating-point dtype of this name.
    """
    value = getattr(torch, str(dtype), None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(
            f"backbone.dtype must be one of float32, bfloat16, float16, float64, got {dtype!r}"
        )
    return value


def auto_class(config: PretrainedConfig) -> Any:
    """Return transformers' auto class for the model of a backbone.

    Encoder-decoders are loaded with their language modelling head, which may have its own weights.
    """
    return AutoModelForSeq2SeqLM if has_lm_head(config) else AutoModel


def read_model(
    name: str | Path,
    *,
    attn_implementation: str | None,
    dtype: str,
    dropout: float | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a pretrained model; for the arguments see ``Backbone.from_pretrained``.

    Returns:
        The model, and the names of its weights that are missing in the files and therefore random.

    Raises:
        OSError: If there are no weights, or none in safetensors files.
        ValueError: If the dtype is unknown or the dropout is not in [0, 1).
    """
    source = resolve_source(name)
    check_safetensors(source)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(source, **shared)
    if dropout is not None:
        set_dropout(config, dropout)
    model, loading_info = auto_class(config).from_pretrained(
        source,
        config=config,
        use_safetensors=True,  # pickled weights can run code
        attn_implementation=attn_implementation,
        dtype=parse_dtype(dtype),
        output_loading_info=True,
        **shared,
    )
    return model, frozenset(loading_info["missing_keys"])


@contextlib.contextmanager
def without_load_report() -> Iterator[None]:
    """Silence transformers' report of missing weights if they are expected."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def set_dropout(config: PretrainedConfig, dropout: float) -> None:
    """Set every dropout probability of a model config in place.

    Args:
        config: Model config; those of an encoder and a decoder in it are changed too.
        dropout: Probability in [0, 1).

    Raises:
        ValueError: If the probability is not in [0, 1), or the config has no known dropout.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}; set backbone.dropout=0.1")
    stacks = [getattr(config, name, None) for name in ("encoder", "decoder")]
    configs = [config, *(stack for stack in stacks if isinstance(stack, PretrainedConfig))]
    found = [(each, name) for each in configs for name in _DROPOUTS if hasattr(each, name)]
    if not found:
        raise ValueError(f"{type(config).__name__} has no known dropout; set backbone.dropout=null")
    for each, name in found:
        setattr(each, name, float(dropout))
