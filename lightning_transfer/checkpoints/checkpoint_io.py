"""Checkpoints: written whole or not at all, self-contained, read without running anything."""

import errno
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_transfer.utils.atomic_files import atomic_path

# What torch.load raises, by experience, on files that are cut off, altered or something else.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer, without half-written files.

    The default writer goes through the system's temp folder and moves the file, which is no
    single step when that folder lies on another file system: a kill leaves a corrupt checkpoint.
    Here the temp file lies beside the target, is synced, and takes its place in one rename.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            TypeError: If storage options are given; this writer knows none.
            OSError: If the disk is full or the folder cannot be written.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options are not supported, got {storage_options!r}")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temp:
            torch.save(checkpoint, temp)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read ``path``; nothing in it is run, whatever ``weights_only`` says."""
        return read_checkpoint(path, map_location=map_location)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, or holds objects that would have to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; pass a run folder or a .ckpt file")
    try:
        found = torch.load(path, map_location=map_location, weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's fault, not the file's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch would advise to run what is in it
            reason = "it is not torch's, or holds objects that would have to be run"
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason}); "
            "pass one written by this package"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not a checkpoint: it holds a {type(found).__name__}; pass one written by "
            "this package"
        )
    return found
