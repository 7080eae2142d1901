"""How transformers stores a causal language model: its names for what our backbone holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from lightning_transfer.heads import NextTokenHead
from lightning_transfer.labels import Labels


@dataclass(frozen=True)
class NativeCausalLM:
    """Where an architecture's own causal language model keeps our backbone.

    The output layer is not stored: it is tied to the embeddings.

    Args:
        prefix: Path of the base model.
    """

    prefix: str

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        return f"{self.prefix}.{ours.removeprefix('backbone.model.')}"

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        return f"backbone.model.{native.removeprefix(self.prefix + '.')}"

    def objection(self, config: object, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing.

        Args:
            config: The model's own config.
            head: Any head.
        """
        if type(head) is not NextTokenHead:
            return f"transformers has no {type(head).__name__} for causal language models"
        return "" if getattr(config, "tie_word_embeddings", True) else "its embeddings are not tied"

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture into a model's config."""
        config.architectures = [CLASSES[config.model_type]]

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForCausalLM

    def compared(self, ours: Tensor, theirs: Any, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our output and that of transformers' own model.

        Args:
            ours: Logits at each token of a batch, float (tokens, vocabulary).
            theirs: What transformers' model returns for it.
            mask: 1 on tokens, int64 (batch, seq).
        """
        return [(ours, theirs.logits[mask.bool()])]


NATIVE_CAUSAL_LM: Mapping[str, NativeCausalLM] = {
    "gpt2": NativeCausalLM("transformer"),
    "gpt_neo": NativeCausalLM("transformer"),
}
