"""Config of a run: checks of its values, and instantiation of its objects."""

from lightning_transfer.utils.lazy import lazy_attributes

__all__ = ["build", "check_settings"]

# Lazy: the command line composes configs without importing torch, and `build` imports it.
__getattr__ = lazy_attributes(
    __name__,
    {
        "build": "lightning_transfer.config.instantiate",
        "check_settings": "lightning_transfer.config.settings",
    },
)
