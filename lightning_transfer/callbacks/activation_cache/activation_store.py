"""Activation store: outputs of one layer for the rows of a token table, in a memory-mapped file."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.utils.file_locks import lock_file

VALUES, SUMS, ABOUT, LOCK = "values.bin", "sums.bin", "about.json", "lock"


class ActivationStore:
    """Hidden states of rows, stored at the offsets of the rows' tokens in the token table.

    The offsets make an index unnecessary, so the ranks of a run and the jobs of a sweep write into
    the same file without coordination. The file is sparse: rows that are never written use no disk
    space.

    A row is stored once its checksum is written. Each process verifies the checksum before it
    reads a row for the first time. A row half-written by a killed process, or on a full disk, is
    therefore computed again and never used. An open store is locked against eviction (see
    :class:`StoreFolder`).

    Args:
        folder: Folder of the store; created if it does not exist.
        starts: First position of each row, and the end of the last row; int64 ``(rows + 1,)``.
        hidden_size: Width of the states.
        dtype: Dtype of the states on disk.

    Raises:
        OSError: If the folder is not writable.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "depth-3"
        >>> store = ActivationStore(folder, np.array([0, 2, 3]), hidden_size=4)
        >>> store.write(np.array([1]), torch.ones(1, 5, 4))  # row 1: a token, 4 of padding
        >>> store.holds(np.array([0, 1])).tolist()
        [False, True]
        >>> store.read(np.array([1]), width=2)[0].tolist()
        [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        folder: Path,
        starts: np.ndarray,
        *,
        hidden_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """See the class."""
        self.folder = folder
        self.dtype = dtype
        self.hidden_size = hidden_size
        self._starts = starts
        self._width = hidden_size * dtype.itemsize  # bytes of one position
        self._lock = _lock(folder)
        self._handles = {
            VALUES: _open_file(folder / VALUES, int(starts[-1]) * self._width),
            SUMS: _open_file(folder / SUMS, (len(starts) - 1) * 4),
        }
        self._values = _map_file(folder / VALUES, np.uint8).reshape(-1, self._width)
        self._sums = _map_file(folder / SUMS, np.uint32)
        self._verified = np.zeros(len(starts) - 1, dtype=bool)

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Return a mask of the stored rows.

        Args:
            rows: int64 ``(batch,)``.

        Returns:
            bool ``(batch,)``.
        """
        stored = self._sums[rows] != 0
        for index in np.flatnonzero(stored & ~self._verified[rows]):
            row = rows[index]
            is_valid = _checksum(self._values[self._span(row)].tobytes()) == self._sums[row]
            self._verified[row] = stored[index] = is_valid
        return stored

    def read(self, rows: np.ndarray, width: int) -> Tensor:
        """Return the states of rows; those of rows not stored are zero.

        Only rows checked by :meth:`holds`, or written by this process, are read.

        Args:
            rows: int64 ``(batch,)``.
            width: Number of positions in the result, at least that of the longest row.

        Returns:
            States ``(batch, width, hidden)`` in the store's dtype; zero after the end of a row.
        """
        states = torch.zeros(len(rows), width, self.hidden_size, dtype=self.dtype)
        raw = states.view(torch.uint8).numpy()  # (batch, width, bytes)
        for index, row in enumerate(rows):
            if self._verified[row]:
                span = self._span(row)
                raw[index, : span.stop - span.start] = self._values[span]
        return states

    def write(self, rows: np.ndarray, states: Tensor) -> None:
        """Store the states of rows.

        Args:
            rows: int64 ``(batch,)``.
            states: Float ``(batch, seq, hidden)``, padded on the right. Padding is not stored.

        Raises:
            OSError: If the disk is full. Incompletely written rows count as not stored.
        """
        raw = states.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        for index, row in enumerate(rows):
            span = self._span(row)
            content = raw[index, : span.stop - span.start].tobytes()
            # Not through the memory map: a full disk would kill the process (SIGBUS).
            _write_at(self._handles[VALUES], content, span.start * self._width)
            # The checksum after the values: a row without a checksum is not read.
            checksum = np.uint32(_checksum(content)).tobytes()
            _write_at(self._handles[SUMS], checksum, int(row) * 4)
            self._verified[row] = True

    def size(self, rows: np.ndarray) -> int:
        """Return the size of rows, int64 ``(batch,)``, in bytes."""
        return int((self._starts[rows + 1] - self._starts[rows]).sum()) * self._width

    def count(self) -> int:
        """Return the number of rows with a checksum, valid or not."""
        return int(np.count_nonzero(self._sums))

    def close(self) -> None:
        """Release the lock, so that the store may be evicted."""
        for handle in (*self._handles.values(), self._lock):
            os.close(handle)
        self._handles = {}

    def _span(self, row: int) -> slice:
        return slice(int(self._starts[row]), int(self._starts[row + 1]))


def write_description(folder: Path, about: dict[str, object]) -> None:
    """Write a description of a store for people, and mark the store as just used."""
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _lock(folder: Path) -> int:
    """Lock the folder of a store against eviction, and return the file descriptor."""
    # An eviction renames the folder, perhaps between the steps here. The lock is valid only if the
    # locked file is still the one at the path.
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock_file(folder / LOCK, shared=True)
        except FileNotFoundError:  # evicted after mkdir
            continue
        try:
            if os.stat(folder / LOCK).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the folder was evicted before the lock


def _open_file(path: Path, size: int) -> int:
    """Open a file and set its size in bytes, >= 1; new bytes are sparse zeros."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if os.fstat(handle).st_size != size:
        os.ftruncate(handle, size)
    return handle


def _map_file(path: Path, dtype: type) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r")


def _write_at(handle: int, content: bytes, offset: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(handle, content[written:], offset + written)


def _checksum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0 is the value of a row not stored, in a sparse file
