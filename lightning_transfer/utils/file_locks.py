"""Advisory file locks; the operating system releases the locks of a dead process."""

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
        path: The lock file; its content does not change.
        shared: True for a shared lock, held by several processes at the same time; False for an
            exclusive lock.
        wait: True to block until the lock is free; False to raise at once.
        create: True to create a missing file; its folder must exist.

    Returns:
        The file descriptor that holds the lock.

    Raises:
        BlockingIOError: If ``wait`` is False and another process holds the lock.
        FileNotFoundError: If the file (with ``create=False``) or its folder does not exist.
        OSError: If the file system does not support locks (``ENOSYS``, ``ENOTSUP``, ``ENOLCK``).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    handle = os.open(path, flags, 0o666)  # ordinary permissions, less the umask
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
    except BaseException:  # an interrupt while waiting must not leak the descriptor
        os.close(handle)
        raise
    return handle


@contextmanager
def locked(
    path: str | os.PathLike[str], *, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on a file for the duration of the block.

    Args:
        path: The lock file; it and its folder are created if they do not exist.
        on_wait: Called once before waiting, if another process holds the lock.

    Raises:
        OSError: See :func:`lock_file`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder, ".lock")):
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['.lock']
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        # Without waiting at first: whether the lock is held is known only by trying to take it.
        handle = lock_file(path, wait=False)
    except BlockingIOError:
        if on_wait is not None:
            on_wait()
        handle = lock_file(path)
    try:
        yield
    finally:
        # The file stays: another process may wait for a lock on it, and a new file of this name
        # would be a second lock.
        os.close(handle)
