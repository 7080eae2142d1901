"""Language modelling heads of transformers' encoder-decoders: layout, removal and reassembly.

A backbone ends below the language modelling head, because its features go to a head of this
package. The functions here split a pretrained model into both parts. They also reassemble it around
the trained modules without a copy, so that ``generate`` of transformers can be used.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

# Keys that this package adds to a model's config, because the config is stored with the weights.
_OWN_OUTPUT = "lightning_transfer_own_output"
GENERATION = "lightning_transfer_generation"
"""Key in a model's config of the generation settings of the pretrained model."""
# Heads with a transform: path of the output layer, to the paths of dense layer, norm and bias.
_TRANSFORMS = {
    "cls.predictions.decoder": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "lm_head.decoder": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


@dataclass(frozen=True)
class LMHeadLayout:
    """Computation and parameter names of the head of an encoder-decoder.

    The head scales the decoder's features, optionally applies a transform (dense layer, activation,
    layer norm), and multiplies them by a table with one row per token: the decoder's embeddings or
    a matrix of the head.

    Args:
        vocabulary: Rows and width of the table.
        tied: True if the table is the decoder's embeddings.
        scale: Factor of the features; not 1 in some variants of T5.
        bias: ``none``, ``fixed`` (a buffer) or ``learned`` (a parameter), one number per token.
        activation: Activation of the transform; None for a head without a transform.
        norm_eps: Epsilon of the transform's layer norm.
        names: Parameter names of this package, to those of transformers (below the decoder for an
            ``EncoderDecoderModel``).
    """

    vocabulary: tuple[int, int]
    tied: bool
    scale: float
    bias: Literal["none", "fixed", "learned"]
    activation: str | None
    norm_eps: float
    names: Mapping[str, tuple[str, ...]]


def has_lm_head(config: PretrainedConfig) -> bool:
    """Return True for the config of an encoder-decoder that can have a language modelling head."""
    return type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


def is_composition(config: PretrainedConfig) -> bool:
    """Return True for the config of an ``EncoderDecoderModel``, composed of two other models."""
    return config.model_type == "encoder-decoder"


def split_lm_head(
    whole: PreTrainedModel, *, pretrained: bool
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Split an encoder-decoder into the model below its head and the weights of its head.

    Facts missing from the model's config are written into it: whether the output layer has its own
    weights, and the generation settings of the pretrained model.

    Args:
        whole: Model built by ``AutoModelForSeq2SeqLM``. An ``EncoderDecoderModel`` is returned
            unchanged; the head of its decoder is removed by ``Backbone``.
        pretrained: True if the weights and generation settings were loaded. The settings of a new
            model are only defaults.

    Returns:
        The model without its head, and copies of the head's weights by their names in ``whole``,
        without those tied to the decoder's embeddings.
    """
    own: Any = whole.config
    if pretrained:
        _store_generation(whole)
    if is_composition(own):
        return whole, {}
    core = _core_of(whole)
    output: Any = whole.get_output_embeddings()
    table = core.get_submodule("decoder").get_input_embeddings().weight  # type: ignore
    # Weight files may hold an output layer although the config ties it. A new model follows its
    # config, which may be a stored one with this key set.
    if pretrained:
        setattr(own, _OWN_OUTPUT, output.weight is not table)
        setattr(core.config, _OWN_OUTPUT, output.weight is not table)
    base = "" if whole.base_model is whole else _path_of(whole, whole.base_model) + "."
    inside = {f"{base}{name}" for name in core.state_dict()}
    state = {
        name: value.detach().clone()
        for name, value in whole.state_dict(keep_vars=True).items()
        if name not in inside and value is not table
    }
    return core, state


def _core_of(whole: PreTrainedModel) -> PreTrainedModel:
    """Return the model below the head, built of the same modules."""
    base: Any = whole.base_model
    if base is not whole:
        return base
    # T5 has no base model: encoder and decoder are children of the model with the head. They are
    # put into an empty model of the class without the head.
    with torch.device("meta"):
        core: PreTrainedModel = AutoModel.from_config(whole.config)
    for name, _ in list(core.named_children()):
        setattr(core, name, getattr(whole, name))
    core.config = whole.config
    return core


def _store_generation(whole: PreTrainedModel) -> None:
    """Write a model's generation settings, such as forced tokens, into its config."""
    found = getattr(whole, "generation_config", None)
    if found is not None:
        skipped = ("_from_model_config", "transformers_version")
        settings = {k: v for k, v in found.to_diff_dict().items() if k not in skipped}
        setattr(whole.config, GENERATION, settings)


def pretrained_generation(config: PretrainedConfig) -> dict[str, Any]:
    """Return the generation settings of the pretrained model; empty if it had none."""
    return dict(getattr(config, GENERATION, None) or {})


def remove_private_keys(config: PretrainedConfig) -> None:
    """Remove the keys of :func:`split_lm_head` from a config in place, for use outside."""
    for name in (_OWN_OUTPUT, GENERATION):
        if hasattr(config, name):
            delattr(config, name)


def model_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """Return an encoder-decoder with a language modelling head on the meta device.

    Raises:
        ValueError: If transformers has none for the config.
    """
    if not has_lm_head(config):
        raise ValueError(
            "transformers has no encoder-decoder with a language modelling head for "
            f"{config.model_type!r}; choose T5, BART, Marian, Pegasus or another model of "
            "AutoModelForSeq2SeqLM"
        )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns of weights without values
        whole: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)
    return whole


def lm_head_layout(config: PretrainedConfig) -> LMHeadLayout:
    """Return the layout of the head of an encoder-decoder.

    Raises:
        ValueError: If the model is not an encoder-decoder, or its head is of an unknown kind.
    """
    whole: Any = model_on_meta(config)
    owner = _owner(whole)
    output = owner.get_output_embeddings()
    path = _path_of(owner, output) if isinstance(output, nn.Linear) else ""
    if path not in _TRANSFORMS and path != "lm_head":
        raise ValueError(
            f"the head of {type(owner).__name__} is of an unknown kind; a decoder must be BERT, "
            "RoBERTa, XLM-RoBERTa, CamemBERT, GPT-2 or part of a pretrained encoder-decoder"
        )
    if path in _TRANSFORMS:
        return _layout_with_transform(owner, path, output)
    names: dict[str, tuple[str, ...]] = {}
    tied = output.weight is _table_of(whole) and not getattr(config, _OWN_OUTPUT, False)
    if not tied:
        names["out.weight"] = ("lm_head.weight",)
    bias: Literal["none", "fixed", "learned"] = "none"
    if "final_logits_bias" in dict(owner.named_buffers()):
        bias, names["bias"] = "fixed", ("final_logits_bias",)
    elif output.bias is not None:
        bias, names["bias"] = "learned", ("lm_head.bias",)
    return LMHeadLayout(_shape(output), tied, _scale(config), bias, None, 0.0, names)


def _layout_with_transform(owner: Any, path: str, output: nn.Linear) -> LMHeadLayout:
    dense, norm, bias = _TRANSFORMS[path]
    tied = output.weight is owner.get_input_embeddings().weight
    names: dict[str, tuple[str, ...]] = {} if tied else {"out.weight": (f"{path}.weight",)}
    for ours, theirs in (("transform", dense), ("norm", norm)):
        for leaf in ("weight", "bias"):
            names[f"{ours}.{leaf}"] = (f"{theirs}.{leaf}",)
    names["bias"] = (bias, f"{path}.bias")  # transformers ties the second to the first
    # RoBERTa's class for this head calls gelu, and does not read `hidden_act`.
    activation = owner.config.hidden_act if path.startswith("cls") else "gelu"
    eps = float(owner.get_submodule(norm).eps)
    return LMHeadLayout(_shape(output), tied, 1.0, "learned", activation, eps, names)


def _shape(output: nn.Linear) -> tuple[int, int]:
    return output.out_features, output.in_features


def _scale(config: Any) -> float:
    """Return T5's factor of the features, 1 for models without one."""
    # T5 and LongT5 have a key for it in transformers; UMT5 and Switch Transformers scale if the
    # embeddings are tied.
    is_scaled = (
        getattr(config, "scale_decoder_outputs", False)
        if config.model_type in {"t5", "longt5"}
        else (config.model_type in ("umt5", "switch_transformers") and config.tie_word_embeddings)
    )
    return float(config.d_model) ** -0.5 if is_scaled else 1.0


def add_lm_head(core: PreTrainedModel) -> PreTrainedModel:
    """Return a model with a head around the modules of ``core``; the head has no weights yet.

    Args:
        core: Model returned by :func:`split_lm_head`, or an ``EncoderDecoderModel`` whose
            decoder has lost its head.
    """
    whole: Any = model_on_meta(core.config)
    whole.config = core.config
    if is_composition(core.config):
        # The decoder of `core` has nn.Identity for its head, so only its base model is used.
        decoder: Any = core.get_submodule("decoder")
        inner = _path_of(whole.decoder, whole.decoder.base_model)
        whole.decoder.set_submodule(inner, decoder.get_submodule(inner))
        whole.decoder.config = decoder.config
    elif whole.base_model is not whole:
        whole.set_submodule(_path_of(whole, whole.base_model), core)
        return whole
    for name, child in core.named_children():
        if name != "decoder" or not is_composition(core.config):
            setattr(whole, name, child)
    return whole


def set_lm_head(
    whole: PreTrainedModel, layout: LMHeadLayout, state: Mapping[str, Tensor], table: Tensor
) -> None:
    """Give an assembled model the weights of its head, without a copy.

    Args:
        whole: Model returned by :func:`add_lm_head`; changed in place.
        layout: Layout of its head.
        state: Parameters and buffers of the head by the names of this package.
        table: The decoder's embeddings, float (vocabulary, width); used by a tied head.

    Raises:
        RuntimeError: If a parameter or buffer of the model is left without a value.
    """
    owner: Any = _owner(whole)
    for ours, paths in layout.names.items():
        for path in paths:
            _set_tensor(owner, path, state[ours])
    if layout.tied:
        _set_tensor(owner, _path_of(owner, owner.get_output_embeddings()) + ".weight", table)
    tensors = chain(whole.named_parameters(), whole.named_buffers())
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise RuntimeError(f"{type(whole).__name__} has parameters without a value: {empty}")


def hf_names(config: PretrainedConfig, layout: LMHeadLayout) -> Iterator[tuple[str, str]]:
    """Yield prefixes and names of this package, with those of transformers' model with a head.

    A name with a dot at its end is a prefix; an empty one is the prefix of all names.
    """
    if is_composition(config):
        yield "backbone.model.", ""
        below = "decoder."
    else:
        whole = model_on_meta(config)
        inside = whole.base_model is not whole
        yield "backbone.model.", f"{_path_of(whole, whole.base_model)}." if inside else ""
        below = ""
    for ours, paths in layout.names.items():
        yield f"head.{ours}", f"{below}{paths[0]}"


def _owner(whole: Any) -> Any:
    """Return the module with the head: the decoder of an ``EncoderDecoderModel``, or the model."""
    return whole.decoder if is_composition(whole.config) else whole


def _table_of(whole: Any) -> Tensor:
    """Return the decoder's embeddings, float (vocabulary, width)."""
    is_composed = is_composition(whole.config)
    base = whole.decoder if is_composed else whole.base_model.get_submodule("decoder")
    table: Tensor = base.get_input_embeddings().weight
    return table


def _path_of(module: nn.Module, part: nn.Module) -> str:
    return next((path for path, found in module.named_modules() if found is part), "")


def _set_tensor(owner: nn.Module, path: str, tensor: Tensor) -> None:
    holder, _, leaf = path.rpartition(".")
    module = owner.get_submodule(holder)
    if leaf in module._parameters:
        is_parameter = isinstance(tensor, nn.Parameter)
        own = tensor if is_parameter else nn.Parameter(tensor, requires_grad=False)
        module._parameters[leaf] = own  # type: ignore[assignment]
    else:
        module._buffers[leaf] = tensor
