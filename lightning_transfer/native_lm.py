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
from lightning_transfer.masked_lm import MASKED_LM, MaskedLMForm
from lightning_transfer.tasks.masked_language_modelling import Guesses


@dataclass(frozen=True)
class NativeLM:
    """Where an architecture's own masked language model keeps our backbone and head.

    The output layer itself is not stored: it is tied to the embeddings.

    Args:
        form: Where it keeps the head, and what this computes.
    """

    form: MaskedLMForm

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        part, _, rest = ours.partition(".")
        if part == "backbone":
            return f"{self.form.prefix}.{rest.removeprefix('model.')}"
        layer, _, leaf = rest.partition(".")
        return f"{self.form.paths[layer]}.{leaf}" if leaf else self.form.bias

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        if native == self.form.bias:
            return "head.bias"
        path, _, leaf = native.rpartition(".")
        for layer, own in self.form.paths.items():
            if path == own:
                return f"head.{layer}.{leaf}"
        return f"backbone.model.{native.removeprefix(self.form.prefix + '.')}"

    def objection(self, config: object, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing.

        Args:
            config: The model's own config.
            head: Any head.
        """
        if type(head) is not LanguageModelHead:
            return f"transformers has no {type(head).__name__} for masked language models"
        if head.out is not None and self.form.pairs is None:
            return f"transformers' {self.form.prefix} judges no pairs"
        activation, eps = self.form.computes(config)
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


NATIVE_LM: Mapping[str, NativeLM] = {name: NativeLM(form) for name, form in MASKED_LM.items()}
