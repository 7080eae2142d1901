"""Atomic writes: a file is written completely or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMP_PREFIX = ".tmp-"
"""Prefix of unfinished files, for a later run to delete those of a killed process."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``path`` if the block succeeds.

    If the block raises, the target is unchanged and the temporary file is deleted. The folder is
    created if it does not exist.

    Args:
        path: The file to write; not a folder.

    Raises:
        FileNotFoundError: If the block wrote no file.
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
        raise IsADirectoryError(f"cannot write a file at {target}: it is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic within one file system only: from a TMPDIR
    # elsewhere it would be a copy. The suffix stays, because some libraries choose the format by
    # it. The name is cut, because with the prefix it might exceed the 255 bytes of a file name.
    temp = target.parent / f"{TEMP_PREFIX}{secrets.token_hex(6)}-{target.name[-80:]}"
    try:
        yield temp
        if not temp.is_file():
            raise FileNotFoundError(f"nothing was written to {temp}; {target} is unchanged")
        # The bytes before the rename and the folder's entry after it: otherwise a power failure
        # could leave the new name with no content.
        _sync(temp)
        os.replace(temp, target)
        _sync(target.parent)
    finally:
        temp.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file completely or not at all.

    Args:
        path: The file; its folder is created if it does not exist.
        content: Bytes, or text to be encoded as UTF-8 without any change of line ends.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
    """
    with atomic_path(path) as temp:
        temp.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    """Wait until the bytes of a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
