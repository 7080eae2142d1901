"""Adapters in descriptions and model folders: rebuilt, written and read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_transfer import adapters
from lightning_transfer.adapters import Adapter, peft_layers
from lightning_transfer.adapters.adapter import name_of
from lightning_transfer.adapters.target_modules import root_of
from lightning_transfer.utils.checkpoint_format import class_path

# The only classes a checkpoint may name; any other has to be passed in by the caller.
_ADAPTERS = {
    f"{getattr(adapters, n).__module__}.{n}": getattr(adapters, n)
    for n in adapters.__all__
    if n not in ("Adapter", "merge")
}
PEFT_FOLDER = "adapter"  # LoRA and IA3, as peft reads them
ADAPTER_FILE = "adapter.safetensors"  # the others, by our own names


@runtime_checkable
class InPeft(Protocol):
    """An adapter that the peft library knows."""

    def peft_config(self, targets: Mapping[str, bool]) -> Any:
        """Return peft's form of it."""
        ...


def stored_adapter(
    described: Mapping[str, Any], *, own: Adapter | None, where: str
) -> Adapter | None:
    """Return the adapter that the weights of a described task belong to.

    Args:
        described: What a checkpoint says of its task.
        own: An adapter of the caller's own class, for weights of that class.
        where: File or folder of the weights, for messages.

    Raises:
        ValueError: If the adapter is of a class that is not ours and was not passed in, or its
            values are no longer understood.
    """
    found = described.get("adapter")
    if found is None:
        return None
    known = _ADAPTERS.get(found["class"])
    if known is None:
        if own is None or class_path(own) != found["class"]:
            raise ValueError(
                f"the adapter of {where} is your own class {found['class']}: pass adapter="
            )
        return own
    try:
        return known(**found["args"])
    except TypeError as error:
        raise ValueError(
            f"{where} holds a {known.__name__} that this version does not understand: {error}"
        ) from error


def check_adapter_transfer(old: Adapter | None, new: Adapter | None) -> None:
    """Raise if a stage with adapter ``new`` cannot go on from weights with adapter ``old``.

    One that merges is merged, whatever comes next. Any other lives on in the next stage only if
    that has the very same, which then goes on training.

    Raises:
        ValueError: If the weights could only be dropped.
    """
    if old is None or old.mergeable or old == new:
        return
    ask = "no adapter" if new is None else f"{name_of(new)} {new.args}"
    raise ValueError(
        f"the stage before trained {name_of(old)} {old.args}, which cannot be merged into the base "
        f"weights, and this stage asks for {ask}: give both stages the same finetuning.adapter, or "
        "use lora or ia3 in the stage before"
    )


def base_state(backbone: nn.Module, adapter: Adapter | None) -> dict[str, Tensor]:
    """Return the base weights of a backbone by plain names, from its Hugging Face model on."""
    state: dict[str, Tensor] = root_of(backbone).state_dict()
    if adapter is None:
        return state
    return {adapter.base_name(k): v for k, v in state.items() if not adapter.owns(k)}


def write_adapter(
    adapter: Adapter, backbone: nn.Module, folder: Path, *, rename: Callable[[str], str]
) -> None:
    """Write the weights of an adapter beside the base weights.

    Args:
        adapter: What the backbone holds.
        backbone: A backbone with a Hugging Face model.
        folder: The model folder.
        rename: Our name of a parameter (``backbone.model.…``) to that in the folder's base model.
    """
    own = {
        f"backbone.model.{name}": value.detach().cpu().contiguous().clone()
        for name, value in root_of(backbone).state_dict().items()
        if adapter.owns(name)
    }
    if not isinstance(adapter, InPeft):
        save_file(own, folder / ADAPTER_FILE, metadata={"format": "pt"})
        return
    below = folder / PEFT_FOLDER
    below.mkdir()
    state = {peft_layers.to_peft(rename(name)): value for name, value in own.items()}
    save_file(state, below / peft_layers.WEIGHTS_FILE, metadata={"format": "pt"})
    targets = peft_layers.wrapped(backbone)
    config = adapter.peft_config({rename(f"backbone.model.{k}"): v for k, v in targets.items()})
    config.inference_mode = True  # weights to be used, not to be trained
    config.save_pretrained(below)


def read_adapter(
    folder: Path, state: dict[str, Tensor], *, ours: Callable[[str], str]
) -> dict[str, Tensor]:
    """Return the weights of a model folder together with those of its adapter.

    Args:
        folder: Holds an adapter in one of the two forms.
        state: Its base weights by our plain names.
        ours: Name of a parameter in the folder's base model to our name.
    """
    if (folder / ADAPTER_FILE).is_file():
        return state | load_file(folder / ADAPTER_FILE)
    stored = load_file(folder / PEFT_FOLDER / peft_layers.WEIGHTS_FILE)
    adapter = {ours(peft_layers.from_peft(name)): value for name, value in stored.items()}
    return peft_layers.wrapped_names(state, adapter) | adapter
