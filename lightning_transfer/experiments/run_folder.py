"""Run folder: locked by one run, never overwritten, resumed only with the same config."""

import contextlib
import errno
import fnmatch
import functools
import json
import logging
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lightning_transfer.utils.atomic_files import TEMP_PREFIX, atomic_write
from lightning_transfer.utils.file_locks import lock_file

CONFIG = "config.yaml"
MAY_CHANGE = (
    "resume",
    "resume_every",
    "logger",
    "logger.*",
    "activation_cache.limit_gb",
    "activation_cache.folder",
    "*trainer.enable_progress_bar",
    "*trainer.enable_model_summary",
    "*trainer.log_every_n_steps",
)
"""Keys that may differ in a resumed run, since no result depends on them."""

# First line of config.yaml; it marks the files written by this package.
_HEADER = "# A run of lightning_transfer: its whole config, all values resolved\n"
_log = logging.getLogger(__name__)
_open_locks: set[int] = set()  # file descriptors


class RunFolder:
    """A run folder, opened by :meth:`open` and locked until :meth:`close` or the process ends.

    The lock belongs to the operating system and is released if the run is killed.

    Args:
        path: The folder.
        resumed: True if an earlier run is resumed. Ranks above 0 do not check the folder: there it
            is True if a resume was requested.
        lock: File descriptor of the lock; None without a lock.
    """

    def __init__(self, path: Path, *, resumed: bool = False, lock: int | None = None) -> None:
        """See the class. Nothing is checked or locked here; use :meth:`open`."""
        self.path = path
        self.resumed = resumed
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        resume: bool,
        rank: int = 0,
    ) -> "RunFolder":
        """Lock a folder for a run, and write its config to it.

        Args:
            path: The folder; created if it does not exist.
            config: The whole config of the run, resolved to plain mappings, lists and scalars.
            resume: True to resume the run in the folder. If there is none, the run starts from the
                beginning, and this is logged.
            rank: Global rank of this process. Ranks above 0 neither lock, check nor write.

        Raises:
            ValueError: If the folder contains a run and ``resume`` is false, if it contains a
                ``config.yaml`` of another program, if the config of a resumed run differs, or if
                ``config`` has a value that YAML cannot represent.
            BlockingIOError: If another process has locked the folder; the message names it.
        """
        folder = Path(path)
        # Rank 0 checks and locks the folder for all ranks.
        if rank > 0:
            return cls(folder, resumed=resume)
        plain = _plain(config)
        _check(folder, plain, resume)  # before the lock, which would create a file in the folder
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, lock=_lock(folder))
        try:
            # Again: another process may have written its config before the lock.
            run.resumed = _check(folder, plain, resume)
            _remove_unfinished(folder, recursive=run.resumed)
            _write(folder / CONFIG, plain)
        except BaseException:
            run.close()
            raise
        if resume and not run.resumed:
            _log.info("resume=true: no run in %s yet; starting from the beginning", folder)
        return run

    def close(self) -> None:
        """Release the lock, so that another run may open the folder."""
        # A forked child has closed its copy already, and may use the descriptor for another file.
        if self._lock is not None and self._lock in _open_locks:
            _open_locks.discard(self._lock)
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        """Return this run folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.close()


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the config of the run in a folder, or ``None`` without a run.

    Raises:
        ValueError: If ``config.yaml`` of the folder belongs to another program.
    """
    import yaml  # late: `--help` imports this module too

    file = Path(folder) / CONFIG
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    if not text.startswith(_HEADER):
        raise ValueError(
            f"{file} was not written by lightning_transfer and would be overwritten; choose "
            "another hydra.run.dir"
        )
    return yaml.safe_load(text)


def probe(path: str | os.PathLike[str], *, config: Mapping[str, Any], resume: bool) -> None:
    """Raise the errors of :meth:`RunFolder.open` without changing the folder.

    The command line calls this first, because Hydra writes its log to the run folder before the
    run starts.

    Args:
        path: The folder.
        config: The whole config of the run.
        resume: True if the run in the folder is to be resumed.
    """
    folder = Path(path)
    _check(folder, _plain(config), resume)
    # A folder without the file has never been locked.
    if (folder / ".lock").is_file():
        handle = _lock(folder)
        RunFolder(folder, lock=handle).close()


def lock_folder(path: str | os.PathLike[str]) -> RunFolder:
    """Lock a folder regardless of its content; the returned object releases it as a context.

    Raises:
        BlockingIOError: If another process has locked the folder; the message names it.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return RunFolder(folder, lock=_lock(folder))


def _check(folder: Path, config: Mapping[str, Any], resume: bool) -> bool:
    """Return True if the folder contains a run; raise if this run may not use it."""
    stored = read_config(folder)
    if stored is None:
        return False
    if not resume:
        raise ValueError(
            f"{folder} already contains a run; add resume=true to resume it, or choose another "
            "hydra.run.dir"
        )
    # Compared as JSON texts, so that NaN equals itself.
    old, new = _flat(stored), _flat(config)
    differing = [
        f"{key}: {old.get(key, 'absent')} in the folder, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE)
    ]
    if differing:
        more = [f"and {len(differing) - 10} more"] if len(differing) > 10 else []
        raise ValueError(
            f"the run in {folder} cannot be resumed with another config:\n  "
            + "\n  ".join(differing[:10] + more)
            + "\nUse the values of the folder, or choose another hydra.run.dir"
        )
    return True


def _plain(value: Any, key: str = "") -> Any:
    """Convert a value to the types of YAML; shared parts are copied, to avoid YAML's aliases."""
    if isinstance(value, Mapping):
        items = value.items()
        return {str(name): _plain(part, f"{key}.{name}".lstrip(".")) for name, part in items}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(part, f"{key}[{position}]") for position, part in enumerate(value)]
    # Exact types: yaml.safe_dump refuses subclasses such as a numpy float or an Enum.
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(
        f"config value {key} must be a mapping, list, string, number, bool, path or null, got "
        f"{type(value).__name__}: {value!r}"
    )


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Map dotted keys to values as JSON; a list is one value, an empty mapping has no key."""
    if isinstance(value, Mapping):
        parts = (_flat(part, f"{key}.{name}".lstrip(".")) for name, part in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {key: json.dumps(value, ensure_ascii=False)}


def _write(file: Path, config: Mapping[str, Any]) -> None:
    import yaml

    atomic_write(file, _HEADER + yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _lock(folder: Path) -> int | None:
    """Lock a folder, and write the process id to the lock file.

    Returns:
        The file descriptor; None if the file system has no locks.
    """
    path = folder / ".lock"
    try:
        handle = lock_file(path, wait=False)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
        raise BlockingIOError(
            f"another run is using {folder} (process {holder}); wait until it ends, or choose "
            "another hydra.run.dir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        # Some network file systems have no locks; a single run works there as well.
        _log.warning("%s is on a file system without locks: start no second run in it", folder)
        return None
    os.ftruncate(handle, 0)  # a shorter process id must not leave digits of the last one
    os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _close_in_children()
    _open_locks.add(handle)
    return handle


@functools.cache
def _close_in_children() -> None:
    """Close the lock in forked children: a data loader worker may outlive a killed run."""

    def close() -> None:
        # A child inherits the open file, and the lock with it, until it closes the file.
        for handle in _open_locks:
            with contextlib.suppress(OSError):
                os.close(handle)
        _open_locks.clear()

    os.register_at_fork(after_in_child=close)


def _remove_unfinished(folder: Path, *, recursive: bool) -> None:
    """Remove the temporary files of a killed run.

    Args:
        folder: The run folder.
        recursive: True for the folder of a run, which is searched at any depth. In a folder without
            a run (``hydra.run.dir=.``) only an unfinished config can be ours; all other files
            belong to the user.
    """
    if not recursive:
        for file in folder.glob(f"{TEMP_PREFIX}*-{CONFIG}"):
            file.unlink(missing_ok=True)
        return
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if name.startswith(TEMP_PREFIX)]:
            folders.remove(name)  # os.walk must not enter it
            path = Path(parent, name)
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
        for name in files:
            if name.startswith(TEMP_PREFIX):
                Path(parent, name).unlink(missing_ok=True)
