"""Target modules of adapters: linear layers of a backbone, selected by the ends of their names."""

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_transfer.utils.suggestions import closest, did_you_mean

Names = str | Sequence[str] | None
ALL = "all-linear"


def root_of(backbone: nn.Module) -> nn.Module:
    """Return the Hugging Face model inside a backbone, or the backbone itself without one."""
    model = getattr(backbone, "model", None)
    return model if isinstance(model, nn.Module) and hasattr(model, "config") else backbone


def model_type_of(backbone: nn.Module) -> str | None:
    """Return ``config.model_type`` of a backbone; None for a module without a config."""
    return getattr(getattr(root_of(backbone), "config", None), "model_type", None)


def plain_names(names: Names, argument: str = "target_modules") -> str | tuple[str, ...] | None:
    """Return names in a hashable form, for a frozen dataclass.

    Args:
        names: None, ``all-linear`` or a list of names.
        argument: Name of the argument, for the message.

    Raises:
        ValueError: If ``names`` is anything else, or an empty list.
    """
    if names is None or names == ALL:
        return names
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(
            f"{argument} must be null, {ALL} or a list such as [query, value], got {names!r}; "
            f"set finetuning.adapter.{argument}=[query,value]"
        )
    return tuple(str(name) for name in names)


def resolve(backbone: nn.Module, names: Names, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the paths, from the root, of the linear layers selected by names.

    Args:
        backbone: Has ``layers``.
        names: Ends of paths; ``all-linear`` for every linear layer above the embeddings; None for
            the names known for the architecture.
        known: Model type to names.

    Raises:
        ValueError: If no linear layer has a given name, or no names are known for the architecture.
    """
    paths = linear_paths(backbone)
    if names == ALL:
        # By identity: `layers` has modules, not paths.
        below = {id(module) for module in backbone.layers[0].modules()}  # type: ignore
        root = root_of(backbone)
        return [path for path in paths if id(root.get_submodule(path)) not in below]
    called = sorted({path.rpartition(".")[2] for path in paths})
    listed = ", ".join(called) or "(none)"
    if names is None:
        kind = model_type_of(backbone) or type(backbone).__name__
        if kind not in known:
            raise ValueError(
                f"no target modules are known for {kind}; set finetuning.adapter.target_modules to "
                f"a list of its linear layers: {listed}"
            )
        names = known[kind]
    for name in names:
        if not any(_ends_with(path, name) for path in paths):
            raise ValueError(
                f"finetuning.adapter.target_modules: unknown linear layer {name!r}"
                f"{did_you_mean(closest(name, called))} The backbone has: {listed}"
            )
    return [path for path in paths if any(_ends_with(path, name) for name in names)]


def linear_paths(backbone: nn.Module) -> list[str]:
    """Return the paths of all linear layers, from the root."""
    modules = root_of(backbone).named_modules()
    return [path for path, module in modules if isinstance(module, nn.Linear)]


def _ends_with(path: str, name: str) -> bool:
    # Whole components only: `dense` does not match `subdense`.
    return path == name or path.endswith(f".{name}")
