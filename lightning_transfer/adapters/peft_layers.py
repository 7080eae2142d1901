"""Layers of the peft library inside a backbone: insertion, parameter names and merging."""

import re
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lightning_transfer.adapters.target_modules import root_of

# peft supports several adapters in one model, each with a name; a backbone here has only one.
_ADAPTER = "default"
_PARTS = r"\.(lora_A|lora_B|ia3_l)(?=\.|$)"
_PREFIX = "base_model.model."  # of every name in peft's files
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def require_peft(what: str) -> ModuleType:
    """Import and return the peft library.

    Args:
        what: Name of the feature, for the message.

    Raises:
        ImportError: If peft is not installed.
    """
    # Not at the top of the module: peft is an optional dependency.
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
    require_peft("an adapter").inject_adapter_in_model(config, root, adapter_name=_ADAPTER)
    # The adapter is recorded in the backbone itself, see `adapter.APPLIED`.
    root.__dict__.pop("peft_config", None)


def fold(backbone: nn.Module) -> None:
    """Merge every wrapped layer into its base layer, and restore the base layer in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    root = root_of(backbone)
    # A list, because modules are replaced during the iteration.
    for path, layer in list(root.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer.merge(safe_merge=True)
        parent, _, name = path.rpartition(".")
        setattr(root.get_submodule(parent), name, layer.get_base_layer())


def wrapped(backbone: nn.Module) -> dict[str, bool]:
    """Return the path of each wrapped module, to True if its input is scaled (IA3)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        path: bool(getattr(layer, "is_feedforward", False))
        for path, layer in root_of(backbone).named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def base_name(name: str) -> str:
    """Return the name of a base weight without the wrapper of its module."""
    return name.replace(".base_layer.", ".")


def to_peft(name: str) -> str:
    """Return the name of an adapter parameter in peft's files.

    Args:
        name: Path of the parameter in the base model.
    """
    return _PREFIX + name.replace(f".{_ADAPTER}", "")


def from_peft(name: str) -> str:
    """Return the path in the base model of a parameter in peft's files."""
    return re.sub(_PARTS, rf".\1.{_ADAPTER}", name.removeprefix(_PREFIX))


def wrapped_names(state: dict[str, Tensor], adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return base weights by their names inside the wrappers.

    Args:
        state: Base weights by their names without an adapter.
        adapter: Adapter weights by full names; they define the wrapped modules.
    """
    inside = {re.split(_PARTS, name)[0] for name in adapter}

    def rename(name: str) -> str:
        path, _, leaf = name.rpartition(".")
        return f"{path}.base_layer.{leaf}" if path in inside else name

    return {rename(name): value for name, value in state.items()}
