"""Private APIs of Hydra and Lightning without a public counterpart.

They are used only here, so that a new version of one of them breaks one file.
"""

import subprocess
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.sweeper import Sweeper
    from lightning.pytorch.loggers import WandbLogger


def search_path(config_path: str) -> "ConfigSearchPath":
    """Return Hydra's config search path for the folder of a primary config.

    Args:
        config_path: A folder, or ``pkg://`` and a package.
    """
    # The public `compose` has no argument for --config-dir.
    from hydra._internal.utils import create_config_search_path

    return create_config_search_path(config_path)


def config_loader(path: "ConfigSearchPath") -> "ConfigLoader":
    """Return a loader of configs on a search path."""
    # The public `initialize` and `compose` change Hydra's global state. A config is checked before
    # Hydra itself runs, so this state must stay clean.
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    return ConfigLoaderImpl(path)


def basic_sweeper(max_batch_size: int | None, params: dict[str, Any]) -> "Sweeper":
    """Return Hydra's default sweeper.

    Args:
        max_batch_size: Largest number of jobs per launch; None for all.
        params: Overrides of the sweep by key.
    """
    # The sweeper is a plugin without a public name. Imported late, because Hydra's search for
    # plugins executes the module again, and its class is another one then.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper(max_batch_size, params)


def detach_ranks() -> "list[subprocess.Popen[bytes]]":
    """Detach Lightning's observer from the rank processes, and return these processes.

    The caller has to wait for the processes or kill them.
    """
    # The observer kills the main process some seconds after a rank fails, and with it the
    # remaining jobs of a sweep. Lightning has no option to turn it off.
    ranks: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            ranks += getattr(thread, "_child_processes", [])
            thread._child_processes = []  # type: ignore[attr-defined]
    return ranks


def has_run(logger: "WandbLogger") -> bool:
    """Return True if a Weights & Biases logger has started its run."""
    # The public property `experiment` starts a run if there is none.
    return logger._experiment is not None
