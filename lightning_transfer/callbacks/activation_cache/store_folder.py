"""The folder of all activation stores, kept below a size."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from lightning_transfer.callbacks.activation_cache.activation_store import (
    ABOUT,
    LOCK,
    VALUES,
    ActivationStore,
    describe,
)
from lightning_transfer.utils.atomic_files import TEMP_PREFIX
from lightning_transfer.utils.file_locks import lock_file

_SPARE = 2**30  # bytes of the disk that are left to others


class StoreFolder:
    """Opens stores by key, and makes room for them.

    Stores outlive runs: a seed repeat, a job of a sweep and a resumed run go on with what an
    earlier one has computed. When the folder reaches its limit, the store that was opened longest
    ago and that no process holds open goes.

    Args:
        folder: Holds one folder a store; nothing else is to lie there.
        limit: Bytes of all stores together, at least 1.

    Raises:
        ValueError: If the limit is below 1.

    Example:
        >>> import tempfile
        >>> shelf = StoreFolder(Path(tempfile.mkdtemp()), limit=10**6)
        >>> store = shelf.open("ab12", np.array([0, 3]), hidden_size=4, dtype=torch.float32)
        >>> shelf.holds("ab12"), shelf.make_room(48), shelf.make_room(10**7)
        (True, True, False)
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        """See the class."""
        if limit < 1:
            raise ValueError(f"limit must be >= 1 byte, got {limit}")
        self.folder = folder
        self.limit = limit

    def holds(self, key: str) -> bool:
        """Return whether there is a store of this key."""
        return (self.folder / key / ABOUT).is_file()

    def open(
        self,
        key: str,
        starts: np.ndarray,
        *,
        hidden_size: int,
        dtype: torch.dtype,
        about: dict[str, object] | None = None,
    ) -> ActivationStore:
        """Open a store, and make it if there is none.

        Args:
            key: Of everything that the states follow from.
            starts: See :class:`ActivationStore`.
            hidden_size: See there.
            dtype: See there.
            about: What a person may want to know of it.

        Raises:
            OSError: If the folder cannot be written to.
        """
        folder = self.folder / key
        store = ActivationStore(folder, starts, hidden_size=hidden_size, dtype=dtype)
        describe(folder, about or {})
        return store

    def make_room(self, size: int) -> bool:
        """Evict stores that nobody uses until ``size`` bytes more fit; return whether they do."""
        if size > self.limit:
            return False
        while self._taken() + size > self.limit or self._free() < size + _SPARE:
            if not self._evict():
                return False
        return True

    def _taken(self) -> int:
        """Return the bytes on disk; files are sparse, so their length says nothing."""
        return sum(_blocks(store / VALUES) for store in self._stores())

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _stores(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.name.startswith(TEMP_PREFIX)]

    def _evict(self) -> bool:
        """Remove the store that was opened longest ago, of those that nobody holds open."""
        for store in sorted(self._stores(), key=_opened):
            if _blocks(store / VALUES) and self._remove(store):
                return True
        return False

    def _remove(self, store: Path) -> bool:
        try:
            handle = lock_file(store / LOCK, wait=False, create=False)
        except OSError:  # in use, or another process has removed it
            return False
        try:
            waste = store.with_name(f"{TEMP_PREFIX}{os.getpid()}-{store.name}")
            store.rename(waste)
        except OSError:  # another process has removed it
            return False
        finally:
            os.close(handle)
        shutil.rmtree(waste, ignore_errors=True)
        return True


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _opened(store: Path) -> float:
    try:
        return (store / ABOUT).stat().st_mtime
    except OSError:
        return 0.0
