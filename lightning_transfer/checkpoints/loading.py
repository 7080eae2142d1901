"""Loading of trained tasks from a run folder, a model folder or a checkpoint, without a network."""

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

# Names in `tasks.__all__` that are settings or a base class.
_NO_TASKS = ("Generation", "TransferModule")
# A checkpoint may come from elsewhere, so it never causes an import: only these classes are
# rebuilt. The caller passes an object of any other class.
_TASKS = {name: getattr(tasks, name) for name in tasks.__all__ if name not in _NO_TASKS}
_HEADS = {f"{getattr(heads, n).__module__}.{n}": getattr(heads, n) for n in heads.__all__}


@dataclass(frozen=True)
class Loaded:
    """Trained task with its tokenizers and tokenization settings.

    Args:
        task: The task, in eval mode.
        tokenizer: Tokenizer of the input texts; None if the checkpoint has none.
        tokens: Tokenization settings of the input texts.
        position: Stage, seed, epoch and step of the weights in their run, or None.
        target_tokenizer: Tokenizer of the target texts; None: the same as ``tokenizer``.
        target_tokens: Tokenization settings of the target texts.
    """

    task: TransferModule
    tokenizer: PreTrainedTokenizerBase | None
    tokens: Tokens
    position: Mapping[str, Any] | None
    target_tokenizer: PreTrainedTokenizerBase | None = None
    target_tokens: Tokens | None = None


@dataclass(frozen=True)
class Weights:
    """Weights of a task with its description.

    Args:
        description: Description of the task; see
            :func:`lightning_transfer.utils.checkpoint_format.describe_task`.
        state: Weights by the parameter names of this package.
        tokenizer: Tokenizer of the input texts, if known.
        where: File or folder of the weights, for messages.
        target_tokenizer: Tokenizer of the target texts; None: the same as ``tokenizer``.
    """

    description: Mapping[str, Any]
    state: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerBase | None
    where: str
    target_tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def of(
        cls, task: TransferModule, *, tokenizer: PreTrainedTokenizerBase | None, where: str
    ) -> "Weights":
        """Return the weights of a task in memory, without a copy.

        Args:
            task: Any task.
            tokenizer: Tokenizer of its input texts.
            where: Name of the weights in messages.
        """
        description = describe_task(task, tokenizer=None, tokens=None)
        return cls(description, task.state_dict(), tokenizer, where)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the weights of ``backbone`` or ``head``, by the names below that module."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}

    def fill(self, module: nn.Module, name: str) -> None:
        """Load the weights of ``backbone`` or ``head`` into a module.

        Raises:
            ValueError: If names or shapes differ.
        """
        try:
            module.load_state_dict(self.part(name))
        except RuntimeError as error:
            reason = " ".join(str(error).split())  # torch's message has one line per parameter
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
    """Load a trained task, in eval mode.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.
        backbone: Only needed for a backbone of your own class.
        head: Called with ``(hidden_size, num_outputs)``; only needed for a head of your own class,
            because nothing is imported by a name in a checkpoint.
        adapter: Only needed for an adapter of your own class. It is applied to the backbone, which
            must have none yet.

    Raises:
        FileNotFoundError: If there is no run, model folder or checkpoint at ``path``.
        ValueError: If the file is not a checkpoint of this package, if it has a backbone, head or
            adapter of your own class that was not passed, or if a passed one does not fit the
            weights.
    """
    weights = read_weights(path)
    task = _build(weights, backbone, head, adapter)
    # Not `task.load_state_dict`: the state may contain parameters of objectives, which are not
    # needed after training.
    weights.fill(task.backbone, "backbone")
    weights.fill(task.head, "head")
    task.reads_pairs = weights.description.get("pairs")
    return Loaded(
        task.eval(),
        weights.tokenizer,
        _tokens_from(weights.description) or Tokens(),
        weights.description.get("position"),
        weights.target_tokenizer,
        _tokens_from(weights.description, "target_tokens"),
    )


def read_weights(path: str | Path) -> Weights:
    """Read weights and their description from a run folder, a model folder or a checkpoint.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.

    Raises:
        FileNotFoundError: If there is no run, model folder or checkpoint at ``path``.
        ValueError: If the file is not a checkpoint of this package.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(_model_folder(path))
    checkpoint = read_checkpoint(path)
    # Any other Lightning checkpoint has weights too, but no description to build a model from.
    if KEY not in checkpoint or "state_dict" not in checkpoint:
        missing = KEY if KEY not in checkpoint else "state_dict"
        raise ValueError(
            f"{path} is not a checkpoint of this package: it has no {missing!r} entry; pass one "
            "written by this package"
        )
    description = _checked(checkpoint[KEY], path)
    tokenizer, target = (
        _tokenizer_from(description.get(f"{prefix}tokenizer")) for prefix in ("", "target_")
    )
    return Weights(description, checkpoint["state_dict"], tokenizer, str(path), target)


def read_position(path: str | Path) -> Mapping[str, Any]:
    """Return the position of weights in their run (stage, seed, epoch, step); empty if unknown.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.
    """
    path = Path(path)
    if path.is_dir():
        description = _read_description(_model_folder(path))
    else:
        description = read_checkpoint(path).get(KEY) or {}
    return description.get("position") or {}


def read_labels(path: str | Path) -> Labels:
    """Return the labels of weights, without loading the weights of a model folder.

    Args:
        path: A run folder, its ``model`` folder, or a checkpoint file.

    Raises:
        FileNotFoundError: If there is no run, model folder or checkpoint at ``path``.
        ValueError: If the file is not a checkpoint of this package.
    """
    path = Path(path)
    if path.is_dir():
        description = _read_description(_model_folder(path))
    else:
        description = _checked(read_checkpoint(path).get(KEY), path)
    return Labels.from_dict(description["labels"])


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        name: ``asset:<name>``, a folder, or a model id of the Hugging Face hub.
        trust_remote_code: True to run code from the hub.

    Raises:
        OSError: If there is no such tokenizer.
    """
    return AutoTokenizer.from_pretrained(resolve_source(name), trust_remote_code=trust_remote_code)


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, backbone: nn.Module, *, target: bool = False
) -> None:
    """Raise if a tokenizer has more tokens than a backbone has token embeddings.

    Args:
        tokenizer: Any tokenizer.
        backbone: Any backbone. Without a known table of token embeddings it is not checked.
        target: True for the tokenizer of the target texts, which are read by the decoder.

    Raises:
        ValueError: If there are fewer embeddings than tokens.
    """
    table = getattr(backbone, "target_embeddings" if target else "token_embeddings", None)
    rows = table.num_embeddings if isinstance(table, nn.Embedding) else None
    # More rows than tokens are fine: some pretrained tables are padded.
    if rows is not None and rows < len(tokenizer):
        key, owner = ("target_tokenizer", "decoder") if target else ("tokenizer", "backbone")
        raise ValueError(
            f"the {key} has {len(tokenizer):,} tokens, the {owner} has embeddings for {rows:,}; "
            f"set {key}.vocab_size={rows} or backbone.config.vocab_size={len(tokenizer)}"
        )


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase | None) -> bool:
    """Return True if two tokenizers give the same ids for every text.

    Truncation and padding are not compared: each call may set them.
    """
    if one is other or other is None:
        return one is other
    if type(one) is not type(other) or one.get_vocab() != other.get_vocab():
        return False
    # Translation models have one vocabulary and a token of the target language.
    languages = (getattr(tokenizer, "tgt_lang", None) for tokenizer in (one, other))
    return len(set(languages)) == 1 and _rules(one) == _rules(other)


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the configuration of a fast tokenizer, without the settings of its last call."""
    # A slow tokenizer has no backend; its class and vocabulary are all there is to compare.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}


def _model_folder(path: Path) -> Path:
    # A run folder contains its model folder as `model`.
    for folder in (path, path / "model"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} is neither a finished run nor a model folder: {DESCRIPTION} is missing; pass a "
        "checkpoint file, or finish the run with resume=true"
    )


def _read_folder(folder: Path) -> Weights:
    description = _read_description(folder)
    stored = _read_tensors(folder / MODEL_FILE)
    if description["native"]:  # written in a layout of transformers, with the head
        from_hf: Callable[[str], str] = layout_of(description).from_hf
        head = {}
    else:
        from_hf = "backbone.model.{}".format
        head = _read_tensors(folder / HEAD_FILE)
    state = {from_hf(name): value for name, value in stored.items()}
    state |= {f"head.{name}": value for name, value in head.items()}
    if description.get("adapter"):
        state = _checked_tensors(lambda: read_adapter(folder, state, from_hf=from_hf), folder)
    target_folder = folder / TARGET_FOLDER
    target = _local_tokenizer(target_folder) if target_folder.is_dir() else None
    return Weights(description, state, _local_tokenizer(folder), str(folder), target)


def _read_description(folder: Path) -> Mapping[str, Any]:
    path = folder / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); export the model again") from error
    return _checked(found, path)


def _checked(found: Any, where: Path) -> Mapping[str, Any]:
    """Return the description of a task.

    Raises:
        ValueError: If it is not a description, or has the format of another version.
    """
    if not isinstance(found, dict) or not {"task", "labels", "backbone", "head"} <= set(found):
        raise ValueError(
            f"{where} contains no description of a task; pass a file written by this package"
        )
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{where} has format {found.get('format')!r}, this version reads format {FORMAT}; use "
            "the version of lightning_transfer that wrote it"
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
    """Build an untrained task from a description and from the passed parts."""
    description, where = weights.description, weights.where
    labels = Labels.from_dict(description["labels"])
    task_class = _TASKS.get(description["task"])
    if task_class is None:
        raise ValueError(
            f"unknown task {description['task']!r} in {where}; tasks: {', '.join(_TASKS)}"
        )
    if backbone is None:
        if description["backbone"] is None:
            raise ValueError(
                f"the backbone of {where} is of your own class; pass it: load(path, backbone=...)"
            )
        backbone = Backbone.from_config(description["backbone"])
    adapter = stored_adapter(description, own=adapter, where=where)
    if adapter is not None:
        adapter.apply(backbone)  # before the weights, which have the names of an adapted backbone
    if head is None:
        head_class, arguments = description["head"]["class"], description["head"]["args"]
        if head_class not in _HEADS:
            name = head_class.rpartition(".")[2]
            raise ValueError(
                f"the head of {where} is of your own class {head_class}; pass it: "
                f"load(path, head={name})"
            )
        head = partial(_HEADS[head_class], **arguments)
    built = make_head(head, backbone, labels.num_outputs)
    return task_class(backbone, built, labels=labels, **description.get("task_args", {}))


def _tokenizer_from(files: Mapping[str, Tensor] | None) -> PreTrainedTokenizerBase | None:
    if files is None:
        return None
    # transformers reads tokenizers from a folder only.
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(files, Path(folder))
        return _local_tokenizer(Path(folder))


def _local_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint, without a network and without running its code."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _tokens_from(description: Mapping[str, Any], name: str = "tokens") -> Tokens | None:
    stored = description.get(name)
    return Tokens(**stored) if stored else None
