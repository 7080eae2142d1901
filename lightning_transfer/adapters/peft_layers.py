"""Layers of the peft library inside a backbone: put in, named, merged and taken out again."""

import re
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lightning_transfer.adapters.target_modules import root_of

# peft keeps several adapters side by side; ours is the only one.
_ADAPTER = "default"
_PARTS = r"\.(lora_A|lora_B|ia3_l)(?=\.|$)"
_PREFIX = "base_model.model."  # what peft's files put before every name
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def need_peft(what: str) -> ModuleType:
    """Return the peft library, which is imported only when an adapter of it is used.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"{what} needs the peft library, which is not installed: "
            "python -m pip install -c constraints.txt '.[peft]'"
        ) from error
    return peft


def inject(backbone: nn.Module, config: Any) -> None:
    """Wrap the target modules of a peft config, in place."""
    root = root_of(backbone)
    need_peft("an adapter").inject_adapter_in_model(config, root, adapter_name=_ADAPTER)
    root.__dict__.pop("peft_config", None)  # the backbone's own record is the only one


def fold(backbone: nn.Module) -> None:
    """Merge every wrapped layer into its base layer, and put that back in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    root = root_of(backbone)
    for path, layer in list(root.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer.merge(safe_merge=True)
        parent, _, name = path.rpartition(".")
        setattr(root.get_submodule(parent), name, layer.get_base_layer())


def wrapped(backbone: nn.Module) -> dict[str, bool]:
    """Return the paths of the wrapped modules, and whether each is scaled at its input (IA3)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        path: bool(getattr(layer, "is_feedforward", False))
        for path, layer in root_of(backbone).named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def base_name(name: str) -> str:
    """Return a base weight's name without the wrapper around its module."""
    return name.replace(".base_layer.", ".")


def to_peft(name: str) -> str:
    """Return what peft's files call an adapter's parameter, given its path in the base model."""
    return _PREFIX + name.replace(f".{_ADAPTER}", "")


def from_peft(name: str) -> str:
    """Return the path in the base model of a parameter in one of peft's files."""
    return re.sub(_PARTS, rf".\1.{_ADAPTER}", name.removeprefix(_PREFIX))


def wrapped_names(state: dict[str, Tensor], adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return base weights by their names inside wrappers.

    Args:
        state: Base weights by plain names.
        adapter: Adapter weights by full names; they tell which modules are wrapped.
    """
    inside = {re.split(_PARTS, name)[0] for name in adapter}

    def rename(name: str) -> str:
        path, _, leaf = name.rpartition(".")
        return f"{path}.base_layer.{leaf}" if path in inside else name

    return {rename(name): value for name, value in state.items()}
