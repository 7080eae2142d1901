"""The run folder: one run at a time, never overwritten, resumed only with the same config."""

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
"""Keys that a resumed run may set anew, since no result depends on them."""

_HEADER = "# A run of lightning_transfer: its whole config, all values resolved\n"
_log = logging.getLogger(__name__)
_held: set[int] = set()


class RunFolder:
    """A run's folder, made by :meth:`open` and locked until :meth:`close` or the process ends.

    The lock is the operating system's, so that a killed run never leaves one behind.

    Attributes:
        path: The folder.
        resumed: Whether an earlier run is continued. On ranks above 0, which do not look, whether
            that was asked for.
    """

    def __init__(self, path: Path, *, resumed: bool = False, lock: int | None = None) -> None:
        """Wrap a folder without looking at it; :meth:`open` is what checks and locks."""
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
        """Take a folder for a run, and write its config there.

        Args:
            path: The folder; made if it does not exist.
            config: The run's whole config, resolved: plain mappings, lists and scalars.
            resume: Whether to continue the run that the folder holds. Without one, the run starts
                from the beginning, and a log line says so.
            rank: Global rank of this process; those above 0 trust rank 0, and neither lock, check
                nor write.

        Raises:
            ValueError: If the folder holds a run and ``resume`` is false, if it holds another
                program's ``config.yaml``, if a resumed run's config differs, or if ``config``
                has a value that YAML cannot hold.
            BlockingIOError: If another process runs in the folder; the message names it.
        """
        folder = Path(path)
        if rank > 0:
            return cls(folder, resumed=resume)
        plain = _plain(config)
        _check(folder, plain, resume)  # before the lock, which would leave a file there
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, lock=_lock(folder))
        try:
            run.resumed = _check(folder, plain, resume)
            _sweep(folder, whole=run.resumed)
            _write(folder / CONFIG, plain)
        except BaseException:
            run.close()
            raise
        if resume and not run.resumed:
            _log.info("resume: %s holds no run yet; starting from the beginning", folder)
        return run

    def close(self) -> None:
        """Release the lock; the folder may then be taken again."""
        # A forked child has closed its copy already, and may use the number for another file.
        if self._lock is not None and self._lock in _held:
            _held.discard(self._lock)
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        """Return the folder itself."""
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
    """Return the config of the run that a folder holds, or ``None`` if it holds none.

    Raises:
        ValueError: If the folder's ``config.yaml`` is not a run's.
    """
    import yaml

    file = Path(folder) / CONFIG
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    if not text.startswith(_HEADER):
        raise ValueError(
            f"{file} was not written by a run of lightning_transfer, and would be overwritten; "
            "choose another hydra.run.dir"
        )
    return yaml.safe_load(text)


def probe(path: str | os.PathLike[str], *, config: Mapping[str, Any], resume: bool) -> None:
    """Raise what :meth:`RunFolder.open` would raise, and leave the folder as it is.

    For callers that must not write there before they know: Hydra keeps a log in the run folder
    from before the run begins.
    """
    folder = Path(path)
    _check(folder, _plain(config), resume)
    if (folder / ".lock").is_file():
        handle = _lock(folder)
        RunFolder(folder, lock=handle).close()


def hold(path: str | os.PathLike[str]) -> RunFolder:
    """Take a folder's lock, whatever it holds; leaving the returned folder's block releases it.

    Raises:
        BlockingIOError: If another process holds it; the message names it.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return RunFolder(folder, lock=_lock(folder))


def _check(folder: Path, config: Mapping[str, Any], resume: bool) -> bool:
    """Return whether the folder holds a run; raise if this one may not go on there."""
    stored = read_config(folder)
    if stored is None:
        return False
    if not resume:
        raise ValueError(
            f"{folder} holds a run already; go on with it by resume=true, or choose another "
            "hydra.run.dir"
        )
    one, other = _flat(stored), _flat(config)
    differing = [
        f"{key}: {one.get(key, 'absent')} in the folder, {other.get(key, 'absent')} now"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE)
    ]
    if differing:
        more = [f"and {len(differing) - 10} more"] if len(differing) > 10 else []
        raise ValueError(
            f"the run in {folder} cannot be resumed with another config:\n  "
            + "\n  ".join(differing[:10] + more)
            + "\nGive the values it was started with, or choose another hydra.run.dir"
        )
    return True


def _plain(value: Any, key: str = "") -> Any:
    """Return ``value`` in the types that YAML knows, without shared parts (YAML's aliases)."""
    if isinstance(value, Mapping):
        items = value.items()
        return {str(name): _plain(part, f"{key}.{name}".lstrip(".")) for name, part in items}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(part, f"{key}[{position}]") for position, part in enumerate(value)]
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(f"config value {key} must be plain, got {type(value).__name__}: {value!r}")


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Return dotted key to value as JSON; lists are values, and an empty mapping is nothing."""
    if isinstance(value, Mapping):
        parts = (_flat(part, f"{key}.{name}".lstrip(".")) for name, part in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {key: json.dumps(value, ensure_ascii=False)}


def _write(file: Path, config: Mapping[str, Any]) -> None:
    import yaml

    atomic_write(file, _HEADER + yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _lock(folder: Path) -> int | None:
    """Take the folder's lock and leave our process id in it; return the open file."""
    path = folder / ".lock"
    try:
        handle = lock_file(path, wait=False)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
        raise BlockingIOError(
            f"another run is going on in {folder} (process {holder}); wait for it, or choose "
            "another hydra.run.dir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        _log.warning("no file locks at %s: start no second run there", folder)
        return None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _close_in_children()
    _held.add(handle)
    return handle


@functools.cache
def _close_in_children() -> None:
    """Keep forked data loader workers from holding the lock of a run that was killed."""

    def close() -> None:
        for handle in _held:
            with contextlib.suppress(OSError):
                os.close(handle)
        _held.clear()

    os.register_at_fork(after_in_child=close)


def _sweep(folder: Path, *, whole: bool) -> None:
    """Remove unfinished files of a killed run.

    Below a folder that holds no run yet only its own unfinished config can lie; whatever else is
    there (``hydra.run.dir=.``) is someone else's.
    """
    if not whole:
        for file in folder.glob(f"{TEMP_PREFIX}*-{CONFIG}"):
            file.unlink(missing_ok=True)
        return
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if name.startswith(TEMP_PREFIX)]:
            folders.remove(name)
            path = Path(parent, name)
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
        for name in files:
            if name.startswith(TEMP_PREFIX):
                Path(parent, name).unlink(missing_ok=True)
