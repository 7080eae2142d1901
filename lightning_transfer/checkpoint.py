"""Checkpoints: written whole or not at all, self-contained, read without running anything."""

import dataclasses
import errno
import json
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from lightning_transfer.backbone import Backbone
from lightning_transfer.files import atomic_path
from lightning_transfer.labels import Labels

KEY = "lightning_transfer"
FORMAT = 1
# What torch.load raises, by experience, on files that are cut off, altered or something else.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer, without half-written files.

    The default writer goes through the system's temp folder and moves the file, which is no
    single step when that folder lies on another file system: a kill leaves a corrupt checkpoint.
    Here the temp file lies beside the target, is synced, and takes its place in one rename.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            TypeError: If storage options are given; this writer knows none.
            OSError: If the disk is full or the folder cannot be written.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options are not supported, got {storage_options!r}")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temp:
            torch.save(checkpoint, temp)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read ``path``; nothing in it is run, whatever ``weights_only`` says."""
        return read_checkpoint(path, map_location=map_location)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, or holds objects that would have to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; pass a run folder or a .ckpt file")
    try:
        found = torch.load(path, map_location=map_location, weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's fault, not the file's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch would advise to run what is in it
            reason = "it is not torch's, or holds objects that would have to be run"
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason}); "
            "pass one written by this package"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not a checkpoint: it holds a {type(found).__name__}; pass one written by "
            "this package"
        )
    return found


class Describable(Protocol):
    """What a checkpoint describes of a task."""

    backbone: nn.Module
    head: nn.Module
    labels: Labels


def describe_task(
    task: Describable,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    tokens: Any | None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokens: Any | None = None,
) -> dict[str, Any]:
    """Describe a task in plain values and tensors, enough to build it again.

    Only a plain :class:`Backbone` is described by its config; any other class, a subclass
    included, may compute something else and has to be passed in when the task is loaded.

    Args:
        task: Has ``backbone``, ``head`` and ``labels``.
        tokenizer: Stored as its files, one uint8 tensor each.
        tokens: A dataclass that says how texts were cut, such as ``data.Tokens``.
        target_tokenizer: Of texts that are to be written, where it is another one.
        target_tokens: How those were cut.
    """
    if target_tokenizer is tokenizer:
        target_tokenizer = None
    backbone, head = task.backbone, task.head
    adapter = getattr(backbone, "applied_adapter", None)  # as adapters.base.APPLIED
    return {
        "format": FORMAT,
        "task": type(task).__name__,
        "task_args": dict(getattr(task, "args", {})),
        "labels": task.labels.to_dict(),
        "backbone": config_to_dict(backbone.config) if type(backbone) is Backbone else None,
        "adapter": adapter and {"class": class_path(adapter), "args": adapter.args},
        "head": {"class": class_path(head), "args": dict(getattr(head, "args", {}))},
        "tokenizer": None if tokenizer is None else tokenizer_files(tokenizer),
        "tokens": None if tokens is None else dataclasses.asdict(tokens),
        "pairs": getattr(task, "reads_pairs", None),
        "target_tokenizer": None if target_tokenizer is None else tokenizer_files(target_tokenizer),
        "target_tokens": None if target_tokens is None else dataclasses.asdict(target_tokens),
    }


def config_to_dict(config: PretrainedConfig) -> dict[str, Any]:
    """Return a model config as the plain values of its JSON form."""
    return json.loads(config.to_json_string(use_diff=False))


def config_of(values: Mapping[str, Any]) -> PretrainedConfig:
    """Return a model config from the plain values of :func:`config_to_dict`.

    Raises:
        ValueError: If they name no known model type.
    """
    others = {name: value for name, value in values.items() if name != "model_type"}
    return AutoConfig.for_model(str(values.get("model_type")), **others)


def class_path(obj: Any) -> str:
    """Return the import path of an object's class."""
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Return a tokenizer's files as uint8 tensors by file name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
            if path.is_file() and path.stat().st_size
        }


def write_tokenizer(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files of :func:`tokenizer_files` below ``folder``.

    Raises:
        ValueError: If a name would leave the folder.
    """
    for name, content in files.items():
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"the checkpoint holds a tokenizer file with a path: {name!r}")
        (folder / name).write_bytes(content.numpy().tobytes())
