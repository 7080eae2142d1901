"""Config of a run: checks of its values, and the objects that it describes."""

from lightning_transfer.utils.lazy import lazy_attributes

__all__ = ["build", "check_settings"]

# The command line composes a config without torch, which `build` imports.
__getattr__ = lazy_attributes(
    __name__,
    {
        "build": "lightning_transfer.config.instantiate",
        "check_settings": "lightning_transfer.config.settings",
    },
)
