"""Where in a backbone an adapter goes: linear layers by the ends of their names."""

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_transfer.utils.suggestions import closest, did_you_mean

Names = str | Sequence[str] | None
ALL = "all-linear"


def root_of(backbone: nn.Module) -> nn.Module:
    """Return the Hugging Face model inside a backbone, or the backbone that is a model itself."""
    model = getattr(backbone, "model", None)
    return model if isinstance(model, nn.Module) and hasattr(model, "config") else backbone


def model_type_of(backbone: nn.Module) -> str | None:
    """Return what transformers calls the architecture; None for a module of one's own."""
    return getattr(getattr(root_of(backbone), "config", None), "model_type", None)


def plain_names(names: Names, argument: str = "target_modules") -> str | tuple[str, ...] | None:
    """Return names in the form that a frozen dataclass keeps.

    Raises:
        ValueError: If they are neither null, ``all-linear`` nor a list of names.
    """
    if names is None or names == ALL:
        return names
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(
            f"{argument} must be null, {ALL} or a list such as [query, value], got {names!r}; "
            f"set finetuning.adapter.{argument}"
        )
    return tuple(str(name) for name in names)


def resolve(backbone: nn.Module, names: Names, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the paths, from the root, of the linear layers that names stand for.

    Args:
        backbone: Has ``layers``.
        names: Ends of paths; ``all-linear``: every linear layer above the embeddings; None: those
            known for the architecture.
        known: Model type to names.

    Raises:
        ValueError: If a name stands for nothing, or none are known for the architecture.
    """
    paths = linear_paths(backbone)
    if names == ALL:
        below = {id(module) for module in backbone.layers[0].modules()}  # type: ignore
        root = root_of(backbone)
        return [path for path in paths if id(root.get_submodule(path)) not in below]
    called = sorted({path.rpartition(".")[2] for path in paths})
    if names is None:
        kind = model_type_of(backbone) or type(backbone).__name__
        if kind not in known:
            raise ValueError(
                f"no target modules are known for {kind}: set "
                "finetuning.adapter.target_modules to some of its linear layers, which are called "
                f"{', '.join(called) or '(there are none)'}"
            )
        names = known[kind]
    for name in names:
        if not any(_ends(path, name) for path in paths):
            raise ValueError(
                "finetuning.adapter.target_modules: no linear layer of the backbone is called "
                f"{name!r}{did_you_mean(closest(name, called))} They are called "
                f"{', '.join(called) or '(there are none)'}"
            )
    return [path for path in paths if any(_ends(path, name) for name in names)]


def linear_paths(backbone: nn.Module) -> list[str]:
    """Return the paths of all linear layers, from the root."""
    modules = root_of(backbone).named_modules()
    return [path for path, module in modules if isinstance(module, nn.Linear)]


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
