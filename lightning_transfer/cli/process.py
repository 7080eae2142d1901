"""What a command changes in its process, and puts back: words, import path, environment."""

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


def is_main_process() -> bool:
    """Whether this process is rank 0 of its job, or has no ranks beside it.

    Told from the environment, as torchrun, SLURM and Lightning set it, since torch may not be
    there yet.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep it away from what was imported.

    What libraries define stays. A collector that looks through ever more of it again and again
    takes a fifth of the time to the first step, and some of each step's later.
    """
    enabled, new = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        # Once per process: what an earlier job of a sweep has left behind is to be collected.
        if new:
            gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def process(words: Sequence[str]) -> Iterator[None]:
    """Show ``words`` as the command line, and the working directory to imports.

    Standard error is put back too, whatever it was replaced by inside.
    """
    kept = sys.argv, sys.path, sys.stderr
    cwd = os.getcwd()
    sys.argv = [sys.argv[0] if sys.argv else "", *words]
    if not sys.flags.safe_path and not {"", cwd} & set(sys.path):  # as `python -m` has it
        sys.path = [cwd, *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path, sys.stderr = kept


@contextlib.contextmanager
def full_errors(wanted: bool) -> Iterator[None]:
    """Let Hydra raise errors instead of printing them, or not.

    What is started inside inherits it, so that a job must not be run with what Hydra was told.
    """
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    if wanted:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextlib.contextmanager
def hydra_process(words: Sequence[str]) -> Iterator[None]:
    """Show Hydra only ``words``, and let it raise errors instead of printing them."""
    with full_errors(True), process(words):
        yield


@contextlib.contextmanager
def ranks_of_one_job() -> Iterator[None]:
    """Forget a job's ranks and its environment when it ends: the next job of a sweep has its own.

    Lightning leaves rank, address and port of the ranks behind (``LOCAL_RANK``, ``MASTER_PORT`` …),
    and would take them in the next job for a launcher's.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        _end_ranks()


PATIENCE = 10.0
"""Seconds that the other ranks have to end, from when rank 0 is done."""


def _end_ranks() -> None:
    """Wait for the ranks that Lightning started, and end those that hang."""
    for rank in detach_ranks():
        try:
            rank.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


@contextlib.contextmanager
def as_this_program() -> Iterator[None]:
    """Show this package as the program that runs, in a worker process of a launcher.

    Lightning starts a job's ranks as ``python -m`` with the name of the module that runs, which in
    such a process is the launcher's own.
    """
    before = sys.modules["__main__"]
    program = types.ModuleType("__main__")
    program.__spec__ = importlib.util.find_spec("lightning_transfer.__main__")
    sys.modules["__main__"] = program
    try:
        yield
    finally:
        sys.modules["__main__"] = before


class WithoutHydra:
    """A stream that leaves out Hydra's own line about a failed job."""

    def __init__(self, stream: Any) -> None:
        """Wrap a stream."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, unless it is that line."""
        hidden = text.startswith("Error executing job with overrides")
        return len(text) if hidden else self._stream.write(text)
