"""Optional dependencies."""

import importlib.util


def check_installed(module: str, what: str, *, extra: str) -> None:
    """Raise if an optional dependency is not installed; it is not imported.

    Call it when an object is built, so that a missing library is reported before the training and
    not after it.

    Args:
        module: Name of the library's top-level module.
        what: The feature that needs it, for the message.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: If the module is not installed.

    Example:
        >>> check_installed("json", "this", extra="dev")
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{what} needs the library {module}, which is not installed: "
            f'python -m pip install "lightning_transfer[{extra}]"'
        )
