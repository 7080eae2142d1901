"""Process state of a command, changed for a block and restored after it."""

import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_transfer.config.private_apis import detach_ranks

_RANK_VARIABLES = {"RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"}
"""Set by torchrun, SLURM or Lightning in the processes that they start."""


def is_main_process() -> bool:
    """Return whether this process has global rank 0.

    The rank is read from the environment variables of torchrun, SLURM and Lightning, because torch
    may not be imported yet. A process without any of them counts as rank 0.
    """
    # Global ranks first: on a second node LOCAL_RANK is 0 too.
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


@contextlib.contextmanager
def imports_without_gc() -> Iterator[None]:
    """Disable the garbage collector during imports, and exempt the imported objects from it.

    Classes and functions of libraries live until the process ends. A collector that scans them
    again and again takes a fifth of the time to the first step, and part of each later step.
    """
    enabled, first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        # Once per process: a second call would exempt the garbage of an earlier job of a sweep.
        if first:
            gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def argv_and_path(arguments: Sequence[str]) -> Iterator[None]:
    """Set ``sys.argv``, and add the working directory to ``sys.path``, for a block.

    ``sys.stderr`` is restored too, if the block has replaced it.

    Args:
        arguments: Arguments without the name of the program.
    """
    saved = sys.argv, sys.path, sys.stderr
    cwd = os.getcwd()
    sys.argv = [sys.argv[0] if sys.argv else "", *arguments]
    # As with `python -m`, so that the installed script finds the user's own modules too.
    if not sys.flags.safe_path and not {"", cwd} & set(sys.path):
        sys.path = [cwd, *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path, sys.stderr = saved


@contextlib.contextmanager
def hydra_full_error(enabled: bool) -> Iterator[None]:
    """Set or remove ``HYDRA_FULL_ERROR`` for a block.

    With the variable Hydra raises errors; without it, Hydra prints them and exits. Processes
    started in the block inherit the variable, which makes them verbose, so a job must not run with
    the value that this package sets for Hydra.

    Args:
        enabled: True to set the variable, False to remove it.
    """
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    if enabled:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextlib.contextmanager
def hydra_process(arguments: Sequence[str]) -> Iterator[None]:
    """Set ``sys.argv`` for Hydra, and let it raise errors instead of printing them."""
    with hydra_full_error(True), argv_and_path(arguments):
        yield


@contextlib.contextmanager
def isolated_job() -> Iterator[None]:
    """Restore the environment after a job, and end its ranks, so that the next job starts clean.

    Lightning leaves rank, address and port in the environment (``LOCAL_RANK``, ``MASTER_PORT`` …).
    In the next job of a sweep it would take them for the settings of a launcher such as torchrun.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        # Not imported here: a job that failed early may not have imported torch.
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        _end_ranks()


RANK_TIMEOUT = 10.0
"""Seconds from the end of rank 0 until the other ranks of its job are killed."""


def _end_ranks() -> None:
    """Wait for the ranks that Lightning started, and kill those that hang."""
    for rank in detach_ranks():
        try:
            rank.wait(RANK_TIMEOUT)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()  # collects the exit status, or a zombie process would remain


@contextlib.contextmanager
def launcher_worker() -> Iterator[None]:
    """Prepare a launcher's worker process, for example of joblib, to start the ranks of a job.

    Lightning starts the other ranks with ``python -m`` and the name of the main module, which is
    the launcher's, so ``lightning_transfer.__main__`` takes its place. An inherited ``MASTER_PORT``
    is removed, unless another program has started the ranks: parallel jobs would all use this port.
    """
    before, port = sys.modules["__main__"], None
    program = types.ModuleType("__main__")
    program.__spec__ = importlib.util.find_spec("lightning_transfer.__main__")
    sys.modules["__main__"] = program
    if not _RANK_VARIABLES & os.environ.keys():
        port = os.environ.pop("MASTER_PORT", None)
    try:
        yield
    finally:
        sys.modules["__main__"] = before
        if port is not None:
            os.environ["MASTER_PORT"] = port


class HydraErrorFilter:
    """Text stream without Hydra's line about a failed job, which repeats the reported error.

    Args:
        stream: Stream for all other text.
    """

    def __init__(self, stream: Any) -> None:
        """See the class."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text`` unless it is Hydra's line."""
        hidden = text.startswith("Error executing job with overrides")
        return len(text) if hidden else self._stream.write(text)
