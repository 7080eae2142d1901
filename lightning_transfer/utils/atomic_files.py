"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMP_PREFIX = ".tmp-"
"""How the names of unfinished files begin, so that a later run can sweep up after a killed one."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    The temporary file lies in the target's folder, because a rename is atomic within one file
    system only (a ``TMPDIR`` elsewhere would turn it into a copy). Its name ends like the
    target's, for writers that go by the extension. When the block raises, the target stays as it
    was and the temporary file goes. The folder is made if it does not exist.

    Args:
        path: The file to write; a folder will not do.

    Raises:
        FileNotFoundError: If the block wrote nothing.
        IsADirectoryError: If ``path`` is a folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "scores.json") as temp:
        ...     _ = temp.write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['scores.json']
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"a file is to be written at {target}, but that is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Cut, because the prefix must not push a long name over the file system's 255 bytes.
    temp = target.parent / f"{TEMP_PREFIX}{secrets.token_hex(6)}-{target.name[-80:]}"
    try:
        yield temp
        if not temp.is_file():
            raise FileNotFoundError(f"nothing was written to {temp}, so {target} stays as it was")
        _sync(temp)
        os.replace(temp, target)
        _sync(target.parent)
    finally:
        temp.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8 with its line ends untouched.

    Args:
        path: The file; its folder is made if it does not exist.
        content: Text or bytes.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
    """
    with atomic_path(path) as temp:
        temp.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
