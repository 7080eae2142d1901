"""Description of a task inside a checkpoint: plain values and tensors."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from lightning_transfer.utils import Labels

KEY = "lightning_transfer"
FORMAT = 1


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

    Only a plain :class:`~lightning_transfer.backbones.Backbone` is described by its config; any other class, a subclass
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
        "backbone": getattr(backbone, "stored_config", None),
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
