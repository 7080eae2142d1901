"""Advisory locks on files, released by the system when the process that holds one dies."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_file(
    path: str | os.PathLike[str], *, shared: bool = False, wait: bool = True, create: bool = True
) -> int:
    """Open a file and lock it; closing the returned file descriptor releases the lock.

    Args:
        path: The lock file; its content is left alone.
        shared: Several processes may hold a shared lock, but none beside an exclusive one.
        wait: Block until the lock is free; otherwise raise at once.
        create: Create the file if there is none; its folder must exist.

    Raises:
        BlockingIOError: If ``wait`` is False and another process holds the lock.
        FileNotFoundError: If there is no such file (with ``create=False``) or no such folder.
        OSError: If the file system has no locks (``ENOSYS``, ``ENOTSUP``, ``ENOLCK``).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    handle = os.open(path, flags, 0o666)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def locked(
    path: str | os.PathLike[str], *, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on a file; the folder is created if there is none.

    Args:
        path: The lock file.
        on_wait: Called once if another process holds the lock, before waiting for it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder, ".lock")):
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['.lock']
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = lock_file(path, wait=False)
    except BlockingIOError:
        if on_wait is not None:
            on_wait()
        handle = lock_file(path)
    try:
        yield
    finally:
        os.close(handle)
