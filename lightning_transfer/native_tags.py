"""How transformers stores a model that tags words: its names for what our parts hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForTokenClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as TOKEN_CLASSES,
)

from lightning_transfer.heads import TokenHead
from lightning_transfer.labels import Labels


@dataclass(frozen=True)
class NativeTags:
    """Where an architecture's own token classifier keeps our backbone and head.

    Args:
        prefix: Path of the base model.
    """

    prefix: str

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        part, _, rest = ours.partition(".")
        if part == "backbone":
            return f"{self.prefix}.{rest.removeprefix('model.')}"
        return f"classifier.{rest.removeprefix('out.')}"

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        path, _, leaf = native.rpartition(".")
        if path == "classifier":
            return f"head.out.{leaf}"
        return f"backbone.model.{native.removeprefix(self.prefix + '.')}"

    def objection(self, config: Any, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing.

        Args:
            config: The model's own config.
            head: Any head.
        """
        if type(head) is TokenHead:
            return ""
        return f"transformers has no {type(head).__name__} to tag words with"

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture and the tags into a model's config."""
        config.architectures = [TOKEN_CLASSES[config.model_type]]
        config.num_labels = len(labels.names)
        config.id2label = dict(enumerate(labels.names))
        config.label2id = {name: index for index, name in enumerate(labels.names)}

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForTokenClassification

    def compared(self, ours: Tensor, theirs: Any, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our output and that of transformers' own model, on tokens.

        Args:
            ours: Outputs, float (batch, seq, tags).
            theirs: What transformers' model returns.
            mask: 1 on tokens, int64 (batch, seq).
        """
        inside = mask.bool()
        return [(ours[inside.to(ours.device)], theirs.logits[inside])]


NATIVE_TAGS: Mapping[str, NativeTags] = {
    name: NativeTags(prefix)
    for name, prefix in {
        "bert": "bert",
        "roberta": "roberta",
        "xlm-roberta": "roberta",
        "camembert": "roberta",
        "mpnet": "mpnet",
        "electra": "electra",
        "distilbert": "distilbert",
        "deberta": "deberta",
        "deberta-v2": "deberta",
    }.items()
}
