"""Libraries that only some tasks need."""

import importlib.util


def check_installed(module: str, what: str, *, extra: str) -> None:
    """Check that a library is there, without importing it, before work begins that needs it.

    Args:
        module: Name of its module.
        what: What needs it, for the message.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: If it is not installed.

    Example:
        >>> check_installed("json", "this", extra="dev")
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{what} needs the library {module}, which is not installed: "
            f'python -m pip install "lightning_transfer[{extra}]"'
        )
