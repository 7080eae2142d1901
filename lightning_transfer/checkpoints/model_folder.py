"""Export of trained tasks to model folders for transformers."""

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
from lightning_transfer.adapters.peft_layers import require_peft
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
    """Write a model folder, completely or not at all.

    If transformers has a class for the architecture with the same head, the folder is loaded by the
    ``from_pretrained`` of one of these classes:

    - ``AutoModelForSequenceClassification`` for classification and regression;
    - ``AutoModelForTokenClassification`` for tags;
    - ``AutoModelForMaskedLM`` for masked tokens, ``AutoModelForPreTraining`` with text pairs;
    - ``AutoModelForCausalLM`` for next tokens;
    - ``AutoModelForSeq2SeqLM`` for generated text.

    It gives the same logits, and the same generated texts; this is checked before the folder gets
    its name. Otherwise the folder contains the backbone for ``AutoModel`` and the head in a file of
    this package, and :func:`lightning_transfer.checkpoints.loading.load` loads both.

    An adapter is merged into the weights in the folder, not into those of the task. LoRA and IA3
    with ``merge=False`` are stored beside the base weights and the trained head;
    ``peft.PeftModel.from_pretrained(model, folder / "adapter")`` adds them. An adapter that cannot
    be merged is stored in a file of this package, and transformers loads the frozen backbone only.

    Args:
        task: A trained task.
        tokenizer: Tokenizer of the input texts, saved in the folder.
        folder: Folder to write. An existing one is replaced.
        tokens: Tokenization settings of the input texts; see ``data.Tokens``.
        target_tokenizer: Tokenizer of the target texts, if it is not ``tokenizer``. Saved in the
            subfolder ``target_tokenizer``.
        target_tokens: Tokenization settings of the target texts.
        position: Stage, seed, epoch and step of the weights in their run.

    Returns:
        True if transformers (with peft for an adapter that is not merged) loads the whole model.

    Raises:
        RuntimeError: If the folder, loaded with transformers, gives other logits or texts.
        ValueError: If the backbone is not a Hugging Face model.
    """
    folder = Path(folder)
    backbone = task.backbone
    # A subclass may compute something else than the model that it wraps.
    if type(backbone) is not Backbone:
        raise ValueError(
            f"{type(backbone).__name__} is not a Hugging Face model, so it has no model folder; "
            "use the checkpoint"
        )
    adapter = applied(backbone)
    if adapter is not None and adapter.mergeable and adapter.merge:
        # A copy: training may continue with the adapter of the task.
        backbone, adapter = copy.deepcopy(backbone), None
        merge(backbone)
    if isinstance(task, SequenceToSequence):
        # The generation config of the folder needs the special tokens of the target texts.
        task.set_special_tokens(target_tokenizer or tokenizer)
    layout, reason = find_hf_layout(backbone, task.head, task.labels)
    with _replacing(folder) as temp:
        if layout is None:
            _write_separate(backbone, task.head, temp)
        else:
            _write_in_layout(backbone, task, layout, temp)
        if adapter is not None:
            to_hf = _base_model_name if layout is None else layout.to_hf
            write_adapter(adapter, backbone, temp, to_hf=to_hf)
        _with_input_names(tokenizer, backbone).save_pretrained(temp)
        # A shared tokenizer is saved once; `load` reads a missing folder as "the same".
        if target_tokenizer is not None and target_tokenizer is not tokenizer:
            target_tokenizer.save_pretrained(temp / TARGET_FOLDER)
        description = describe_task(
            task, tokenizer=None, tokens=tokens, target_tokens=target_tokens
        )
        description |= {"native": layout is not None, "position": position}
        # A merged adapter is part of the weights and must not be applied again.
        description["adapter"] = description["adapter"] if adapter else None
        (temp / DESCRIPTION).write_text(json.dumps(description, indent=2))
        if layout is None:
            log.info("model folder contains backbone and head in separate files: %s", reason)
        else:
            _verify(task, layout, temp, adapter)
    return layout is not None


def _with_input_names(
    tokenizer: PreTrainedTokenizerBase, backbone: Backbone
) -> PreTrainedTokenizerBase:
    """Return a tokenizer with outputs that the model accepts: ``model(**tokenizer(text))`` works.

    Models without segment embeddings, such as DistilBERT, do not accept ``token_type_ids``.
    """
    names = [name for name in tokenizer.model_input_names if name != _SEGMENTS]
    if backbone.has_segments or names == tokenizer.model_input_names:
        return tokenizer
    # A shallow copy: the vocabulary is shared and not changed. The names are saved from
    # `init_kwargs`, and used from the attribute.
    changed = copy.copy(tokenizer)
    changed.model_input_names = names
    changed.init_kwargs = {**tokenizer.init_kwargs, "model_input_names": names}
    return changed


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, which replaces it if the block succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent))
    try:
        yield temp
        temp.chmod(0o755)  # mkdtemp gives access to the owner only
        _replace(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _replace(temp: Path, folder: Path) -> None:
    """Rename a finished folder to its final name, and delete an older folder of that name."""
    if not folder.exists():
        temp.rename(folder)
        return
    # A rename cannot replace a folder with files in it. The older folder is moved aside and
    # deleted last, so that a failure leaves one of the two complete.
    old = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent)) / "old"
    folder.rename(old)
    temp.rename(folder)
    shutil.rmtree(old.parent, ignore_errors=True)


def _base_model_name(name: str) -> str:
    return name.removeprefix("backbone.model.")


def _write_separate(backbone: Backbone, head: nn.Module, folder: Path) -> None:
    """Write the backbone for ``AutoModel``, and the head in a file of this package."""
    # The config may name the class of the pretrained checkpoint, such as a masked language model.
    config = copy.deepcopy(backbone.config)
    config.architectures = [type(backbone.model).__name__]
    config.save_pretrained(folder)
    _save(base_state(backbone, applied(backbone)), folder / MODEL_FILE)
    _save(head.state_dict(), folder / HEAD_FILE)


def _write_in_layout(
    backbone: Backbone, task: TransferModule, layout: HFLayout, folder: Path
) -> None:
    """Write backbone and head in a layout of transformers."""
    config = copy.deepcopy(backbone.config)
    layout.update_config(config, task.labels)
    config.save_pretrained(folder)
    base = base_state(backbone, applied(backbone))
    state = {f"backbone.model.{name}": value for name, value in base.items()}
    state |= task.head.state_dict(prefix="head.")
    _save({layout.to_hf(name): value for name, value in state.items()}, folder / MODEL_FILE)
    if isinstance(layout, Seq2SeqLayout):
        assert isinstance(task, SequenceToSequence)  # the only task with labels of kind `text`
        layout.write_generation_config(task, folder)


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    # Clones: safetensors refuses tensors that share storage, as tied embeddings do.
    clones = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(clones, path, metadata={"format": "pt"})


@torch.no_grad()
def _verify(task: TransferModule, layout: HFLayout, folder: Path, adapter: Adapter | None) -> None:
    """Load a model folder with transformers, and compare its outputs with those of the task.

    Raises:
        RuntimeError: If the outputs differ.
    """
    with without_load_report():  # it would list weights that no task has trained, as a pooler's
        model = layout.auto_class(task.labels).from_pretrained(folder, use_safetensors=True)
    if adapter is not None:
        model = require_peft(name_of(adapter)).PeftModel.from_pretrained(
            model, folder / PEFT_FOLDER
        )
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    # Two texts of different lengths, to compare padding and masks too; any tokens will do.
    ids = torch.arange(12).reshape(2, 6).remainder(vocabulary)  # (batch, seq)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])  # (batch, seq)
    model.eval()
    with evaluating(task):
        if isinstance(layout, Seq2SeqLayout):
            assert isinstance(task, SequenceToSequence)  # the only task with labels of kind `text`
            pairs = layout.comparable_outputs(task, model, ids, mask)
        else:
            device = next(task.parameters()).device
            outputs = task({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
            hf_outputs = model(input_ids=ids, attention_mask=mask)
            pairs = layout.comparable_outputs(outputs, hf_outputs, mask)
    expected = torch.cat([one.float().cpu().flatten() for one, _ in pairs])
    found = torch.cat([other.float().flatten() for _, other in pairs])
    worst = (expected - found).abs().max().item()
    # In 16 bits the two agree in few digits only. `not <=` instead of `>`, so that NaN fails.
    eps = max(torch.finfo(p.dtype).eps for p in task.parameters())
    if not worst <= max(1e-5, 8 * eps) * max(1.0, expected.abs().max().item()):
        raise RuntimeError(
            f"the exported model gives other logits than the trained one (off by {worst:.2g})"
        )
