"""State-dict layouts of the model classes of transformers.

A model folder in such a layout contains backbone and head in one file, with the parameter names of
a class of transformers such as ``BertForSequenceClassification``. A layout converts between these
names and those of this package, and compares the outputs of both models.
"""

from collections.abc import Iterable, Mapping
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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_LM_CLASSES,
)
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
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as TOKEN_CLASSIFICATION_CLASSES,
)

from lightning_transfer.adapters.adapter import applied, name_of
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.lm_heads import (
    hf_names,
    lm_head_layout,
    model_on_meta,
    pretrained_generation,
    remove_private_keys,
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

_UNTIED = "the output layer is not tied to the embeddings"


@dataclass(frozen=True)
class ClassificationLayout:
    """Layout of a model for sequence classification.

    Args:
        prefix: Path of the base model.
        dense: Path of the head's hidden layer.
        out: Path of the head's output layer.
        activation: Activation between the two.
    """

    prefix: str
    dense: str
    out: str
    activation: str

    def to_hf(self, name: str) -> str:
        """Convert a parameter name from this package to transformers."""
        part, _, rest = name.partition(".")
        if part == "backbone":
            return f"{self.prefix}.{rest.removeprefix('model.')}"
        layer, _, leaf = rest.partition(".")
        return f"{self.dense if layer == 'dense' else self.out}.{leaf}"

    def from_hf(self, name: str) -> str:
        """Convert a parameter name from transformers to this package."""
        # The head first: BERT's pooler is part of its base model, but of the head here.
        path, _, leaf = name.rpartition(".")
        if path in (self.dense, self.out):
            return f"head.{'dense' if path == self.dense else 'out'}.{leaf}"
        return f"backbone.model.{name.removeprefix(self.prefix + '.')}"

    def unsupported_reason(self, config: Any, head: nn.Module) -> str:
        """Return the reason why transformers cannot represent a head, or an empty string.

        Args:
            config: Config of the backbone's model.
            head: Any head.
        """
        model_type = config.model_type
        # The exact class, here and in the other layouts: a subclass may compute something else.
        if type(head) is not MLPHead:
            return f"transformers has no {type(head).__name__} for {model_type!r}"
        if head.pooling != "cls" or head.activation != self.activation:
            return (
                f"the {model_type!r} head of transformers has cls pooling and {self.activation}, "
                f"this one has {head.pooling} pooling and {head.activation}"
            )
        # Only DeBERTa reads the key; the poolers of other models have a fixed activation.
        pooler_activation = getattr(config, "pooler_hidden_act", self.activation)
        if self is _DEBERTA and pooler_activation != self.activation:
            return f"the model's config has a pooler with {pooler_activation}"
        return ""

    def update_config(self, config: Any, labels: Labels) -> None:
        """Write the model class and the labels into a config, in place."""
        config.architectures = [CLASSIFICATION_CLASSES[config.model_type]]
        # Names of bins are not outputs: a regression has one, with a name of this package.
        _set_label_names(config, ("value",) if labels.kind == "regression" else labels.names)
        config.problem_type = {
            "regression": "regression",
            "single_label": "single_label_classification",
            "multi_label": "multi_label_classification",
        }[labels.kind]

    def auto_class(self, labels: Labels) -> Any:
        """Return the class of transformers for loading the folder."""
        return AutoModelForSequenceClassification

    def comparable_outputs(
        self, outputs: Tensor, hf_outputs: Any, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of outputs required to be equal.

        Args:
            outputs: Outputs of the task, float (batch, outputs).
            hf_outputs: Outputs of the model of transformers for the same batch.
            mask: 1 on tokens, int64 (batch, seq).
        """
        return [(outputs, hf_outputs.logits)]


@dataclass(frozen=True)
class TokenClassificationLayout:
    """Layout of a model for token classification.

    Args:
        prefix: Path of the base model.
    """

    prefix: str

    def to_hf(self, name: str) -> str:
        """Convert a parameter name from this package to transformers."""
        part, _, rest = name.partition(".")
        if part == "backbone":
            return f"{self.prefix}.{rest.removeprefix('model.')}"
        return f"classifier.{rest.removeprefix('out.')}"

    def from_hf(self, name: str) -> str:
        """Convert a parameter name from transformers to this package."""
        path, _, leaf = name.rpartition(".")
        if path == "classifier":
            return f"head.out.{leaf}"
        return f"backbone.model.{name.removeprefix(self.prefix + '.')}"

    def unsupported_reason(self, config: Any, head: nn.Module) -> str:
        """Return the reason why transformers cannot represent a head, or an empty string.

        Args:
            config: Config of the backbone's model.
            head: Any head.
        """
        if type(head) is TokenHead:
            return ""
        return f"transformers has no {type(head).__name__} for token classification"

    def update_config(self, config: Any, labels: Labels) -> None:
        """Write the model class and the tags into a config, in place."""
        config.architectures = [TOKEN_CLASSIFICATION_CLASSES[config.model_type]]
        _set_label_names(config, labels.names)

    def auto_class(self, labels: Labels) -> Any:
        """Return the class of transformers for loading the folder."""
        return AutoModelForTokenClassification

    def comparable_outputs(
        self, outputs: Tensor, hf_outputs: Any, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of outputs required to be equal.

        Args:
            outputs: Outputs of the task, float (batch, seq, tags).
            hf_outputs: Outputs of the model of transformers for the same batch.
            mask: 1 on tokens, int64 (batch, seq). Outputs on padding are not compared.
        """
        inside = mask.bool()
        return [(outputs[inside.to(outputs.device)], hf_outputs.logits[inside])]


@dataclass(frozen=True)
class MaskedLMLayout:
    """Layout of a masked language model.

    The output layer is tied to the embeddings and not stored.

    Args:
        form: Parameter names and computation of the head.
    """

    form: MaskedLMHeadLayout

    def to_hf(self, name: str) -> str:
        """Convert a parameter name from this package to transformers."""
        part, _, rest = name.partition(".")
        if part == "backbone":
            return f"{self.form.prefix}.{rest.removeprefix('model.')}"
        # `head.bias` is the bias of the output layer, the only parameter of the head itself.
        layer, _, leaf = rest.partition(".")
        return f"{self.form.paths[layer]}.{leaf}" if leaf else self.form.bias

    def from_hf(self, name: str) -> str:
        """Convert a parameter name from transformers to this package."""
        if name == self.form.bias:
            return "head.bias"
        path, _, leaf = name.rpartition(".")
        for layer, hf_path in self.form.paths.items():
            if path == hf_path:
                return f"head.{layer}.{leaf}"
        return f"backbone.model.{name.removeprefix(self.form.prefix + '.')}"

    def unsupported_reason(self, config: object, head: nn.Module) -> str:
        """Return the reason why transformers cannot represent a head, or an empty string.

        Args:
            config: Config of the backbone's model.
            head: Any head.
        """
        if type(head) is not LanguageModelHead:
            return f"transformers has no {type(head).__name__} for masked language models"
        if head.out is not None and self.form.pairs is None:
            return f"transformers has no {self.form.prefix} model with an output for text pairs"
        activation, eps = self.form.activation_and_eps(config)
        if (head.activation, head.norm.eps) != (activation, eps):
            return (
                f"the head of transformers has activation {activation} and norm_eps {eps}, this "
                f"one has {head.activation} and {head.norm.eps}; set head.activation={activation} "
                f"and head.norm_eps={eps}"
            )
        # Tokens are predicted with the embeddings; an untied output layer would stay untrained.
        return "" if getattr(config, "tie_word_embeddings", True) else _UNTIED

    def update_config(self, config: Any, labels: Labels) -> None:
        """Write the model class into a config, in place."""
        # With label names the head has an output for text pairs, as in BertForPreTraining.
        classes = PRETRAINING_CLASSES if labels.names else MASKED_LM_CLASSES
        config.architectures = [classes[config.model_type]]

    def auto_class(self, labels: Labels) -> Any:
        """Return the class of transformers for loading the folder."""
        return AutoModelForPreTraining if labels.names else AutoModelForMaskedLM

    def comparable_outputs(
        self, outputs: MaskedLMOutput, hf_outputs: Any, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of outputs required to be equal.

        Args:
            outputs: Predictions of the task for every token of a batch.
            hf_outputs: Outputs of the model of transformers for the same batch.
            mask: 1 on tokens, int64 (batch, seq).
        """
        inside = mask.bool()
        if outputs.pairs is None:
            return [(outputs.tokens, hf_outputs.logits[inside])]
        pairs = (outputs.pairs, hf_outputs.seq_relationship_logits)
        return [(outputs.tokens, hf_outputs.prediction_logits[inside]), pairs]


@dataclass(frozen=True)
class CausalLMLayout:
    """Layout of a causal language model.

    The output layer is tied to the embeddings and not stored.

    Args:
        prefix: Path of the base model.
    """

    prefix: str

    def to_hf(self, name: str) -> str:
        """Convert a parameter name from this package to transformers."""
        return f"{self.prefix}.{name.removeprefix('backbone.model.')}"

    def from_hf(self, name: str) -> str:
        """Convert a parameter name from transformers to this package."""
        return f"backbone.model.{name.removeprefix(self.prefix + '.')}"

    def unsupported_reason(self, config: object, head: nn.Module) -> str:
        """Return the reason why transformers cannot represent a head, or an empty string.

        Args:
            config: Config of the backbone's model.
            head: Any head.
        """
        if type(head) is not NextTokenHead:
            return f"transformers has no {type(head).__name__} for causal language models"
        return "" if getattr(config, "tie_word_embeddings", True) else _UNTIED

    def update_config(self, config: Any, labels: Labels) -> None:
        """Write the model class into a config, in place."""
        config.architectures = [CAUSAL_LM_CLASSES[config.model_type]]

    def auto_class(self, labels: Labels) -> Any:
        """Return the class of transformers for loading the folder."""
        return AutoModelForCausalLM

    def comparable_outputs(
        self, outputs: Tensor, hf_outputs: Any, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of outputs required to be equal.

        Args:
            outputs: Logits of the task at every token, float (tokens, vocabulary).
            hf_outputs: Outputs of the model of transformers for the same batch.
            mask: 1 on tokens, int64 (batch, seq).
        """
        return [(outputs, hf_outputs.logits[mask.bool()])]


@dataclass(frozen=True)
class Seq2SeqLayout:
    """Layout of an encoder-decoder with a language modelling head.

    Args:
        pairs: Names of this package and of transformers. A name with a dot at its end is a prefix;
            an empty one is the prefix of all names.
        architecture: Name of the model class in transformers.
    """

    pairs: tuple[tuple[str, str], ...]
    architecture: str

    @classmethod
    def of(cls, config: PretrainedConfig | Mapping[str, Any]) -> "Seq2SeqLayout":
        """Return the layout for a model config, or for its plain values.

        Raises:
            ValueError: If transformers has no such model.
        """
        if isinstance(config, Mapping):
            config = config_of(config)
        pairs = tuple(hf_names(config, lm_head_layout(config)))
        return cls(pairs, type(model_on_meta(config)).__name__)

    def to_hf(self, name: str) -> str:
        """Convert a parameter name from this package to transformers."""
        return _rename(name, self.pairs)

    def from_hf(self, name: str) -> str:
        """Convert a parameter name from transformers to this package."""
        # The longest prefix first, because an empty prefix matches every name.
        swapped = sorted(((theirs, own) for own, theirs in self.pairs), key=lambda p: -len(p[0]))
        return _rename(name, swapped)

    def unsupported_reason(self, config: object, head: nn.Module) -> str:
        """Return the reason why transformers cannot represent a head, or an empty string.

        Args:
            config: Config of the backbone's model.
            head: Any head.
        """
        if type(head) is DecoderHead:
            return ""
        return f"transformers has no {type(head).__name__} for encoder-decoders"

    def update_config(self, config: Any, labels: Labels) -> None:
        """Write the model class into a config, in place."""
        config.architectures = [self.architecture]
        remove_private_keys(config)

    def auto_class(self, labels: Labels) -> Any:
        """Return the class of transformers for loading the folder."""
        return AutoModelForSeq2SeqLM

    def write_generation_config(self, task: SequenceToSequence, folder: Path) -> None:
        """Write the generation settings of a task, for ``generate`` of transformers."""
        config = task.backbone.config
        base, ids = pretrained_generation(config), special_tokens(config)
        task.generation.to_generation_config(base, ids).save_pretrained(folder)

    def comparable_outputs(
        self, task: SequenceToSequence, model: Any, ids: Tensor, mask: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of outputs that have to be equal, and compare the generated texts.

        Args:
            task: The task, in eval mode.
            model: Model of transformers, in eval mode.
            ids: Token ids, int64 (batch, seq).
            mask: 1 on tokens, int64 (batch, seq).

        Raises:
            RuntimeError: If the generated texts differ.
        """
        device = next(task.parameters()).device
        # Any ids of the decoder's vocabulary serve as targets; -100 is excluded from the loss.
        labels = ids.remainder(task.head.layout.vocabulary[0]).masked_fill(mask == 0, -100)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batch = {name: value.to(device) for name, value in batch.items()}
        logits = task(batch)  # (targets, vocabulary)
        inputs = task.shift_right(batch["labels"]).cpu()
        hf_logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits
        # In 16 bits two tokens often have equal probabilities, and sampling is random: both may
        # give different texts for equal models.
        exact = all(p.dtype in (torch.float32, torch.float64) for p in task.parameters())
        if exact and not task.generation.do_sample:
            expected = task.generate(batch).cpu()
            # transformers returns the decoder's start token too.
            found = model.generate(input_ids=ids, attention_mask=mask)[:, 1:]
            if not torch.equal(expected, found):
                raise RuntimeError(
                    "the exported model generates other texts than the trained one: got token ids "
                    f"{found.tolist()}, expected {expected.tolist()}"
                )
        return [(logits, hf_logits[labels != -100])]


def _set_label_names(config: Any, names: Iterable[str]) -> None:
    names = tuple(names)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _rename(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Replace the first matching name or prefix of a parameter name."""
    for old, new in pairs:
        if name == old or (name.startswith(old) and (not old or old.endswith("."))):
            return f"{new}{name.removeprefix(old)}"
    return name


# The pooler of DeBERTa is outside of its base model, that of BERT inside.
_ROBERTA = ClassificationLayout("roberta", "classifier.dense", "classifier.out_proj", "tanh")
_DEBERTA = ClassificationLayout("deberta", "pooler.dense", "classifier", "gelu")
CLASSIFICATION_LAYOUTS: Mapping[str, ClassificationLayout] = {
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
MASKED_LM_LAYOUTS: Mapping[str, MaskedLMLayout] = {
    name: MaskedLMLayout(form) for name, form in MASKED_LM.items()
}
CAUSAL_LM_LAYOUTS: Mapping[str, CausalLMLayout] = {
    "gpt2": CausalLMLayout("transformer"),
    "gpt_neo": CausalLMLayout("transformer"),
}
# The layout of an encoder-decoder follows from its config, so it needs no entry per architecture.
ListedLayout = ClassificationLayout | TokenClassificationLayout | MaskedLMLayout | CausalLMLayout
HFLayout = ListedLayout | Seq2SeqLayout
"""Any layout."""


def _layouts_for(kind: str) -> Mapping[str, ListedLayout]:
    """Return the layouts for a kind of labels, by ``config.model_type``."""
    by_kind: Mapping[str, Mapping[str, ListedLayout]] = {
        "masked_tokens": MASKED_LM_LAYOUTS,
        "next_tokens": CAUSAL_LM_LAYOUTS,
        "tags": TOKEN_CLASSIFICATION_LAYOUTS,
    }
    # Single labels, several labels and regression have one class of transformers in common.
    return by_kind.get(kind, CLASSIFICATION_LAYOUTS)


def layout_of(description: Mapping[str, Any]) -> HFLayout:
    """Return the layout of a model folder written in a layout of transformers.

    Args:
        description: Description of its task.
    """
    kind = description["labels"]["kind"]
    if kind == "text":
        return Seq2SeqLayout.of(description["backbone"])
    return _layouts_for(kind)[description["backbone"]["model_type"]]


def find_hf_layout(
    backbone: nn.Module, head: nn.Module, labels: Labels
) -> tuple[HFLayout | None, str]:
    """Find the layout of transformers for a model.

    Args:
        backbone: Any backbone. Only a plain :class:`Backbone` can have a layout.
        head: Any head.
        labels: Labels of the task.

    Returns:
        The layout and an empty string, or None and the reason why there is none.
    """
    # A subclass may compute something else than the model that it wraps.
    if type(backbone) is not Backbone:
        return None, f"{type(backbone).__name__} is not a Hugging Face model"
    config = backbone.config
    adapter = applied(backbone)
    if adapter is not None and not isinstance(adapter, InPeft):
        return None, f"neither transformers nor peft can open a {name_of(adapter)}"
    layout: HFLayout | None
    if labels.kind == "text":
        layout = Seq2SeqLayout.of(config)
    else:
        layout = _layouts_for(labels.kind).get(config.model_type)
    if layout is None:
        return None, f"no layout for model type {config.model_type!r} and {labels.kind!r} labels"
    reason = layout.unsupported_reason(config, head)
    return (None, reason) if reason else (layout, "")
