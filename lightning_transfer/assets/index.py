"""Find a pinned file on the package index and bring it here, checked."""

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
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of an answer
_ATTEMPTS = 3  # downloads that break off are begun anew


def how_to_mend() -> str:
    """Return what a user without a network can do."""
    return (
        "without a network, run `python -m lightning_transfer fetch` on a connected machine and "
        f"copy its cache folder to {cache_dir()}, or point LIGHTNING_TRANSFER_CACHE at the copy"
    )


def download(asset: Asset, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download the asset's file into ``folder``; it stays there only if its digest is right.

    The index is pip's: ``PIP_INDEX_URL`` or ``index-url`` in pip's configuration (with user name
    and password, if any, sent to that host alone), else the default one. Certificates come from
    ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``PIP_CERT``, pip's configuration or
    ``SSL_CERT_FILE``, proxies from the usual variables.

    Args:
        asset: What to download.
        folder: An existing folder.
        progress: Called with the bytes so far and the bytes in all; it starts anew when a
            download that broke off is begun again.

    Returns:
        Path of the file.

    Raises:
        ConnectionError: If the index cannot be reached or breaks off.
        LookupError: If the index does not have the file.
        ValueError: If the digest is wrong, or the index is not one.
        OSError: If the file cannot be written.
    """
    endpoint, auth = _endpoint()
    target = folder / asset.filename
    with PyPISimple(endpoint, session=_session(auth)) as client:
        try:
            package = _locate(client, asset)
            _save(client, package, asset, target, progress)
        except OSError as error:
            # requests' own errors are OSErrors, and a missing CA bundle is a bare one.
            if error.errno is not None and not isinstance(error, requests.RequestException):
                raise
            raise ConnectionError(
                f"cannot fetch {asset.name!r} ({asset.filename}) from the package index "
                f"{client.endpoint}: {error}; check the connection, PIP_INDEX_URL, HTTPS_PROXY, "
                f"and PIP_CERT or REQUESTS_CA_BUNDLE; {how_to_mend()}"
            ) from error
    return target


def _locate(client: PyPISimple, asset: Asset) -> DistributionPackage:
    try:
        page = client.get_project_page(asset.distribution, timeout=_TIMEOUT)
    except NoSuchProjectError:
        raise LookupError(
            f"the package index {client.endpoint} has no project {asset.distribution!r} (for the "
            f"asset {asset.name!r}); point PIP_INDEX_URL at an index that has it, or "
            + how_to_mend()
        ) from None
    except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
        if isinstance(error, requests.RequestException):
            raise
        raise ValueError(
            f"{client.endpoint} does not answer like a package index: {error}; check "
            "PIP_INDEX_URL (it ends in /simple for most) and whether a login page answers instead"
        ) from error
    found = [package for package in page.packages if package.filename == asset.filename]
    if not found:
        names = ", ".join(package.filename for package in page.packages) or "no file"
        raise LookupError(
            f"the package index {client.endpoint} has no {asset.filename} (for the asset "
            f"{asset.name!r}); it offers {names}. The file was removed, or the mirror lacks it: "
            f"point PIP_INDEX_URL at an index that has it, or {how_to_mend()}"
        )
    package = found[0]
    if package.is_yanked:
        # PEP 592: whoever pins the exact version still gets a yanked file, but should know.
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
    stated = package.digests.get("sha256", asset.sha256)
    if stated.lower() != asset.sha256:
        raise _wrong_hash(asset, stated, "the package index states")
    # Our pin in place of the index's own word: the library checks it while it writes, and
    # removes the file if it is wrong.
    pinned = dataclasses.replace(package, digests={"sha256": asset.sha256})
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            client.download_package(
                pinned,
                target,
                timeout=_TIMEOUT,
                progress=lambda total: _Tracker(asset, total, progress),
                # Some servers would hand a .tar.gz out as a packed text and unpack it on the way.
                headers={"Accept-Encoding": "identity"},
            )
            return
        except DigestMismatchError as error:
            raise _wrong_hash(asset, error.actual_digest, "the downloaded file has") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if attempt == _ATTEMPTS:
                raise
            _log.warning("download of %s broke off, trying again: %s", asset.filename, error)


def _wrong_hash(asset: Asset, given: str, who: str) -> ValueError:
    return ValueError(
        f"wrong sha256 for {asset.filename} (asset {asset.name!r}): {who} {given}, expected "
        f"{asset.sha256}; nothing was unpacked and the file was removed. The index or a proxy "
        "altered it, or cut it short: fetch again, or point PIP_INDEX_URL at another index"
    )


class _Tracker:
    """Counts the bytes of a download, and stops one that is far larger than it should be."""

    def __init__(self, asset: Asset, total: int | None, progress: Progress | None) -> None:
        self._asset = asset
        self._total = total or int(asset.size_mb * 1e6)
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
                "it was removed. Point PIP_INDEX_URL at another index"
            )
        if self._progress is not None:
            self._progress(self._done, self._total)


def _session(auth: AuthBase | None) -> requests.Session:
    session = requests.Session()
    session.auth = auth
    bundle = pip_option("cert") or os.environ.get("SSL_CERT_FILE")
    if bundle:
        # requests itself puts REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE above this, as under pip.
        session.verify = bundle
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=1))
    return session


class _IndexAuth(AuthBase):
    """Sends the index's password to the index's host alone, wherever its links lead."""

    def __init__(self, host: str, user: str, password: str) -> None:
        self._host = host
        self._basic = HTTPBasicAuth(user, password)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        same = urlsplit(request.url or "").netloc == self._host
        return self._basic(request) if same else request


def _endpoint() -> tuple[str, AuthBase | None]:
    """Return the index's address without its password, and the password's bearer."""
    stated = pip_option("index-url") or PYPI_SIMPLE_ENDPOINT
    parts = urlsplit(stated)
    host = parts.netloc.rpartition("@")[2]
    clean = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(
            f"the package index must be an http:// or https:// address, got {clean!r}; set "
            "PIP_INDEX_URL, or index-url in pip's configuration"
        )
    user, password = get_auth_from_url(stated)
    return clean, _IndexAuth(host, user, password) if user or password else None


def pip_option(name: str) -> str | None:
    """Return a global option of pip: from its variable, else from its configuration files.

    Args:
        name: The long option without dashes in front, such as ``index-url``.

    Returns:
        The value, or ``None`` if it is stated nowhere.

    Raises:
        configparser.Error: If a configuration file cannot be parsed.
    """
    stated = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if stated:
        return stated
    parser = configparser.RawConfigParser()
    parser.read(_files(), encoding="utf-8")  # later files win; absent ones are skipped
    return parser.get("global", name, fallback=None)


def _files() -> list[Path]:
    """Return pip's configuration files in pip's own rising order of precedence."""
    stated = os.environ.get("PIP_CONFIG_FILE")
    if stated == os.devnull:
        return []
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    site = platformdirs.site_config_dir("pip", appauthor=False, multipath=True)
    # expanduser, not Path.home(): the latter raises for a user id without an account.
    home = Path(os.path.expanduser("~"))
    return [
        *(Path(folder) / name for folder in site.split(os.pathsep)),
        *([] if os.name == "nt" else [Path("/etc", name)]),
        home / ("pip" if os.name == "nt" else ".pip") / name,
        *([home / ".config" / "pip" / name] if sys.platform == "darwin" else []),
        platformdirs.user_config_path("pip", appauthor=False, roaming=True) / name,
        Path(sys.prefix) / name,
        *([Path(stated)] if stated else []),
    ]
