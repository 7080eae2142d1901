"""Config of a run: checks of its values, and the objects that it describes."""

from lightning_transfer.config.instantiate import build
from lightning_transfer.config.settings import check_settings

__all__ = ["build", "check_settings"]
