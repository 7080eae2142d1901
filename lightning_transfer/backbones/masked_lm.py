"""Heads of pretrained masked language models: layout, and reading from checkpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files


@dataclass(frozen=True)
class MaskedLMHeadLayout:
    """Parameter names and computation of an architecture's head for masked tokens.

    Args:
        prefix: Path of the base model.
        transform: Path of the dense layer.
        norm: Path of the layer norm.
        output: Path of the output layer, with weights tied to the embeddings.
        bias: Name of the output bias, one number per token.
        activation: Activation after the dense layer; None for the one in ``config.hidden_act``.
        norm_eps: Epsilon of the layer norm; None for the one in ``config.layer_norm_eps``.
        pairs: Paths of the pooler's dense layer and of the output layer for pairs of texts (BERT's
            next-sentence prediction); None for a head without it.
    """

    prefix: str
    transform: str
    norm: str
    output: str
    bias: str
    activation: str | None = "gelu"
    norm_eps: float | None = None
    pairs: tuple[str, str] | None = None

    @property
    def paths(self) -> dict[str, str]:
        """Names of the layers in ``LanguageModelHead``, to their paths in transformers' model."""
        paths = {"transform": self.transform, "norm": self.norm}
        return paths | (dict(zip(("dense", "out"), self.pairs, strict=True)) if self.pairs else {})

    def activation_and_eps(self, config: Any) -> tuple[str | None, float | None]:
        """Return the activation and the epsilon of the layer norm for a model config."""
        activation = self.activation or getattr(config, "hidden_act", None)
        return activation, self.norm_eps or getattr(config, "layer_norm_eps", None)


_BERT = "cls.predictions"
_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
MASKED_LM: Mapping[str, MaskedLMHeadLayout] = {
    "bert": MaskedLMHeadLayout(
        "bert",
        f"{_BERT}.transform.dense",
        f"{_BERT}.transform.LayerNorm",
        f"{_BERT}.decoder",
        f"{_BERT}.bias",
        activation=None,
        pairs=("bert.pooler.dense", "cls.seq_relationship"),
    ),
    "roberta": MaskedLMHeadLayout("roberta", *_LM_HEAD),
    "xlm-roberta": MaskedLMHeadLayout("roberta", *_LM_HEAD),
    "camembert": MaskedLMHeadLayout("roberta", *_LM_HEAD),
    "mpnet": MaskedLMHeadLayout("mpnet", *_LM_HEAD),
    "distilbert": MaskedLMHeadLayout(
        "distilbert",
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector",
        "vocab_projector.bias",
        norm_eps=1e-12,  # fixed in DistilBertForMaskedLM, not in its config
    ),
}
"""Layouts by ``config.model_type``."""


@dataclass(frozen=True)
class MaskedLMHead:
    """Masked language modelling head found in a checkpoint, or the reason for its absence.

    Args:
        state: Weights by their names in ``LanguageModelHead``: ``transform``, ``norm`` and
            ``bias``, and ``out`` for pairs of texts. The dense layer for pairs is the pooler and
            not included. Empty without a head.
        activation: Activation after the dense layer.
        norm_eps: Epsilon of the layer norm.
        missing_reason: Reason for an empty ``state``.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    activation: str | None = None
    norm_eps: float | None = None
    missing_reason: str = ""


def read_masked_lm_head(
    source: str, config: PretrainedConfig, *, revision: str | None = None
) -> MaskedLMHead:
    """Read the head of a masked language model from the safetensors files of a checkpoint.

    Args:
        source: Model folder or hub id.
        config: Config of the model.
        revision: Branch, tag or commit of a hub model.
    """
    layout = MASKED_LM.get(config.model_type)
    if layout is None:
        return MaskedLMHead(
            missing_reason=f"parameter names of {config.model_type} heads are unknown"
        )
    if not getattr(config, "tie_word_embeddings", True):
        return MaskedLMHead(
            missing_reason="the head in the checkpoint is not tied to the embeddings"
        )
    stored = _stored_tensors(layout, source, revision)
    names = _names(layout)
    state = {ours: stored[theirs] for ours, theirs in names.items() if theirs in stored}
    # A checkpoint without the part for pairs still has a head for masked tokens.
    if any(ours not in state and not ours.startswith("out.") for ours in names):
        return MaskedLMHead(missing_reason="the checkpoint has no head")
    activation, norm_eps = layout.activation_and_eps(config)
    return MaskedLMHead(state, activation, norm_eps)


def _names(layout: MaskedLMHeadLayout) -> dict[str, str]:
    """Return the parameter names in ``LanguageModelHead``, to those in a checkpoint."""
    # `dense` is the pooler, which Backbone takes from the loaded model.
    layers = {ours: path for ours, path in layout.paths.items() if ours != "dense"}
    leaves = ("weight", "bias")
    found = {f"{own}.{leaf}": f"{path}.{leaf}" for own, path in layers.items() for leaf in leaves}
    return found | {"bias": layout.bias}


def _stored_tensors(
    layout: MaskedLMHeadLayout, source: str, revision: str | None
) -> dict[str, Tensor]:
    """Return the tensors of the head by their names in the current version of transformers."""
    wanted, found = set(_names(layout).values()), {}
    for path in _weight_files(source, revision):
        # safe_open reads single tensors, so the rest of the file is not loaded.
        with safe_open(path, "pt") as file:
            for name in file.keys():
                current = _current_name(name, layout)
                if current in wanted:
                    found[current] = file.get_tensor(name)
    return found


def _current_name(name: str, layout: MaskedLMHeadLayout) -> str:
    """Return the current name of a tensor in a checkpoint of any age."""
    # Older checkpoints have the bias inside the output layer, and TensorFlow's names of norms.
    if name == f"{layout.output}.bias":
        return layout.bias
    path, _, leaf = name.rpartition(".")
    return f"{path}.{ {'gamma': 'weight', 'beta': 'bias'}.get(leaf, leaf) }"


def _weight_files(source: str, revision: str | None) -> Iterator[str]:
    """Yield the paths of the safetensors files of a folder or of a hub model."""
    if Path(source).is_dir():
        yield from map(str, sorted(Path(source).glob("model*.safetensors")))
        return
    if whole := _cached(source, SAFE_WEIGHTS_NAME, revision):
        yield whole
    elif index := _cached(source, SAFE_WEIGHTS_INDEX_NAME, revision):
        yield from get_checkpoint_shard_files(source, index, revision=revision)[0]


def _cached(source: str, name: str, revision: str | None) -> str | None:
    """Return the path of a hub model's file, downloaded if necessary; None if it does not exist."""
    try:
        return cached_file(source, name, revision=revision)
    except OSError:
        return None
