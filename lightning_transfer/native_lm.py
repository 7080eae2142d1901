"""How transformers stores a masked language model: its names for what our parts hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED_LM_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_PRETRAINING_MAPPING_NAMES as PRETRAINING_CLASSES,
)

from lightning_transfer.heads import LanguageModelHead
from lightning_transfer.labels import Labels
from lightning_transfer.tasks.masked_language_modelling import Guesses


@dataclass(frozen=True)
class NativeLM:
    """Where an architecture's own masked language model keeps our backbone and head.

    The output layer itself is not stored: it is tied to the embeddings.

    Args:
        prefix: Path of the base model.
        transform: Path of the head's dense layer.
        norm: Path of its layer norm.
        bias: Name of the bias a token.
        activation: What the architecture computes; None: what its config says in ``hidden_act``.
        norm_eps: Epsilon of the layer norm; None: what its config says in ``layer_norm_eps``.
        pairs: Paths of the pooler's dense layer and of the output layer over pairs, if it has them.
    """

    prefix: str
    transform: str
    norm: str
    bias: str
    activation: str | None = "gelu"
    norm_eps: float | None = None
    pairs: tuple[str, str] | None = None

    @property
    def _paths(self) -> Mapping[str, str]:
        paths = {"transform": self.transform, "norm": self.norm}
        return paths | (dict(zip(("dense", "out"), self.pairs, strict=True)) if self.pairs else {})

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        part, _, rest = ours.partition(".")
        if part == "backbone":
            return f"{self.prefix}.{rest.removeprefix('model.')}"
        layer, _, leaf = rest.partition(".")
        return f"{self._paths[layer]}.{leaf}" if leaf else self.bias

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        if native == self.bias:
            return "head.bias"
        path, _, leaf = native.rpartition(".")
        for layer, own in self._paths.items():
            if path == own:
                return f"head.{layer}.{leaf}"
        return f"backbone.model.{native.removeprefix(self.prefix + '.')}"

    def objection(self, config: object, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing.

        Args:
            config: The model's own config.
            head: Any head.
        """
        if type(head) is not LanguageModelHead:
            return f"transformers has no {type(head).__name__} for masked language models"
        if head.out is not None and self.pairs is None:
            return f"transformers' {self.prefix} judges no pairs"
        activation = self.activation or getattr(config, "hidden_act", None)
        eps = self.norm_eps or getattr(config, "layer_norm_eps", None)
        if (head.activation, head.norm.eps) != (activation, eps):
            return (
                f"transformers' head has the activation {activation} and norm_eps {eps}, this one "
                f"{head.activation} and {head.norm.eps}; set head.activation and head.norm_eps"
            )
        return "" if getattr(config, "tie_word_embeddings", True) else "its embeddings are not tied"

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture into a model's config; it has two, one for pairs too."""
        classes = PRETRAINING_CLASSES if labels.names else MASKED_LM_CLASSES
        config.architectures = [classes[config.model_type]]

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForPreTraining if labels.names else AutoModelForMaskedLM

    def compared(self, ours: Guesses, theirs: Any, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our output and that of transformers' own model.

        Args:
            ours: A guess of each token of a batch.
            theirs: What transformers' model returns for it.
            mask: 1 on tokens, int64 (batch, seq).
        """
        inside = mask.bool()
        if ours.pairs is None:
            return [(ours.tokens, theirs.logits[inside])]
        pairs = (ours.pairs, theirs.seq_relationship_logits)
        return [(ours.tokens, theirs.prediction_logits[inside]), pairs]


_BERT = "cls.predictions"
_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
NATIVE_LM: Mapping[str, NativeLM] = {
    "bert": NativeLM(
        "bert",
        f"{_BERT}.transform.dense",
        f"{_BERT}.transform.LayerNorm",
        f"{_BERT}.bias",
        activation=None,
        pairs=("bert.pooler.dense", "cls.seq_relationship"),
    ),
    "roberta": NativeLM("roberta", *_LM_HEAD),
    "xlm-roberta": NativeLM("roberta", *_LM_HEAD),
    "camembert": NativeLM("roberta", *_LM_HEAD),
    "mpnet": NativeLM("mpnet", *_LM_HEAD),
    "distilbert": NativeLM(
        "distilbert",
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector.bias",
        norm_eps=1e-12,
    ),
}
