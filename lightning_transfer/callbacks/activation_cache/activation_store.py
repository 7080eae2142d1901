"""The outputs of one layer for the rows of a token table, in one memory-mapped file."""

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
    """Hidden states of rows, each at a place that follows from its tokens' place in the table.

    No index has to be kept: ranks of a run, and jobs of a sweep, write into the same file without
    asking one another, and the file is sparse, so that rows never asked for take no room. A row
    counts as stored when its checksum stands beside it, and each process compares the checksum
    before it first reads the row: what a killed process or a full disk left half-written is
    computed anew and never trained on. The folder is locked while it is open, so that nobody
    evicts it (see :class:`StoreFolder`).

    Args:
        folder: Is made if it does not exist.
        starts: Where each row begins, in positions, and where the last one ends; int64
            ``(rows + 1,)``.
        hidden_size: Width of the states.
        dtype: Of the states on disk.

    Raises:
        OSError: If the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "depth-3"
        >>> store = ActivationStore(folder, np.array([0, 2, 3]), hidden_size=4)
        >>> store.write(np.array([1]), torch.ones(1, 5, 4))  # row 1 has one token, four are padding
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
            VALUES: _sized(folder / VALUES, int(starts[-1]) * self._width),
            SUMS: _sized(folder / SUMS, (len(starts) - 1) * 4),
        }
        self._values = _mapped(folder / VALUES, np.uint8).reshape(-1, self._width)
        self._sums = _mapped(folder / SUMS, np.uint32)
        self._checked = np.zeros(len(starts) - 1, dtype=bool)

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Return which of the rows, int64 ``(batch,)``, are stored; bool ``(batch,)``."""
        there = self._sums[rows] != 0
        for place in np.flatnonzero(there & ~self._checked[rows]):
            row = rows[place]
            whole = _checksum(self._values[self._span(row)].tobytes()) == self._sums[row]
            self._checked[row] = there[place] = whole
        return there

    def read(self, rows: np.ndarray, width: int) -> Tensor:
        """Return the states of rows that are stored, and zeros for the others.

        Args:
            rows: int64 ``(batch,)``.
            width: Positions in the result, at least as many as the longest row has.

        Returns:
            ``(batch, width, hidden)`` in the store's dtype, zero where a row has no position.
        """
        states = torch.zeros(len(rows), width, self.hidden_size, dtype=self.dtype)
        raw = states.view(torch.uint8).numpy()  # (batch, width, bytes)
        for place, row in enumerate(rows):
            if self._checked[row]:
                span = self._span(row)
                raw[place, : span.stop - span.start] = self._values[span]
        return states

    def write(self, rows: np.ndarray, states: Tensor) -> None:
        """Store the states of rows.

        Args:
            rows: int64 ``(batch,)``.
            states: ``(batch, seq, hidden)`` of any float dtype; a row's padding stands behind its
                tokens and is left out.

        Raises:
            OSError: If the disk is full. Rows that did not go in whole count as not stored.
        """
        raw = states.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        for place, row in enumerate(rows):
            span = self._span(row)
            content = raw[place, : span.stop - span.start].tobytes()
            # Not through the map: there a full disk would kill the process (SIGBUS).
            _put(self._handles[VALUES], content, span.start * self._width)
            checksum = np.uint32(_checksum(content)).tobytes()
            _put(self._handles[SUMS], checksum, int(row) * 4)
            self._checked[row] = True

    def size(self, rows: np.ndarray) -> int:
        """Return how many bytes rows, int64 ``(batch,)``, take."""
        return int((self._starts[rows + 1] - self._starts[rows]).sum()) * self._width

    def count(self) -> int:
        """Return how many rows are stored, whole or not."""
        return int(np.count_nonzero(self._sums))

    def close(self) -> None:
        """Let others evict the store."""
        for handle in (*self._handles.values(), self._lock):
            os.close(handle)
        self._handles = {}

    def _span(self, row: int) -> slice:
        return slice(int(self._starts[row]), int(self._starts[row + 1]))


def describe(folder: Path, about: dict[str, object]) -> None:
    """Note in the folder of a store, for people, what it holds; also marks it as just used."""
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _lock(folder: Path) -> int:
    """Return a handle that keeps the folder from eviction."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock_file(folder / LOCK, shared=True)
        except FileNotFoundError:  # evicted between the two lines
            continue
        try:
            if os.stat(folder / LOCK).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # of a folder that was evicted meanwhile


def _sized(path: Path, size: int) -> int:
    """Open a sparse file of at least one byte; a file of that size keeps its content."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if os.fstat(handle).st_size != size:
        os.ftruncate(handle, size)
    return handle


def _mapped(path: Path, dtype: type) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r")


def _put(handle: int, content: bytes, offset: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(handle, content[written:], offset + written)


def _checksum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0 stands for a row that is not there
