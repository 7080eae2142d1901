"""Trained tasks from a run folder, a model folder or a checkpoint file, without a download."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_transfer import heads, tasks
from lightning_transfer.backbone import Backbone, resolve_source
from lightning_transfer.checkpoint import KEY, read_checkpoint, write_tokenizer
from lightning_transfer.data import Tokens
from lightning_transfer.export import DESCRIPTION, HEAD_FILE, NATIVE
from lightning_transfer.labels import Labels
from lightning_transfer.tasks import TransferModule

HeadFactory = Callable[[int, int], nn.Module]
# The only classes a checkpoint may name; anything else has to be passed in by the caller.
_TASKS = {name: getattr(tasks, name) for name in tasks.__all__ if name != "TransferModule"}
_HEADS = {f"{getattr(heads, n).__module__}.{n}": getattr(heads, n) for n in heads.__all__}


@dataclass(frozen=True)
class Loaded:
    """A trained task and what it takes to feed it."""

    task: TransferModule
    tokenizer: PreTrainedTokenizerBase | None
    tokens: Tokens
    position: Mapping[str, Any] | None


@dataclass(frozen=True)
class Weights:
    """Weights by our own parameter names, with the description of the task they belong to."""

    described: Mapping[str, Any]
    state: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerBase | None


def load(
    path: str | Path, *, backbone: nn.Module | None = None, head: HeadFactory | None = None
) -> Loaded:
    """Load a trained task; it is in eval mode.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.
        backbone: Needed where the backbone is a module of your own.
        head: Called with ``(hidden_size, num_outputs)``; needed where the head is your own class,
            since a checkpoint is never allowed to say what is to be imported.

    Raises:
        FileNotFoundError: If nothing that can be loaded is there.
        ValueError: If the file is no checkpoint of this package, or a part has to be passed in.
    """
    weights = read_weights(path)
    task = _build(weights.described, backbone, head, str(path))
    _fill(task, weights.state)
    return Loaded(
        task.eval(),
        weights.tokenizer,
        _tokens_from(weights.described),
        weights.described.get("position"),
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
    described = checkpoint.get(KEY)
    if not isinstance(described, dict):
        raise ValueError(
            f"{path} is a Lightning checkpoint of something else: it holds no {KEY!r} entry"
        )
    tokenizer = _tokenizer_from(described.get("tokenizer"))
    return Weights(described, checkpoint["state_dict"], tokenizer)


def read_position(path: str | Path) -> Mapping[str, Any]:
    """Return where in a run the weights at ``path`` come from; empty if they do not say."""
    path = Path(path)
    if path.is_dir():
        described = json.loads((_model_folder(path) / DESCRIPTION).read_text())
    else:
        described = read_checkpoint(path).get(KEY) or {}
    return described.get("position") or {}


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from ``asset:<name>``, a folder or the hub.

    Raises:
        OSError: If there is none.
    """
    return AutoTokenizer.from_pretrained(resolve_source(name), trust_remote_code=trust_remote_code)


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give every text the same ids."""
    if one is other or other is None:
        return one is other
    if type(one) is not type(other) or one.get_vocab() != other.get_vocab():
        return False
    backends = [getattr(t, "backend_tokenizer", None) for t in (one, other)]
    return None in backends or backends[0].to_str() == backends[1].to_str()  # type: ignore[union-attr]


def _model_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} is neither a finished run nor a model folder: {DESCRIPTION} is missing; pass a "
        "checkpoint file, or end the run with resume=true"
    )


def _read_folder(folder: Path) -> Weights:
    described = json.loads((folder / DESCRIPTION).read_text())
    stored = load_file(folder / "model.safetensors")
    if described["native"]:
        native = NATIVE[described["backbone"]["model_type"]]
        state = {native.ours(name): value for name, value in stored.items()}
    else:
        state = {f"backbone.model.{name}": value for name, value in stored.items()}
        state |= {f"head.{name}": value for name, value in load_file(folder / HEAD_FILE).items()}
    return Weights(described, state, AutoTokenizer.from_pretrained(folder))


def _build(
    described: Mapping[str, Any],
    backbone: nn.Module | None,
    head: HeadFactory | None,
    where: str,
) -> TransferModule:
    labels = Labels.from_dict(described["labels"])
    task_class = _TASKS.get(described["task"])
    if task_class is None:
        raise ValueError(f"{where} holds a {described['task']}; known: {', '.join(_TASKS)}")
    if backbone is None:
        if described["backbone"] is None:
            raise ValueError(f"the backbone of {where} is a module of your own: pass backbone=")
        backbone = Backbone.from_config(described["backbone"])
    if head is None:
        head_class, arguments = described["head"]["class"], described["head"]["args"]
        if head_class not in _HEADS:
            raise ValueError(f"the head of {where} is your own class {head_class}: pass head=")
        built = _HEADS[head_class](backbone.hidden_size, labels.num_outputs, **arguments)
    else:
        built = head(backbone.hidden_size, labels.num_outputs)  # type: ignore[arg-type]
    return task_class(backbone, built, labels=labels)


def _fill(task: TransferModule, state: Mapping[str, Tensor]) -> None:
    """Load backbone and head; extra losses of a training run stay behind."""
    for name in ("backbone", "head"):
        part = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        getattr(task, name).load_state_dict(part)


def _tokenizer_from(files: Mapping[str, Tensor] | None) -> PreTrainedTokenizerBase | None:
    if files is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(files, Path(folder))
        return AutoTokenizer.from_pretrained(folder)


def _tokens_from(described: Mapping[str, Any]) -> Tokens:
    stored = described.get("tokens")
    return Tokens(**stored) if stored else Tokens()
