"""How transformers stores a masked language model: its names for what our parts hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED_LM_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_PRETRAINING_MAPPING_NAMES as PRETRAINING_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFICATION_CLASSES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as TOKEN_CLASSES,
)

from lightning_transfer.adapters.adapter import applied, name_of
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.lm_heads import (
    empty_whole,
    head_form,
    kept_generation,
    native_names,
    without_notes,
)
from lightning_transfer.backbones.masked_lm import MASKED_LM, MaskedLMHeadLayout
from lightning_transfer.checkpoints.adapter_files import InPeft
from lightning_transfer.heads import (
    DecoderHead,
    LanguageModelHead,
    MLPHead,
    NextTokenHead,
    TokenHead,
)
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.tasks.masked_language_modelling import MaskedLMOutput
from lightning_transfer.tasks.special_tokens import special_tokens
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import config_of


@dataclass(frozen=True)
class MaskedLMLayout:
    """Where an architecture's own masked language model keeps our backbone and head.

    The output layer itself is not stored: it is tied to the embeddings.

    Args:
        form: Where it keeps the head, and what this computes.
    """

    form: MaskedLMHeadLayout

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

    def compared(
        self, ours: MaskedLMOutput, theirs: Any, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
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


MASKED_LM_LAYOUTS: Mapping[str, MaskedLMLayout] = {
    name: MaskedLMLayout(form) for name, form in MASKED_LM.items()
}


@dataclass(frozen=True)
class CausalLMLayout:
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


CAUSAL_LM_LAYOUTS: Mapping[str, CausalLMLayout] = {
    "gpt2": CausalLMLayout("transformer"),
    "gpt_neo": CausalLMLayout("transformer"),
}


@dataclass(frozen=True)
class Seq2SeqLayout:
    """Where an architecture's own model keeps our backbone and head.

    Args:
        pairs: Our names and theirs; one that ends in a dot, or is empty, stands for all below it.
        architecture: Name of their class.
    """

    pairs: tuple[tuple[str, str], ...]
    architecture: str

    @classmethod
    def of(cls, config: PretrainedConfig | Mapping[str, Any]) -> "Seq2SeqLayout":
        """Return it for a model's config, or the ``to_dict()`` of one.

        Raises:
            ValueError: If transformers has no such model.
        """
        if isinstance(config, Mapping):
            config = config_of(config)
        pairs = tuple(native_names(config, head_form(config)))
        return cls(pairs, type(empty_whole(config)).__name__)

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        return _renamed(ours, self.pairs)

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        # The longest first: an empty prefix is that of all names.
        back = sorted(((theirs, own) for own, theirs in self.pairs), key=lambda p: -len(p[0]))
        return _renamed(native, back)

    def objection(self, config: object, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing."""
        if type(head) is DecoderHead:
            return ""
        return f"transformers has no {type(head).__name__} for encoder-decoders"

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture into a model's config."""
        config.architectures = [self.architecture]
        without_notes(config)

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForSeq2SeqLM

    def write_generation(self, task: SequenceToSequence, folder: Path) -> None:
        """Write how the task generates, where ``generate`` of transformers looks for it."""
        config = task.backbone.config
        settings = task.generation.config(kept_generation(config), special_tokens(config))
        settings.save_pretrained(folder)

    def compared(
        self, task: SequenceToSequence, model: Any, ids: Tensor, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our logits and those of transformers' own model.

        Args:
            task: In eval mode.
            model: Transformers' own, in eval mode.
            ids: Token ids, int64 (batch, seq).
            mask: 1 on tokens, int64 (batch, seq).

        Raises:
            RuntimeError: If they write other texts.
        """
        device = next(task.parameters()).device
        labels = ids.remainder(task.head.form.vocabulary[0]).masked_fill(mask == 0, -100)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batch = {name: value.to(device) for name, value in batch.items()}
        logits = task(batch)  # (targets, vocabulary)
        inputs = task.shift_right(batch["labels"]).cpu()
        theirs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits
        exact = all(p.dtype in (torch.float32, torch.float64) for p in task.parameters())
        if exact and not task.generation.do_sample:  # in 16 bits, two tokens are often as probable
            written = task.generate(batch).cpu()
            found = model.generate(input_ids=ids, attention_mask=mask)[:, 1:]
            if not torch.equal(written, found):
                raise RuntimeError(
                    "the exported model writes other texts than the trained one: "
                    f"{found.tolist()}, not {written.tolist()}"
                )
        return [(logits, theirs[labels != -100])]


def _renamed(name: str, pairs: Any) -> str:
    for old, new in pairs:
        if name == old or (name.startswith(old) and (not old or old.endswith("."))):
            return f"{new}{name.removeprefix(old)}"
    return name


@dataclass(frozen=True)
class TokenClassificationLayout:
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


TOKEN_CLASSIFICATION_LAYOUTS: Mapping[str, TokenClassificationLayout] = {
    name: TokenClassificationLayout(prefix)
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


@dataclass(frozen=True)
class ClassificationLayout:
    """Where an architecture's own classification model keeps what our backbone and head hold."""

    prefix: str
    dense: str
    out: str
    activation: str

    def names(self, ours: str) -> str:
        """Return the native name of one of our parameters."""
        part, _, rest = ours.partition(".")
        if part == "backbone":
            return f"{self.prefix}.{rest.removeprefix('model.')}"
        layer, _, leaf = rest.partition(".")
        return f"{self.dense if layer == 'dense' else self.out}.{leaf}"

    def ours(self, native: str) -> str:
        """Return our name of one of its parameters."""
        path, _, leaf = native.rpartition(".")
        if path in (self.dense, self.out):
            return f"head.{'dense' if path == self.dense else 'out'}.{leaf}"
        return f"backbone.model.{native.removeprefix(self.prefix + '.')}"

    def objection(self, config: Any, head: nn.Module) -> str:
        """Return why a head is not this architecture's, or nothing.

        Args:
            config: The model's own config.
            head: Any head.
        """
        model_type = config.model_type
        if type(head) is not MLPHead:
            return f"transformers has no {type(head).__name__} for {model_type!r}"
        if head.pooling != "cls" or head.activation != self.activation:
            return (
                f"transformers' {model_type!r} head pools cls with {self.activation}, "
                f"this one {head.pooling} with {head.activation}"
            )
        stated = getattr(config, "pooler_hidden_act", self.activation)  # DeBERTa's
        if self is _DEBERTA and stated != self.activation:
            return f"the model's config asks for a pooler with {stated}"
        return ""

    def describe(self, config: Any, labels: Labels) -> None:
        """Write the architecture and the labels into a model's config."""
        config.architectures = [CLASSIFICATION_CLASSES[config.model_type]]
        names = ("value",) if labels.kind == "regression" else labels.names
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = {
            "regression": "regression",
            "single_label": "single_label_classification",
            "multi_label": "multi_label_classification",
        }[labels.kind]

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForSequenceClassification

    def compared(self, ours: Tensor, theirs: Any, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our output and that of transformers' own model."""
        return [(ours, theirs.logits)]


_ROBERTA = ClassificationLayout("roberta", "classifier.dense", "classifier.out_proj", "tanh")
_DEBERTA = ClassificationLayout("deberta", "pooler.dense", "classifier", "gelu")
HFLayout = (
    ClassificationLayout
    | MaskedLMLayout
    | CausalLMLayout
    | TokenClassificationLayout
    | Seq2SeqLayout
)
CLASSIFICATION_LAYOUTS: dict[str, ClassificationLayout] = {
    "bert": ClassificationLayout("bert", "bert.pooler.dense", "classifier", "tanh"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": ClassificationLayout("mpnet", "classifier.dense", "classifier.out_proj", "tanh"),
    "electra": ClassificationLayout("electra", "classifier.dense", "classifier.out_proj", "gelu"),
    "distilbert": ClassificationLayout("distilbert", "pre_classifier", "classifier", "relu"),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
}


def layout_of(described: Mapping[str, Any]) -> HFLayout:
    """Return how transformers stores the model of a description that says that it does."""
    if described["labels"]["kind"] == "text":
        return Seq2SeqLayout.of(described["backbone"])
    return _forms(described["labels"]["kind"])[described["backbone"]["model_type"]]


def _form_of(kind: str, config: Any) -> HFLayout | None:
    if kind == "text":
        return Seq2SeqLayout.of(config)
    return _forms(kind).get(config.model_type)


def _forms(
    kind: str,
) -> Mapping[
    str, ClassificationLayout | MaskedLMLayout | CausalLMLayout | TokenClassificationLayout
]:
    forms: Mapping[
        str,
        Mapping[
            str, ClassificationLayout | MaskedLMLayout | CausalLMLayout | TokenClassificationLayout
        ],
    ]
    forms = {
        "masked_tokens": MASKED_LM_LAYOUTS,
        "next_tokens": CAUSAL_LM_LAYOUTS,
        "tags": TOKEN_CLASSIFICATION_LAYOUTS,
    }
    return forms.get(kind, CLASSIFICATION_LAYOUTS)


def find_hf_layout(
    backbone: nn.Module, head: nn.Module, labels: Labels
) -> tuple[HFLayout | None, str]:
    """Return how transformers stores this model, or None and the reason why it cannot.

    Args:
        backbone: A :class:`Backbone`; for a module of the user's own there is no such form.
        head: Any head.
        labels: What the head's outputs are.
    """
    if type(backbone) is not Backbone:
        return None, f"{type(backbone).__name__} is not a Hugging Face model"
    model_type = backbone.config.model_type
    adapter = applied(backbone)
    if adapter is not None and not isinstance(adapter, InPeft):
        return None, f"plain transformers does not open a {name_of(adapter)}, nor does peft"
    native = _form_of(labels.kind, backbone.config)
    if native is None:
        return None, f"model type {model_type!r} has no known form for labels of {labels.kind!r}"
    objection = native.objection(backbone.config, head)
    return (None, objection) if objection else (native, "")
