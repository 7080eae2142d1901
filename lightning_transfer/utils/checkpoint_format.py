"""Description of a task in a checkpoint, as plain values and tensors.

A checkpoint is read with ``weights_only=True``, so it contains no pickled objects. A task is
rebuilt from this description.
"""

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
"""Key of the description in a checkpoint."""

FORMAT = 1
"""Version of the description."""


class Describable(Protocol):
    """A task with the attributes described in a checkpoint."""

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
    """Describe a task in plain values and tensors, for rebuilding it.

    Args:
        task: Task with ``backbone``, ``head`` and ``labels``. Its ``args``, and those of its head,
            are the constructor's arguments and must be plain values.
        tokenizer: Tokenizer of the input texts; stored as its files, one uint8 tensor each.
        tokens: Tokenization settings, a dataclass such as ``data.Tokens``.
        target_tokenizer: Tokenizer of the target texts, if it is not ``tokenizer``.
        target_tokens: Tokenization settings of the target texts.

    Returns:
        The description, stored in a checkpoint at :data:`KEY`. ``None`` for absent parts.
    """
    # A shared tokenizer is stored once.
    if target_tokenizer is tokenizer:
        target_tokenizer = None
    backbone, head = task.backbone, task.head
    # The name is adapters.adapter.APPLIED; utils may not import from adapters.
    adapter = getattr(backbone, "applied_adapter", None)
    return {
        "format": FORMAT,
        "task": type(task).__name__,
        "task_args": dict(getattr(task, "args", {})),
        "labels": task.labels.to_dict(),
        # Only a plain Backbone has a config here. Any other class, subclasses included, may
        # compute something else, so the caller has to pass it when the task is loaded.
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
    """Convert a model config to plain JSON values."""
    # All values (use_diff=False), as defaults may change between versions of transformers.
    return json.loads(config.to_json_string(use_diff=False))


def config_of(values: Mapping[str, Any]) -> PretrainedConfig:
    """Rebuild a model config from the result of :func:`config_to_dict`.

    Raises:
        ValueError: If ``model_type`` is missing or unknown to transformers.
    """
    others = {name: value for name, value in values.items() if name != "model_type"}
    return AutoConfig.for_model(str(values.get("model_type")), **others)


def class_path(obj: Any) -> str:
    """Return the import path of an object's class, such as ``torch.nn.modules.linear.Linear``."""
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Return the files of a tokenizer: file name to content, uint8 ``(bytes,)``."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
            if path.is_file() and path.stat().st_size  # frombuffer refuses empty buffers
        }


def write_tokenizer(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files of :func:`tokenizer_files` into ``folder``.

    Raises:
        ValueError: If a file name contains a path.
    """
    for name, content in files.items():
        # A checkpoint from elsewhere must not write outside the folder (../../.bashrc).
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(
                f"the checkpoint contains a tokenizer file with a path: {name!r}; only plain file "
                "names are allowed"
            )
        (folder / name).write_bytes(content.numpy().tobytes())
