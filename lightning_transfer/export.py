"""Model folders that plain transformers opens."""

import copy
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NATIVE_CLASSES,
)

from lightning_transfer.adapted import PEFT_FOLDER, InPeft, base_state, write_adapter
from lightning_transfer.adapters import Adapter, merge
from lightning_transfer.adapters.base import applied, name_of
from lightning_transfer.adapters.peft_layers import need_peft
from lightning_transfer.backbone import Backbone
from lightning_transfer.checkpoint import describe_task
from lightning_transfer.files import TEMP_PREFIX
from lightning_transfer.heads import MLPHead
from lightning_transfer.labels import Labels
from lightning_transfer.modes import evaluating
from lightning_transfer.native_causal_lm import NATIVE_CAUSAL_LM, NativeCausalLM
from lightning_transfer.native_lm import NATIVE_LM, NativeLM
from lightning_transfer.native_seq2seq import NativeSeq2Seq
from lightning_transfer.native_tags import NATIVE_TAGS, NativeTags
from lightning_transfer.pretrained import without_load_report
from lightning_transfer.tasks import SequenceToSequence, TransferModule

log = logging.getLogger(__name__)

DESCRIPTION = "lightning_transfer.json"
MODEL_FILE = "model.safetensors"
HEAD_FILE = "head.safetensors"
TARGET_FOLDER = "target_tokenizer"
_SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Native:
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
        config.architectures = [NATIVE_CLASSES[config.model_type]]
        names = ("rating",) if labels.kind == "rating" else labels.names
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = {
            "rating": "regression",
            "single": "single_label_classification",
            "multi": "multi_label_classification",
        }[labels.kind]

    def opener(self, labels: Labels) -> Any:
        """Return the class that opens a folder of such a model."""
        return AutoModelForSequenceClassification

    def compared(self, ours: Tensor, theirs: Any, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what has to be equal: our output and that of transformers' own model."""
        return [(ours, theirs.logits)]


_ROBERTA = Native("roberta", "classifier.dense", "classifier.out_proj", "tanh")
_DEBERTA = Native("deberta", "pooler.dense", "classifier", "gelu")
AnyNative = Native | NativeLM | NativeCausalLM | NativeTags | NativeSeq2Seq
NATIVE: dict[str, Native] = {
    "bert": Native("bert", "bert.pooler.dense", "classifier", "tanh"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": Native("mpnet", "classifier.dense", "classifier.out_proj", "tanh"),
    "electra": Native("electra", "classifier.dense", "classifier.out_proj", "gelu"),
    "distilbert": Native("distilbert", "pre_classifier", "classifier", "relu"),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
}


def native_of(described: Mapping[str, Any]) -> AnyNative:
    """Return how transformers stores the model of a description that says that it does."""
    if described["labels"]["kind"] == "text":
        return NativeSeq2Seq.of(described["backbone"])
    return _forms(described["labels"]["kind"])[described["backbone"]["model_type"]]


def _form_of(kind: str, config: Any) -> AnyNative | None:
    if kind == "text":
        return NativeSeq2Seq.of(config)
    return _forms(kind).get(config.model_type)


def _forms(kind: str) -> Mapping[str, Native | NativeLM | NativeCausalLM | NativeTags]:
    forms: Mapping[str, Mapping[str, Native | NativeLM | NativeCausalLM | NativeTags]]
    forms = {"tokens": NATIVE_LM, "next_tokens": NATIVE_CAUSAL_LM, "tags": NATIVE_TAGS}
    return forms.get(kind, NATIVE)


def native_form(
    backbone: nn.Module, head: nn.Module, labels: Labels
) -> tuple[AnyNative | None, str]:
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


def export(
    task: TransferModule,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    tokens: Any | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokens: Any | None = None,
    position: dict[str, Any] | None = None,
) -> bool:
    """Write a model folder, whole or not at all.

    Where transformers has the same architecture with the same head, the folder loads with
    ``AutoModelForSequenceClassification.from_pretrained`` and gives the same logits; this is
    checked before the folder takes its place. A model that tags words loads with
    ``AutoModelForTokenClassification``, a masked language model with ``AutoModelForMaskedLM``
    (``AutoModelForPreTraining`` if it judges pairs too), a causal one with
    ``AutoModelForCausalLM``, an encoder-decoder with ``AutoModelForSeq2SeqLM``, and it writes the
    same texts. Otherwise it holds the backbone for ``AutoModel``, the head beside it, and
    :func:`lightning_transfer.loading.load` opens both.

    An adapter is merged into the weights of the folder, and not into those of the task. With
    ``merge=False`` of LoRA and IA3 the folder holds the base weights, with the trained head, and
    ``peft.PeftModel.from_pretrained(model, folder / "adapter")`` adds the adapter. One that cannot
    be merged lies in a file that only this package reads: plain transformers gives the frozen
    backbone alone.

    Args:
        task: A trained task.
        tokenizer: Saved beside the weights.
        folder: An older folder of that name is replaced.
        tokens: How texts were cut; see ``data.Tokens``.
        target_tokenizer: Of texts that are to be written, where it is another one; saved in
            ``target_tokenizer`` below the folder.
        target_tokens: How those were cut.
        position: Where in a run these weights come from.

    Returns:
        Whether plain transformers (with peft, if the adapter is not merged) opens the whole model.

    Raises:
        RuntimeError: If the folder, loaded with transformers, gave other logits or texts.
        ValueError: If the backbone is not a Hugging Face model, which has no such folder.
    """
    folder = Path(folder)
    backbone = task.backbone
    if type(backbone) is not Backbone:
        raise ValueError(
            f"{type(backbone).__name__} is not a Hugging Face model; keep the checkpoint"
        )
    adapter = applied(backbone)
    if adapter is not None and adapter.mergeable and adapter.merge:
        backbone, adapter = copy.deepcopy(backbone), None
        merge(backbone)
    if isinstance(task, SequenceToSequence):
        task.adopt(target_tokenizer or tokenizer)
    native, reason = native_form(backbone, task.head, task.labels)
    with _taking_place(folder) as temp:
        if native is None:
            _write_parts(backbone, task.head, temp)
        else:
            _write_native(backbone, task, native, temp)
        if adapter is not None:
            rename = _automodel_name if native is None else native.names
            write_adapter(adapter, backbone, temp, rename=rename)
        _as_read_by(backbone, tokenizer).save_pretrained(temp)
        if target_tokenizer is not None and target_tokenizer is not tokenizer:
            target_tokenizer.save_pretrained(temp / TARGET_FOLDER)
        described = describe_task(task, tokenizer=None, tokens=tokens, target_tokens=target_tokens)
        described |= {"native": native is not None, "position": position}
        described["adapter"] = described["adapter"] if adapter else None
        (temp / DESCRIPTION).write_text(json.dumps(described, indent=2))
        if native is None:
            log.info("model folder holds backbone and head apart: %s", reason)
        else:
            _verify(task, native, temp, adapter)
    return native is not None


def _as_read_by(backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that gives a model what it takes: ``model(**tokenizer(text))`` works."""
    names = [name for name in tokenizer.model_input_names if name != _SEGMENTS]
    if backbone.has_segments or names == tokenizer.model_input_names:
        return tokenizer
    fitting = copy.copy(tokenizer)  # what it knows of words is shared, and not changed
    fitting.model_input_names = names
    fitting.init_kwargs = {**tokenizer.init_kwargs, "model_input_names": names}
    return fitting


@contextmanager
def _taking_place(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder``, which takes its place if nothing is raised."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent))
    try:
        yield temp
        temp.chmod(0o755)
        _replace(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _replace(temp: Path, folder: Path) -> None:
    """Put a finished folder in its place; the older one goes when the new one is there."""
    if not folder.exists():
        temp.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent)) / "old"
    folder.rename(old)
    temp.rename(folder)
    shutil.rmtree(old.parent, ignore_errors=True)


def _automodel_name(ours: str) -> str:
    return ours.removeprefix("backbone.model.")


def _write_parts(backbone: Backbone, head: nn.Module, folder: Path) -> None:
    config = copy.deepcopy(backbone.config)
    config.architectures = [type(backbone.model).__name__]
    config.save_pretrained(folder)
    _save(base_state(backbone, applied(backbone)), folder / MODEL_FILE)
    _save(head.state_dict(), folder / HEAD_FILE)


def _write_native(
    backbone: Backbone, task: TransferModule, native: AnyNative, folder: Path
) -> None:
    config = copy.deepcopy(backbone.config)
    native.describe(config, task.labels)
    config.save_pretrained(folder)
    base = base_state(backbone, applied(backbone))
    state = {f"backbone.model.{name}": value for name, value in base.items()}
    state |= task.head.state_dict(prefix="head.")
    _save({native.names(name): value for name, value in state.items()}, folder / MODEL_FILE)
    if isinstance(native, NativeSeq2Seq):
        assert isinstance(task, SequenceToSequence)  # as its kind of labels has it
        native.write_generation(task, folder)


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    # Clones: safetensors refuses tensors that share storage, as tied embeddings do.
    clones = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(clones, path, metadata={"format": "pt"})


@torch.no_grad()
def _verify(task: TransferModule, native: AnyNative, folder: Path, adapter: Adapter | None) -> None:
    """Load the folder as a stranger would, and compare."""
    with without_load_report():  # of a pooler, say, that no task has trained
        model = native.opener(task.labels).from_pretrained(folder, use_safetensors=True)
    if adapter is not None:
        model = need_peft(name_of(adapter)).PeftModel.from_pretrained(model, folder / PEFT_FOLDER)
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    ids = torch.arange(12).reshape(2, 6).remainder(vocabulary)  # (batch, seq)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])  # (batch, seq)
    model.eval()
    with evaluating(task):
        if isinstance(native, NativeSeq2Seq):
            assert isinstance(task, SequenceToSequence)  # as its kind of labels has it
            pairs = native.compared(task, model, ids, mask)
        else:
            device = next(task.parameters()).device
            given = task({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
            pairs = native.compared(given, model(input_ids=ids, attention_mask=mask), mask)
    ours = torch.cat([own.float().cpu().flatten() for own, _ in pairs])
    theirs = torch.cat([other.float().flatten() for _, other in pairs])
    worst = (ours - theirs).abs().max().item()
    coarse = max(torch.finfo(p.dtype).eps for p in task.parameters())  # 16 bits agree in few digits
    if not worst <= max(1e-5, 8 * coarse) * max(1.0, ours.abs().max().item()):
        raise RuntimeError(
            f"the exported model gives other logits than the trained one (off by {worst:.2g})"
        )
