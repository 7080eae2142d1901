"""The head of a pretrained masked language model: where checkpoints keep it, and how it is read."""

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
    """Where an architecture keeps the head that guesses masked tokens, and what this computes.

    Args:
        prefix: Path of the base model.
        transform: Path of the head's dense layer.
        norm: Path of its layer norm.
        output: Path of the output layer, whose weights are tied to the embeddings.
        bias: Name of its bias, a number a token.
        activation: What the architecture computes; None: what its config says in ``hidden_act``.
        norm_eps: Epsilon of the layer norm; None: what its config says in ``layer_norm_eps``.
        pairs: Paths of the pooler's dense layer and of the output layer over pairs, if it has them.
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
        """Our names of the head's layers, and theirs."""
        paths = {"transform": self.transform, "norm": self.norm}
        return paths | (dict(zip(("dense", "out"), self.pairs, strict=True)) if self.pairs else {})

    def computes(self, config: Any) -> tuple[str | None, float | None]:
        """Return the activation and the epsilon that a model of this config has in its head."""
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
        norm_eps=1e-12,
    ),
}
"""By model type of transformers."""


@dataclass(frozen=True)
class MaskedLMHead:
    """The head that a checkpoint holds beside the backbone, or why there is none.

    Args:
        state: By our names: ``transform``, ``norm`` and ``bias``, and ``out`` if it judges pairs
            (whose dense layer is the pooler); empty if there is no head.
        activation: What it computes behind the dense layer.
        norm_eps: Epsilon of its layer norm.
        lacks: Why there is none.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    activation: str | None = None
    norm_eps: float | None = None
    lacks: str = ""


def read_masked_lm_head(
    source: str, config: PretrainedConfig, *, revision: str | None = None
) -> MaskedLMHead:
    """Read the head of a masked language model from the safetensors of a checkpoint.

    Nothing but the head is read of them.

    Args:
        source: A folder or a hub id.
        config: Of the model.
        revision: Branch, tag or commit of a hub model.
    """
    form = MASKED_LM.get(config.model_type)
    if form is None:
        return MaskedLMHead(lacks=f"it is not known where a {config.model_type} keeps one")
    if not getattr(config, "tie_word_embeddings", True):
        return MaskedLMHead(lacks="that of the checkpoint is not tied to the embeddings")
    stored = _stored(form, source, revision)
    state = {ours: stored[names] for ours, names in _names(form).items() if names in stored}
    missing = [ours for ours in _names(form) if ours not in state and not ours.startswith("out.")]
    if missing:
        return MaskedLMHead(lacks="the checkpoint holds none")
    activation, norm_eps = form.computes(config)
    return MaskedLMHead(state, activation, norm_eps)


def _names(form: MaskedLMHeadLayout) -> dict[str, str]:
    """Return our names of what a head holds, and theirs."""
    layers = {ours: path for ours, path in form.paths.items() if ours != "dense"}
    leaves = ("weight", "bias")
    found = {f"{own}.{leaf}": f"{path}.{leaf}" for own, path in layers.items() for leaf in leaves}
    return found | {"bias": form.bias}


def _stored(form: MaskedLMHeadLayout, source: str, revision: str | None) -> dict[str, Tensor]:
    """Return the head's tensors by the names of today's transformers."""
    wanted, found = set(_names(form).values()), {}
    for path in _weight_files(source, revision):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                today = _today(name, form)
                if today in wanted:
                    found[today] = file.get_tensor(name)
    return found


def _today(name: str, form: MaskedLMHeadLayout) -> str:
    """Return what a tensor is called today: TensorFlow's norms and a tied bias had other names."""
    if name == f"{form.output}.bias":
        return form.bias
    path, _, leaf = name.rpartition(".")
    return f"{path}.{ {'gamma': 'weight', 'beta': 'bias'}.get(leaf, leaf) }"


def _weight_files(source: str, revision: str | None) -> Iterator[str]:
    if Path(source).is_dir():
        yield from map(str, sorted(Path(source).glob("model*.safetensors")))
        return
    if whole := _cached(source, SAFE_WEIGHTS_NAME, revision):
        yield whole
    elif index := _cached(source, SAFE_WEIGHTS_INDEX_NAME, revision):
        yield from get_checkpoint_shard_files(source, index, revision=revision)[0]


def _cached(source: str, name: str, revision: str | None) -> str | None:
    """Return a file of a hub model, out of the cache where it is; None if there is none."""
    try:
        return cached_file(source, name, revision=revision)
    except OSError:
        return None
