"""Model folders that plain transformers opens."""

import copy
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lightning_transfer.adapters import Adapter, merge
from lightning_transfer.adapters.adapter import applied, name_of
from lightning_transfer.adapters.peft_layers import need_peft
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.pretrained import without_load_report
from lightning_transfer.checkpoints.adapter_files import (
    PEFT_FOLDER,
    base_state,
    write_adapter,
)
from lightning_transfer.checkpoints.hf.state_dict_layouts import (
    HFLayout,
    Seq2SeqLayout,
    find_hf_layout,
)
from lightning_transfer.tasks import SequenceToSequence, TransferModule
from lightning_transfer.utils.atomic_files import TEMP_PREFIX
from lightning_transfer.utils.checkpoint_format import describe_task
from lightning_transfer.utils.modes import evaluating

log = logging.getLogger(__name__)

DESCRIPTION = "lightning_transfer.json"
MODEL_FILE = "model.safetensors"
HEAD_FILE = "head.safetensors"
TARGET_FOLDER = "target_tokenizer"
_SEGMENTS = "token_type_ids"


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
    :func:`lightning_transfer.checkpoints.loading.load` opens both.

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
    native, reason = find_hf_layout(backbone, task.head, task.labels)
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


def _write_native(backbone: Backbone, task: TransferModule, native: HFLayout, folder: Path) -> None:
    config = copy.deepcopy(backbone.config)
    native.describe(config, task.labels)
    config.save_pretrained(folder)
    base = base_state(backbone, applied(backbone))
    state = {f"backbone.model.{name}": value for name, value in base.items()}
    state |= task.head.state_dict(prefix="head.")
    _save({native.names(name): value for name, value in state.items()}, folder / MODEL_FILE)
    if isinstance(native, Seq2SeqLayout):
        assert isinstance(task, SequenceToSequence)  # as its kind of labels has it
        native.write_generation(task, folder)


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    # Clones: safetensors refuses tensors that share storage, as tied embeddings do.
    clones = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(clones, path, metadata={"format": "pt"})


@torch.no_grad()
def _verify(task: TransferModule, native: HFLayout, folder: Path, adapter: Adapter | None) -> None:
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
        if isinstance(native, Seq2SeqLayout):
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
