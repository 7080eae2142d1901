"""Atomic writing of checkpoints, and reading without running code from the file."""

import errno
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_transfer.utils.atomic_files import atomic_path

# Exceptions of torch.load on files that are truncated, damaged or not checkpoints. torch does not
# document them; they were found by trying (tests/checkpoints/test_checkpoint_io.py).
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
    """Checkpoint plugin of Lightning that leaves no half-written files.

    Lightning's default writes to the system's temporary folder and moves the file. If that folder
    is on another file system, the move is a copy, and a kill leaves a corrupt checkpoint. This
    plugin writes a temporary file beside the target, syncs it and renames it once.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Content of the checkpoint.
            path: File to write; its folder is created.
            storage_options: Not supported.

        Raises:
            TypeError: If ``storage_options`` is given.
            OSError: If the disk is full or the folder is not writable.
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
        """Read a checkpoint with ``weights_only=True``; the argument is ignored."""
        # Not even trainer.fit(weights_only=False) may run code from a file.
        return read_checkpoint(path, map_location=map_location)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Args:
        path: A checkpoint file.
        map_location: Device of the tensors, as in :func:`torch.load`.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the disk fails.
        ValueError: If the file is not a checkpoint, or contains other objects than tensors and
            plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; pass a run folder or a .ckpt file")
    try:
        found = torch.load(path, map_location=map_location, weights_only=True)
    except _UNREADABLE as error:
        # A truncated or damaged archive gives EINVAL. Any other error number is a problem of the
        # disk and not of the file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            # torch's message advises weights_only=False, which would run code from the file.
            reason = "it is not a file of torch, or it contains Python objects"
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason}); "
            "pass one written by this package"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not a checkpoint: it contains a {type(found).__name__}; pass one written "
            "by this package"
        )
    return found
