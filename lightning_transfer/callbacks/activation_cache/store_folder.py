"""Store folder: all activation stores, with a limit on their total size."""

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
    write_description,
)
from lightning_transfer.utils.atomic_files import TEMP_PREFIX
from lightning_transfer.utils.file_locks import lock_file

_RESERVED = 2**30  # bytes; free space on the disk for other programs


class StoreFolder:
    """Folder of activation stores, found by key.

    Stores are shared between runs: a run with another seed, a job of a sweep and a resumed run use
    the outputs computed by an earlier one. When the folder reaches its limit, the least recently
    opened store is evicted. A store open in any process is never evicted.

    Args:
        folder: Folder with one subfolder per store, and no other content.
        limit: Total size of all stores in bytes, >= 1.

    Raises:
        ValueError: If the limit is below 1.

    Example:
        >>> import tempfile
        >>> stores = StoreFolder(Path(tempfile.mkdtemp()), limit=10**6)
        >>> store = stores.open("ab12", np.array([0, 3]), hidden_size=4, dtype=torch.float32)
        >>> stores.holds("ab12"), stores.make_space(48), stores.make_space(10**7)
        (True, True, False)
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        """See the class."""
        if limit < 1:
            raise ValueError(f"limit must be an integer >= 1 (bytes), got {limit}")
        self.folder = folder
        self.limit = limit

    def holds(self, key: str) -> bool:
        """Return True if there is a store with this key."""
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
        """Open a store; it is created if it does not exist.

        Args:
            key: Hash of everything on which the states depend.
            starts: See :class:`ActivationStore`.
            hidden_size: See :class:`ActivationStore`.
            dtype: See :class:`ActivationStore`.
            about: Description for people, written into the folder of the store.

        Raises:
            OSError: If the folder is not writable.
        """
        folder = self.folder / key
        store = ActivationStore(folder, starts, hidden_size=hidden_size, dtype=dtype)
        # At each opening, because the order of eviction follows from the age of this file.
        write_description(folder, about or {})
        return store

    def make_space(self, size: int) -> bool:
        """Evict unused stores until ``size`` more bytes fit.

        Returns:
            True if they fit.
        """
        if size > self.limit:
            return False
        while self._used() + size > self.limit or self._free() < size + _RESERVED:
            if not self._evict():
                return False
        return True

    def _used(self) -> int:
        """Return the bytes on disk of all stores."""
        # Blocks, because the length of a sparse file is not its size on disk.
        return sum(_blocks(store / VALUES) for store in self._list())

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _list(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.name.startswith(TEMP_PREFIX)]

    def _evict(self) -> bool:
        """Remove the least recently opened store not in use; return False if there is none."""
        for store in sorted(self._list(), key=_opened):
            # Removing an empty store would free no space.
            if _blocks(store / VALUES) and self._remove(store):
                return True
        return False

    def _remove(self, store: Path) -> bool:
        try:
            handle = lock_file(store / LOCK, wait=False, create=False)
        except OSError:  # in use, or another process has removed it
            return False
        try:
            # Renamed first: another process must not open a store that is partly deleted.
            renamed = store.with_name(f"{TEMP_PREFIX}{os.getpid()}-{store.name}")
            store.rename(renamed)
        except OSError:  # another process has removed it
            return False
        finally:
            os.close(handle)
        shutil.rmtree(renamed, ignore_errors=True)
        return True


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512  # the unit is 512 bytes on every file system
    except OSError:  # another process has evicted the store
        return 0


def _opened(store: Path) -> float:
    try:
        return (store / ABOUT).stat().st_mtime
    except OSError:
        return 0.0
