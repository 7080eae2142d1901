"""Private parts of Hydra and Lightning that have no public counterpart, each with its reason."""

import subprocess
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.sweeper import Sweeper
    from lightning.pytorch.loggers import WandbLogger


def search_path(config_path: str) -> "ConfigSearchPath":
    """Return Hydra's search path of a primary config; ``compose`` takes no ``--config-dir``."""
    from hydra._internal.utils import create_config_search_path

    return create_config_search_path(config_path)


def config_loader(path: "ConfigSearchPath") -> "ConfigLoader":
    """Return a loader that composes configs without Hydra's global state, to check them first."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    return ConfigLoaderImpl(path)


def basic_sweeper(max_batch_size: int | None, params: dict[str, Any]) -> "Sweeper":
    """Return Hydra's own sweeper, which is a plugin and nowhere public."""
    # Imported late: Hydra's search for plugins runs the module again, with a new class.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper(max_batch_size, params)


def detach_ranks() -> "list[subprocess.Popen[bytes]]":
    """Return the ranks that Lightning started, and let its observer of them forget them.

    The observer kills this process some seconds after a rank fails, and the rest of a sweep with
    it; Lightning has no switch for that.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            ranks += getattr(thread, "_child_processes", [])
            thread._child_processes = []  # type: ignore[attr-defined]
    return ranks


def has_run(logger: "WandbLogger") -> bool:
    """Return whether a logger has started its run; reading ``experiment`` would start one."""
    return logger._experiment is not None
