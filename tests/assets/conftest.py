"""Local package index, and functions that build wheels and sdists."""

import contextlib
import hashlib
import html
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lightning_transfer.assets import Asset

PROJECT = "tiny-data"
TEXT = "text,label\ngood,1\n"


class Index(ThreadingHTTPServer):
    """PEP 503 index of one project, with options to misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.attributes = ""  # HTML attributes of every link, such as data-yanked
        self.link_host = ""  # address of the links, empty: this server's
        self.page_sha256: str | None = None  # digest in the links of the page; None: no digest
        self.content_type = "text/html"
        self.cuts = 0  # number of downloads to interrupt half-way
        self.hold: threading.Event | None = (
            None  # if given, downloads wait half-way until it is set
        )
        self.started = threading.Event()  # set when a download has begun
        self.hits: list[tuple[str, str | None]] = []  # path, Authorization

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/simple/"

    @property
    def downloads(self) -> int:
        return sum(path.startswith("/files/") for path, _ in self.hits)

    def handle_error(self, *_: Any) -> None:
        """Print nothing: tests kill clients on purpose."""

    def add(self, archive: bytes, filename: str, **fields: Any) -> Asset:
        """Add a file to the index, and return an asset that pins it."""
        self.files[filename] = archive
        pin: dict[str, Any] = {
            "name": "tiny",
            "distribution": PROJECT,
            "version": "1.0",
            "filename": filename,
            "sha256": hashlib.sha256(archive).hexdigest(),
            "members": ("tiny/data/*",),
            "strip": "tiny/data/",
            "licence": "CC0-1.0",
            "citation": "none",
            "size_mb": len(archive) / 1e6,
        }
        return Asset(**(pin | fields))


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        index = self.server
        index.hits.append((self.path, self.headers.get("Authorization")))
        if self.path == f"/simple/{PROJECT}/":
            self._answer(self._page().encode(), index.content_type)
        elif self.path.startswith("/files/") and self.path[7:] in index.files:
            self._send_file(index.files[self.path[7:]])
        else:
            self.send_error(404)

    def _page(self) -> str:
        index = self.server
        mark = f"#sha256={index.page_sha256}" if index.page_sha256 else ""
        return "<!DOCTYPE html>" + "".join(
            f'<a href="{index.link_host}/files/{name}{mark}" {index.attributes}>'
            f"{html.escape(name)}</a>"
            for name in index.files
        )

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, body: bytes) -> None:
        index = self.server
        half = len(body) // 2
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:half])
        self.wfile.flush()
        index.started.set()
        if index.hold is not None:
            index.hold.wait(30)
        if index.cuts:
            index.cuts -= 1
            return
        self.wfile.write(body[half:])


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """Run an index, set the environment variables of pip to it, and use an empty cache."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith("_OFFLINE"):
            monkeypatch.delenv(name)
    server = Index()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    with contextlib.suppress(AttributeError):
        server.hold.set()  # type: ignore[union-attr]
    server.shutdown()
    server.server_close()
    thread.join()


def _pack_wheel(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def _pack_sdist(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def pack_wheel() -> Callable[[Mapping[str, bytes]], bytes]:
    """Return the function that packs members into a zip file."""
    return _pack_wheel


@pytest.fixture
def pack_sdist() -> Callable[[Mapping[str, bytes]], bytes]:
    """Return the function that packs members into a tar.gz file."""
    return _pack_sdist


@pytest.fixture
def wheel(index: Index) -> Asset:
    """Return a pinned wheel on the index, with code, a data file and a data file in a folder."""
    archive = _pack_wheel(
        {
            "tiny/__init__.py": b"raise SystemExit('never run')",
            "tiny/data/rows.csv": TEXT.encode(),
            "tiny/data/more/noise.bin": os.urandom(300_000),
        }
    )
    return index.add(archive, "tiny_data-1.0-py3-none-any.whl")
