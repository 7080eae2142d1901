"""Lazy imports of a package's public names (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module-level ``__getattr__`` that imports each public name on first use.

    Importing the package then does not import torch or Hydra.

    Args:
        package: Full name of the package, its ``__name__``.
        modules: Full name of the defining module, by public name.

    Returns:
        The function to assign to ``__getattr__``. It raises an ``AttributeError`` for a name that
        is not in ``modules``.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return get
