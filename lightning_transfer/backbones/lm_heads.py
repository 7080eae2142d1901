"""Where transformers keeps what an encoder-decoder has above its decoder, and how it computes it.

A backbone ends below that: its features go to a head of ours. Here the two are told apart, and put
together again without a copy, so that transformers can generate text with the weights in training.
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

# Kept in the model's config, which goes wherever its weights go.
_OWN_OUTPUT = "lightning_transfer_own_output"
GENERATION = "lightning_transfer_generation"
"""Where a model's config keeps what the model came with for generation."""
# Heads with a transform: the path of the output layer, then those of dense layer, norm and bias.
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
    """What an architecture computes above its decoder.

    Features are scaled, may pass a transform (dense layer, activation, layer norm), and are
    multiplied by a table with a row a token: the decoder's embeddings, or one of the head's own.

    Args:
        vocabulary: Rows and width of the table.
        tied: Whether the table is the decoder's embeddings.
        scale: Factor of the features, as T5 has it.
        bias: A number a token: none, one that stays as it is (``fixed``), or one that is learned.
        activation: Of the transform; None: no transform.
        norm_eps: Epsilon of the transform's norm.
        names: Our parameter names, and where transformers keeps each (below the decoder of a model
            that is made of two others).
    """

    vocabulary: tuple[int, int]
    tied: bool
    scale: float
    bias: Literal["none", "fixed", "learned"]
    activation: str | None
    norm_eps: float
    names: Mapping[str, tuple[str, ...]]


def has_head(config: PretrainedConfig) -> bool:
    """Whether transformers has an encoder-decoder with a language model's head for a config."""
    return type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


def is_pair(config: PretrainedConfig) -> bool:
    """Whether a config is that of a model made of two others, with the head of its decoder."""
    return config.model_type == "encoder-decoder"


def take_apart(
    whole: PreTrainedModel, *, pretrained: bool
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Divide an encoder-decoder with a head into the model below the head and the head's weights.

    Weights that are the decoder's embeddings are not among the latter. What the model's config does
    not say is written into it: whether the output layer has weights of its own, since files may
    hold some where the config ties them, and what the model came with for generation.

    Args:
        whole: As ``AutoModelForSeq2SeqLM`` gives it; one that is made of two others stays whole.
        pretrained: Whether it came with settings of generation; those of a new model are guesses.
    """
    own: Any = whole.config
    if pretrained:
        _keep_generation(whole)
    if is_pair(own):
        return whole, {}
    core = _core_of(whole)
    output: Any = whole.get_output_embeddings()
    table = core.get_submodule("decoder").get_input_embeddings().weight  # type: ignore
    if pretrained:  # else it is built as its config says, and the config may know better
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
    """Return the model below the head, made of the very same modules."""
    base: Any = whole.base_model
    if base is not whole:
        return base
    with torch.device("meta"):  # T5's parts stand beside the head: they get a frame of their own
        core: PreTrainedModel = AutoModel.from_config(whole.config)
    for name, _ in list(core.named_children()):
        setattr(core, name, getattr(whole, name))
    core.config = whole.config
    return core


def _keep_generation(whole: PreTrainedModel) -> None:
    """Write what a model came with for generation, such as forced tokens, into its config."""
    found = getattr(whole, "generation_config", None)
    if found is not None:
        skipped = ("_from_model_config", "transformers_version")
        kept = {k: v for k, v in found.to_diff_dict().items() if k not in skipped}
        setattr(whole.config, GENERATION, kept)


def kept_generation(config: PretrainedConfig) -> dict[str, Any]:
    """Return what a model came with for generation; empty for one that came with nothing."""
    return dict(getattr(config, GENERATION, None) or {})


def without_notes(config: PretrainedConfig) -> None:
    """Take what :func:`take_apart` wrote into a config out of it again, for others to read."""
    for name in (_OWN_OUTPUT, GENERATION):
        if hasattr(config, name):
            delattr(config, name)


def empty_whole(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model with a head and without memory for its weights.

    Raises:
        ValueError: If transformers has none for the config.
    """
    if not has_head(config):
        raise ValueError(
            f"transformers has no encoder-decoder with a language model's head for "
            f"{config.model_type!r}; choose T5, BART, Marian, Pegasus or another that "
            "AutoModelForSeq2SeqLM opens"
        )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers tells of weights that it does not fill
        whole: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)
    return whole


def head_form(config: PretrainedConfig) -> LMHeadLayout:
    """Return what the architecture of a config computes above its decoder.

    Raises:
        ValueError: If it is none of the known ways.
    """
    whole: Any = empty_whole(config)
    owner = _owner(whole)
    output = owner.get_output_embeddings()
    path = _path_of(owner, output) if isinstance(output, nn.Linear) else ""
    if path not in _TRANSFORMS and path != "lm_head":
        raise ValueError(
            f"the head of a {type(owner).__name__} is of an unknown kind; known as decoders are "
            "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, GPT-2 and the whole encoder-decoders"
        )
    if path in _TRANSFORMS:
        return _transforming(owner, path, output)
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


def _transforming(owner: Any, path: str, output: nn.Linear) -> LMHeadLayout:
    dense, norm, bias = _TRANSFORMS[path]
    tied = output.weight is owner.get_input_embeddings().weight
    names: dict[str, tuple[str, ...]] = {} if tied else {"out.weight": (f"{path}.weight",)}
    for ours, theirs in (("transform", dense), ("norm", norm)):
        for leaf in ("weight", "bias"):
            names[f"{ours}.{leaf}"] = (f"{theirs}.{leaf}",)
    names["bias"] = (bias, f"{path}.bias")  # which transformers ties to it
    activation = owner.config.hidden_act if path.startswith("cls") else "gelu"
    eps = float(owner.get_submodule(norm).eps)
    return LMHeadLayout(_shape(output), tied, 1.0, "learned", activation, eps, names)


def _shape(output: nn.Linear) -> tuple[int, int]:
    return output.out_features, output.in_features


def _scale(config: Any) -> float:
    """Return T5's factor, which only its older kind has."""
    old = {"t5", "longt5"}
    says = (
        getattr(config, "scale_decoder_outputs", False)
        if config.model_type in old
        else (config.model_type in ("umt5", "switch_transformers") and config.tie_word_embeddings)
    )
    return float(config.d_model) ** -0.5 if says else 1.0


def assemble(core: PreTrainedModel) -> PreTrainedModel:
    """Return a model with a head around the very modules of ``core``; the head is still empty.

    Args:
        core: A model as :func:`take_apart` gives it, or a pair whose decoder has lost its head.
    """
    whole: Any = empty_whole(core.config)
    whole.config = core.config
    if is_pair(core.config):
        decoder: Any = core.get_submodule("decoder")
        inner = _path_of(whole.decoder, whole.decoder.base_model)
        whole.decoder.set_submodule(inner, decoder.get_submodule(inner))
        whole.decoder.config = decoder.config
    elif whole.base_model is not whole:
        whole.set_submodule(_path_of(whole, whole.base_model), core)
        return whole
    for name, child in core.named_children():
        if name != "decoder" or not is_pair(core.config):
            setattr(whole, name, child)
    return whole


def put_head(
    whole: PreTrainedModel, form: LMHeadLayout, state: Mapping[str, Tensor], table: Tensor
) -> None:
    """Let an assembled model compute with these weights, which are not copied.

    Args:
        whole: As :func:`assemble` gives it.
        form: Of its config.
        state: The head's parameters and buffers by our names.
        table: The decoder's embeddings, for a head that is tied to them.

    Raises:
        RuntimeError: If a part of the model has no weights then.
    """
    owner: Any = _owner(whole)
    for ours, paths in form.names.items():
        for path in paths:
            _put(owner, path, state[ours])
    if form.tied:
        _put(owner, _path_of(owner, owner.get_output_embeddings()) + ".weight", table)
    tensors = chain(whole.named_parameters(), whole.named_buffers())
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise RuntimeError(f"{type(whole).__name__} has parts that nothing is known of: {empty}")


def native_names(config: PretrainedConfig, form: LMHeadLayout) -> Iterator[tuple[str, str]]:
    """Yield our prefixes and names, and what transformers' model with a head calls them.

    A name that ends in a dot stands for all below it.
    """
    if is_pair(config):
        yield "backbone.model.", ""
        below = "decoder."
    else:
        whole = empty_whole(config)
        inside = whole.base_model is not whole
        yield "backbone.model.", f"{_path_of(whole, whole.base_model)}." if inside else ""
        below = ""
    for ours, paths in form.names.items():
        yield f"head.{ours}", f"{below}{paths[0]}"


def _owner(whole: Any) -> Any:
    return whole.decoder if is_pair(whole.config) else whole


def _table_of(whole: Any) -> Tensor:
    base = whole.decoder if is_pair(whole.config) else whole.base_model.get_submodule("decoder")
    table: Tensor = base.get_input_embeddings().weight
    return table


def _path_of(module: nn.Module, part: nn.Module) -> str:
    return next((path for path, found in module.named_modules() if found is part), "")


def _put(owner: nn.Module, path: str, tensor: Tensor) -> None:
    holder, _, leaf = path.rpartition(".")
    module = owner.get_submodule(holder)
    if leaf in module._parameters:
        is_parameter = isinstance(tensor, nn.Parameter)
        own = tensor if is_parameter else nn.Parameter(tensor, requires_grad=False)
        module._parameters[leaf] = own  # type: ignore[assignment]
    else:
        module._buffers[leaf] = tensor
