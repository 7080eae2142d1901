"""Trained tasks from a run folder, a model folder or a checkpoint file, without a download."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_transfer import heads, tasks
from lightning_transfer.adapters import Adapter
from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.pretrained import resolve_source
from lightning_transfer.checkpoints.adapter_files import read_adapter, stored_adapter
from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint
from lightning_transfer.checkpoints.hf.state_dict_layouts import layout_of
from lightning_transfer.checkpoints.model_folder import (
    DESCRIPTION,
    HEAD_FILE,
    MODEL_FILE,
    TARGET_FOLDER,
)
from lightning_transfer.data import Tokens
from lightning_transfer.heads.factory import HeadFactory, make_head
from lightning_transfer.tasks import TransferModule
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import FORMAT, KEY, describe_task, write_tokenizer

_NO_TASKS = ("Generation", "TransferModule")
# The only classes a checkpoint may name; anything else has to be passed in by the caller.
_TASKS = {name: getattr(tasks, name) for name in tasks.__all__ if name not in _NO_TASKS}
_HEADS = {f"{getattr(heads, n).__module__}.{n}": getattr(heads, n) for n in heads.__all__}


@dataclass(frozen=True)
class Loaded:
    """A trained task and what it takes to feed it."""

    task: TransferModule
    tokenizer: PreTrainedTokenizerBase | None
    tokens: Tokens
    position: Mapping[str, Any] | None
    target_tokenizer: PreTrainedTokenizerBase | None = None  # None: the same
    target_tokens: Tokens | None = None


@dataclass(frozen=True)
class Weights:
    """Weights by our own parameter names, with the description of the task they belong to."""

    described: Mapping[str, Any]
    state: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerBase | None
    where: str  # the file or folder that they were read from
    target_tokenizer: PreTrainedTokenizerBase | None = None  # of targets; None: the same

    @classmethod
    def of(
        cls, task: TransferModule, *, tokenizer: PreTrainedTokenizerBase | None, where: str
    ) -> "Weights":
        """Return the weights of a task that is at hand, not copied.

        Args:
            task: Any task.
            tokenizer: The one that it is fed by.
            where: What it is called in messages.
        """
        described = describe_task(task, tokenizer=None, tokens=None)
        return cls(described, task.state_dict(), tokenizer, where)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the weights of ``backbone`` or ``head`` by the part's own parameter names."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}

    def fill(self, module: nn.Module, name: str) -> None:
        """Load the weights of ``backbone`` or ``head`` into a module.

        Raises:
            ValueError: If they do not fit.
        """
        try:
            module.load_state_dict(self.part(name))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the weights in {self.where} do not fit the {name}, a {type(module).__name__}: "
                f"{reason}"
            ) from error


def load(
    path: str | Path,
    *,
    backbone: nn.Module | None = None,
    head: HeadFactory | None = None,
    adapter: Adapter | None = None,
) -> Loaded:
    """Load a trained task; it is in eval mode.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.
        backbone: Needed where the backbone is a module of your own.
        head: Called with ``(hidden_size, num_outputs)``; needed where the head is your own class,
            since a checkpoint is never allowed to say what is to be imported.
        adapter: Needed where the adapter is of your own class. It is put into the backbone, which
            must hold none yet.

    Raises:
        FileNotFoundError: If nothing that can be loaded is there.
        ValueError: If the file is no checkpoint of this package, a part has to be passed in, or one
            that was passed in does not fit the weights.
    """
    weights = read_weights(path)
    task = _build(weights, backbone, head, adapter)
    weights.fill(task.backbone, "backbone")
    weights.fill(task.head, "head")  # extra losses of a training run stay behind
    task.reads_pairs = weights.described.get("pairs")
    return Loaded(
        task.eval(),
        weights.tokenizer,
        _tokens_from(weights.described) or Tokens(),
        weights.described.get("position"),
        weights.target_tokenizer,
        _tokens_from(weights.described, "target_tokens"),
    )


def read_weights(path: str | Path) -> Weights:
    """Read weights and their description from a run folder, a model folder or a checkpoint.

    Raises:
        FileNotFoundError: If nothing that can be loaded is there.
        ValueError: If the file is no checkpoint of this package.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(_model_folder(path))
    checkpoint = read_checkpoint(path)
    if KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(
            f"{path} is a checkpoint of something else: it holds no {KEY!r} entry; pass one that "
            "this package wrote"
        )
    described = _checked(checkpoint[KEY], path)
    tokenizer, target = (_tokenizer_from(described.get(f"{k}tokenizer")) for k in ("", "target_"))
    return Weights(described, checkpoint["state_dict"], tokenizer, str(path), target)


def read_position(path: str | Path) -> Mapping[str, Any]:
    """Return where in a run the weights at ``path`` come from; empty if they do not say."""
    path = Path(path)
    if path.is_dir():
        described = _read_description(_model_folder(path))
    else:
        described = read_checkpoint(path).get(KEY) or {}
    return described.get("position") or {}


def read_labels(path: str | Path) -> Labels:
    """Return what the outputs of the weights at ``path`` are called.

    Raises:
        FileNotFoundError: If nothing that can be loaded is there.
        ValueError: If it is no checkpoint of this package.
    """
    path = Path(path)
    if path.is_dir():
        described = _read_description(_model_folder(path))
    else:
        described = _checked(read_checkpoint(path).get(KEY), path)
    return Labels.from_dict(described["labels"])


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from ``asset:<name>``, a folder or the hub.

    Raises:
        OSError: If there is none.
    """
    return AutoTokenizer.from_pretrained(resolve_source(name), trust_remote_code=trust_remote_code)


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, backbone: nn.Module, *, target: bool = False
) -> None:
    """Raise if a tokenizer gives ids that the backbone's table of embeddings has no row for.

    Args:
        tokenizer: Any.
        backbone: Any; one that shows no table is not checked.
        target: Whether the tokenizer is that of texts to be written, which a decoder reads.

    Raises:
        ValueError: If there are fewer rows than tokens.
    """
    table = getattr(backbone, "target_embeddings" if target else "token_embeddings", None)
    rows = table.num_embeddings if isinstance(table, nn.Embedding) else None
    if rows is not None and rows < len(tokenizer):
        key, side = ("target_tokenizer", "decoder") if target else ("tokenizer", "backbone")
        raise ValueError(
            f"the {key} has {len(tokenizer):,} tokens and the {side} embeddings for {rows:,}; set "
            f"{key}.vocab_size or backbone.config.vocab_size"
        )


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give every text the same ids, cutting and padding aside."""
    if one is other or other is None:
        return one is other
    if type(one) is not type(other) or one.get_vocab() != other.get_vocab():
        return False
    languages = (getattr(tokenizer, "tgt_lang", None) for tokenizer in (one, other))
    return len(set(languages)) == 1 and _rules(one) == _rules(other)


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return how a fast tokenizer works, without what its last call left in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def _model_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} is neither a finished run nor a model folder: {DESCRIPTION} is missing; pass a "
        "checkpoint file, or end the run with resume=true"
    )


def _read_folder(folder: Path) -> Weights:
    described = _read_description(folder)
    stored = _read_tensors(folder / MODEL_FILE)
    if described["native"]:
        native = layout_of(described)
        ours: Callable[[str], str] = native.ours
        head = {}
    else:
        ours = "backbone.model.{}".format
        head = _read_tensors(folder / HEAD_FILE)
    state = {ours(name): value for name, value in stored.items()}
    state |= {f"head.{name}": value for name, value in head.items()}
    if described.get("adapter"):
        state = _checked_tensors(lambda: read_adapter(folder, state, ours=ours), folder)
    target = folder / TARGET_FOLDER
    other = _local_tokenizer(target) if target.is_dir() else None
    return Weights(described, state, _local_tokenizer(folder), str(folder), other)


def _read_description(folder: Path) -> Mapping[str, Any]:
    path = folder / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); export the model again") from error
    return _checked(found, path)


def _checked(found: Any, where: Path) -> Mapping[str, Any]:
    """Return a description of a task, or say why it cannot be one."""
    if not isinstance(found, dict) or not {"task", "labels", "backbone", "head"} <= set(found):
        raise ValueError(f"{where} holds no description of a task of this package")
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{where} is of format {found.get('format')!r} and this version reads {FORMAT}; open "
            "it with the version that wrote it"
        )
    return found


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return _checked_tensors(lambda: load_file(path), path)


def _checked_tensors(read: Callable[[], dict[str, Tensor]], path: Path) -> dict[str, Tensor]:
    try:
        return read()
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); export the model again") from error


def _build(
    weights: Weights,
    backbone: nn.Module | None,
    head: HeadFactory | None,
    adapter: Adapter | None,
) -> TransferModule:
    described, where = weights.described, weights.where
    labels = Labels.from_dict(described["labels"])
    task_class = _TASKS.get(described["task"])
    if task_class is None:
        raise ValueError(f"{where} holds a {described['task']}; known: {', '.join(_TASKS)}")
    if backbone is None:
        if described["backbone"] is None:
            raise ValueError(f"the backbone of {where} is a module of your own: pass backbone=")
        backbone = Backbone.from_config(described["backbone"])
    adapter = stored_adapter(described, own=adapter, where=where)
    if adapter is not None:
        adapter.apply(backbone)
    if head is None:
        head_class, arguments = described["head"]["class"], described["head"]["args"]
        if head_class not in _HEADS:
            raise ValueError(f"the head of {where} is your own class {head_class}: pass head=")
        head = partial(_HEADS[head_class], **arguments)
    made = make_head(head, backbone, labels.num_outputs)
    return task_class(backbone, made, labels=labels, **described.get("task_args", {}))


def _tokenizer_from(files: Mapping[str, Tensor] | None) -> PreTrainedTokenizerBase | None:
    if files is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(files, Path(folder))
        return _local_tokenizer(Path(folder))


def _local_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open a tokenizer that came with weights: no network, and no code of its own."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _tokens_from(described: Mapping[str, Any], name: str = "tokens") -> Tokens | None:
    stored = described.get(name)
    return Tokens(**stored) if stored else None
