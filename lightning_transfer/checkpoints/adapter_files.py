"""Adapters in checkpoints and model folders: rebuilding, writing and reading."""

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

# A checkpoint may come from elsewhere, so it never causes an import: only these classes are
# rebuilt. The caller passes an adapter of any other class.
_ADAPTERS = {
    f"{getattr(adapters, n).__module__}.{n}": getattr(adapters, n)
    for n in adapters.__all__
    if n not in ("Adapter", "merge")
}
PEFT_FOLDER = "adapter"
"""Folder of LoRA and IA3 weights in a model folder, in the format of peft."""
ADAPTER_FILE = "adapter.safetensors"
"""File of all other adapters in a model folder, with the parameter names of this package."""


@runtime_checkable
class InPeft(Protocol):
    """Adapter with a counterpart in the peft library."""

    def peft_config(self, targets: Mapping[str, bool]) -> Any:
        """Return the adapter as a config of peft.

        Args:
            targets: Path of each adapted module, to True if its input is scaled (IA3).
        """
        ...


def stored_adapter(
    description: Mapping[str, Any], *, own: Adapter | None, where: str
) -> Adapter | None:
    """Return the adapter of the weights in a checkpoint, or None without one.

    Args:
        description: Description of the task in the checkpoint.
        own: Adapter to return if the weights have an adapter of its class and this class is not of
            this package.
        where: File or folder of the weights, for messages.

    Raises:
        ValueError: If the adapter is of an unknown class and ``own`` is of another one, or if its
            stored arguments are unknown to this version.
    """
    found = description.get("adapter")
    if found is None:
        return None
    known = _ADAPTERS.get(found["class"])
    if known is None:
        if own is None or class_path(own) != found["class"]:
            name = found["class"].rpartition(".")[2]
            raise ValueError(
                f"the adapter of {where} is of your own class {found['class']}; pass it: "
                f"load(path, adapter={name}(...))"
            )
        return own
    # A later version of this package may have added or removed arguments.
    try:
        return known(**found["args"])
    except TypeError as error:
        raise ValueError(
            f"{where} contains a {known.__name__} with arguments unknown to this version: {error}"
        ) from error


def check_adapter_transfer(old: Adapter | None, new: Adapter | None) -> None:
    """Raise if a stage cannot start from weights with another adapter.

    A mergeable adapter is merged into the weights in any case. Any other adapter requires an equal
    one in the next stage, which continues its training.

    Args:
        old: Adapter of the weights.
        new: Adapter of the stage.

    Raises:
        ValueError: If the old adapter can be neither merged nor continued.
    """
    if old is None or old.mergeable or old == new:
        return
    current = "no adapter" if new is None else f"{name_of(new)} {new.args}"
    raise ValueError(
        f"the previous stage trained {name_of(old)} {old.args}, which cannot be merged into the "
        f"base weights, and this stage has {current}; give both stages the same "
        "finetuning.adapter, or use finetuning=lora or finetuning=ia3 in the previous stage"
    )


def base_state(backbone: nn.Module, adapter: Adapter | None) -> dict[str, Tensor]:
    """Return the base weights of a backbone by their plain names, without adapter layers.

    Args:
        backbone: Backbone with a Hugging Face model.
        adapter: Adapter of the backbone, or None.

    Returns:
        Parameter name below the Hugging Face model, to the weights.
    """
    state: dict[str, Tensor] = root_of(backbone).state_dict()
    if adapter is None:
        return state
    return {adapter.base_name(k): v for k, v in state.items() if not adapter.owns(k)}


def write_adapter(
    adapter: Adapter, backbone: nn.Module, folder: Path, *, to_hf: Callable[[str], str]
) -> None:
    """Write the weights of an adapter into a model folder, beside the base weights.

    Args:
        adapter: Adapter of the backbone.
        backbone: Backbone with a Hugging Face model.
        folder: The model folder.
        to_hf: Converts a parameter name of this package (``backbone.model.…``) to the name in the
            folder's base model.
    """
    # Clones, because safetensors refuses tensors with shared or non-contiguous storage.
    own = {
        f"backbone.model.{name}": value.detach().cpu().contiguous().clone()
        for name, value in root_of(backbone).state_dict().items()
        if adapter.owns(name)
    }
    if not isinstance(adapter, InPeft):
        save_file(own, folder / ADAPTER_FILE, metadata={"format": "pt"})
        return
    peft_folder = folder / PEFT_FOLDER
    peft_folder.mkdir()
    state = {peft_layers.to_peft(to_hf(name)): value for name, value in own.items()}
    save_file(state, peft_folder / peft_layers.WEIGHTS_FILE, metadata={"format": "pt"})
    targets = peft_layers.wrapped(backbone)
    config = adapter.peft_config({to_hf(f"backbone.model.{k}"): v for k, v in targets.items()})
    # As peft itself saves it: loading the folder gives frozen weights for inference.
    config.inference_mode = True
    config.save_pretrained(peft_folder)


def read_adapter(
    folder: Path, state: dict[str, Tensor], *, from_hf: Callable[[str], str]
) -> dict[str, Tensor]:
    """Return the weights of a model folder together with those of its adapter.

    Args:
        folder: Model folder with an adapter in one of the two formats.
        state: Base weights by the parameter names of this package, without the adapter.
        from_hf: Converts a parameter name in the folder's base model to that of this package.
    """
    if (folder / ADAPTER_FILE).is_file():
        return state | load_file(folder / ADAPTER_FILE)
    stored = load_file(folder / PEFT_FOLDER / peft_layers.WEIGHTS_FILE)
    adapter = {from_hf(peft_layers.from_peft(name)): value for name, value in stored.items()}
    # peft's layers wrap the adapted ones, so the base weights below them have longer names.
    return peft_layers.wrapped_names(state, adapter) | adapter
