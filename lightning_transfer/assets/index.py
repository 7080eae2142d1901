"""Download of a pinned file from the package index, with a check of its hash."""

import configparser
import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

import platformdirs
import requests
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DigestMismatchError,
    DistributionPackage,
    NoSuchProjectError,
    PyPISimple,
    UnsupportedContentTypeError,
    UnsupportedRepoVersionError,
)
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url

from lightning_transfer.assets.cache import cache_dir
from lightning_transfer.assets.pins import Asset

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two parts of a response
_ATTEMPTS = 3  # downloads of a file, if the connection breaks


def offline_help() -> str:
    """Return the instructions for a machine without a network, as the end of a message."""
    return (
        "without a network, run `python -m lightning_transfer fetch` on a connected machine and "
        f"copy its cache folder to {cache_dir()}, or point LIGHTNING_TRANSFER_CACHE at the copy"
    )


def download(asset: Asset, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download the file of an asset, and check its sha256.

    The index is that of pip: ``PIP_INDEX_URL``, else ``index-url`` in the configuration of pip,
    else the default index of pip. A user name and a password in the address are sent to its host
    only. Certificates are from ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``PIP_CERT``, the
    configuration of pip, or ``SSL_CERT_FILE``. Proxies are from the usual environment variables.

    Args:
        asset: Asset to download.
        folder: Existing folder for the file.
        progress: Function called with the bytes downloaded so far and the total number of bytes. It
            starts again from 0 if a broken download is repeated.

    Returns:
        Path of the file. A file with a wrong sha256 is removed.

    Raises:
        ConnectionError: If the index cannot be reached, or the connection breaks repeatedly.
        LookupError: If the index does not have the file.
        ValueError: If the sha256 is wrong, the file is too large, or the address is not that of a
            package index.
        OSError: If the file cannot be written.
    """
    endpoint, auth = _endpoint()
    target = folder / asset.filename
    with PyPISimple(endpoint, session=_session(auth)) as client:
        try:
            package = _locate(client, asset)
            _save(client, package, asset, target, progress)
        except OSError as error:
            # Errors with an errno are of the local disk. All errors of requests are OSErrors, and
            # for a missing CA bundle requests raises a plain OSError without errno.
            if error.errno is not None and not isinstance(error, requests.RequestException):
                raise
            raise ConnectionError(
                f"cannot fetch {asset.name!r} ({asset.filename}) from the package index "
                f"{client.endpoint}: {error}; check the connection, PIP_INDEX_URL, HTTPS_PROXY, "
                f"and PIP_CERT or REQUESTS_CA_BUNDLE; {offline_help()}"
            ) from error
    return target


def _locate(client: PyPISimple, asset: Asset) -> DistributionPackage:
    """Return the link to the file of an asset."""
    try:
        page = client.get_project_page(asset.distribution, timeout=_TIMEOUT)
    except NoSuchProjectError:
        raise LookupError(
            f"the package index {client.endpoint} has no project {asset.distribution!r} (for the "
            f"asset {asset.name!r}); set PIP_INDEX_URL to an index with this project, or "
            + offline_help()
        ) from None
    except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
        # Some errors of requests, such as that of an invalid URL, are ValueErrors as well.
        if isinstance(error, requests.RequestException):
            raise
        raise ValueError(
            f"{client.endpoint} does not respond like a package index: {error}; check "
            "PIP_INDEX_URL (for most indexes it ends in /simple), and whether a login page "
            "responds instead"
        ) from error
    found = [package for package in page.packages if package.filename == asset.filename]
    if not found:
        names = ", ".join(package.filename for package in page.packages) or "no file"
        raise LookupError(
            f"the package index {client.endpoint} has no {asset.filename} (for the asset "
            f"{asset.name!r}); it offers {names}. The file was removed from the index, or is "
            "missing on a mirror: set PIP_INDEX_URL to an index with this file, or "
            + offline_help()
        )
    package = found[0]
    if package.is_yanked:
        # PEP 592: a yanked file stays available to users of an exact pin, with a warning.
        reason = package.yanked_reason or "no reason given"
        _log.warning("%s was yanked from the index: %s", asset.filename, reason)
    return package


def _save(
    client: PyPISimple,
    package: DistributionPackage,
    asset: Asset,
    target: Path,
    progress: Progress | None,
) -> None:
    """Download a file to ``target``; a file with a wrong sha256 is removed.

    Raises:
        ValueError: If the sha256 is wrong, or the file is too large.
        requests.RequestException: If the last attempt fails.
    """
    stated = package.digests.get("sha256", asset.sha256)
    if stated.lower() != asset.sha256:
        raise _wrong_hash(asset, stated, "the package index states")
    # The pinned digest replaces that of the index. The library checks it during the download, and
    # removes the file if it is wrong.
    pinned = dataclasses.replace(package, digests={"sha256": asset.sha256})
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            client.download_package(
                pinned,
                target,
                timeout=_TIMEOUT,
                progress=lambda total: _Tracker(asset, total, progress),
                # Some servers send a .tar.gz as compressed content. The client would decompress it,
                # and its digest would be wrong.
                headers={"Accept-Encoding": "identity"},
            )
            return
        except DigestMismatchError as error:
            raise _wrong_hash(asset, error.actual_digest, "the downloaded file has") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if attempt == _ATTEMPTS:
                raise
            _log.warning("download of %s failed, trying again: %s", asset.filename, error)


def _wrong_hash(asset: Asset, given: str, who: str) -> ValueError:
    """Return the error of a file with the sha256 ``given``."""
    return ValueError(
        f"wrong sha256 for {asset.filename} (asset {asset.name!r}): {who} {given}, expected "
        f"{asset.sha256}; nothing was unpacked, and the file was removed. The index or a proxy "
        "changed or shortened the file: try again, or set PIP_INDEX_URL to another index"
    )


class _Tracker:
    """Progress of a download, with an error for a file far larger than the asset.

    It implements the progress tracker of ``pypi_simple``.
    """

    def __init__(self, asset: Asset, total: int | None, progress: Progress | None) -> None:
        self._asset = asset
        self._total = total or int(asset.size_mb * 1e6)
        # Asset.size_mb is rounded, so the limit has a margin of 10 % and 1 MiB.
        self._limit = int(asset.size_mb * 1.1e6) + (1 << 20)
        self._done = 0
        self._progress = progress

    def __enter__(self) -> "_Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def update(self, increment: int) -> None:
        self._done += increment
        if self._done > self._limit:
            raise ValueError(
                f"{self._asset.filename} is larger than the {self._asset.size_mb} MB expected; "
                "it was removed. Set PIP_INDEX_URL to another index"
            )
        if self._progress is not None:
            self._progress(self._done, self._total)


def _session(auth: AuthBase | None) -> requests.Session:
    """Return an HTTP session with the certificates of pip."""
    session = requests.Session()
    session.auth = auth
    bundle = pip_option("cert") or os.environ.get("SSL_CERT_FILE")
    if bundle:
        # REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE take precedence in requests, as in pip.
        session.verify = bundle
    for scheme in ("https://", "http://"):
        # One retry of a failed connection; _save repeats broken downloads.
        session.mount(scheme, HTTPAdapter(max_retries=1))
    return session


class _IndexAuth(AuthBase):
    """Authentication that sends the password of the index to the host of the index only.

    Links of the index may lead to other hosts.
    """

    def __init__(self, host: str, user: str, password: str) -> None:
        self._host = host
        self._basic = HTTPBasicAuth(user, password)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        same = urlsplit(request.url or "").netloc == self._host
        return self._basic(request) if same else request


def _endpoint() -> tuple[str, AuthBase | None]:
    """Return the address of the index without its password, and the authentication.

    Raises:
        ValueError: If the address is not an HTTP address.
    """
    url = pip_option("index-url") or PYPI_SIMPLE_ENDPOINT
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    # The address occurs in messages, so the password is removed.
    clean = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(
            f"the package index must be an http:// or https:// address, got {clean!r}; set "
            "PIP_INDEX_URL, or index-url in pip's configuration"
        )
    user, password = get_auth_from_url(url)
    return clean, _IndexAuth(host, user, password) if user or password else None


def pip_option(name: str) -> str | None:
    """Return a global option of pip from its environment variable or configuration files.

    Args:
        name: Long option without leading dashes, such as ``index-url``.

    Returns:
        The value, or ``None`` if the option is not set.

    Raises:
        configparser.Error: If a configuration file cannot be parsed.
    """
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    # Raw: an address may contain "%", which the default parser interpolates.
    parser = configparser.RawConfigParser()
    parser.read(_config_files(), encoding="utf-8")  # later files win; missing ones are skipped
    return parser.get("global", name, fallback=None)


def _config_files() -> list[Path]:
    """Return the configuration files of pip in ascending order of precedence."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:  # the documented way to disable all configuration files
        return []
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    site = platformdirs.site_config_dir("pip", appauthor=False, multipath=True)
    # expanduser and not Path.home(), which raises an error for a user id without an account, as in
    # containers.
    home = Path(os.path.expanduser("~"))
    return [
        *(Path(folder) / name for folder in site.split(os.pathsep)),
        *([] if os.name == "nt" else [Path("/etc", name)]),
        home / ("pip" if os.name == "nt" else ".pip") / name,
        *([home / ".config" / "pip" / name] if sys.platform == "darwin" else []),
        platformdirs.user_config_path("pip", appauthor=False, roaming=True) / name,
        Path(sys.prefix) / name,
        *([Path(chosen)] if chosen else []),
    ]
