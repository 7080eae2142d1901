"""Take named members out of a wheel or an sdist, and refuse whatever could do harm.

Own checks instead of ``tarfile``'s filters, which were bypassed before (CVE-2025-4517), and the
same ones for zip and tar.
"""

import gzip
import hashlib
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

_CHUNK = 1 << 20  # bytes
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a packing method that this Python does not know
)
_Wanted = Callable[[str], bool]
_Files = Generator[tuple[str, IO[bytes]], None, None]


class Unpacked(NamedTuple):
    """Size in bytes and hex sha256 of a file that was unpacked."""

    size: int
    sha256: str


class _Budget:
    """Counts the bytes that really come out: the sizes in an archive's headers may lie."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def spend(self, count: int) -> None:
        self.spent += count
        if self.spent > self.limit:
            raise ValueError(
                f"the archive unpacks to more than the {self.limit:,} bytes allowed; it is not "
                "what it claims to be, or Asset.max_unpacked_mb is too small"
            )


class _Counted(io.RawIOBase):
    """A decompressed tar stream that is read within a budget, skipped members included."""

    def __init__(self, raw: IO[bytes], budget: _Budget) -> None:
        super().__init__()
        self._raw = raw
        self._budget = budget

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._budget.spend(len(data))
        return data


def unpack(
    archive: Path,
    out: Path,
    *,
    members: Sequence[str],
    strip: str = "",
    inner: str | None = None,
    max_bytes: int,
) -> dict[str, Unpacked]:
    """Unpack the named members of a zip or tar file; nothing of it is ever run.

    Folders, owners and permissions of the archive are ignored: plain files with the process's own
    mode come out. A name that leads outside (``..``, absolute, drive letter, backslash) anywhere
    in the archive refuses all of it; a link or a device does if it is among the named members.
    After an error the caller throws ``out`` away, with what may lie in it.

    Args:
        archive: A zip, or a tar that is plain or packed with gzip or xz.
        out: Folder to unpack into; made here, so that no link can wait in it.
        members: Patterns of the members' paths; ``*`` matches across folders.
        strip: Prefix that the unpacked paths lose.
        inner: Exact path of an archive within ``archive`` which holds the members.
        max_bytes: Most bytes that may come out of an archive.

    Returns:
        Size and sha256 by unpacked path, relative to ``out`` and with ``/``.

    Raises:
        ValueError: If the archive is broken, too large, holds a member that is refused, or
            lacks a named one.
        FileExistsError: If ``out`` exists.
        OSError: If a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wheel = Path(folder, "a.whl")
        ...     with zipfile.ZipFile(wheel, "w") as bundle:
        ...         bundle.writestr("pkg/data/rows.csv", "text,label")
        ...     done = unpack(wheel, Path(folder, "out"), members=["*.csv"], strip="pkg/",
        ...                   max_bytes=100)
        >>> list(done)
        ['data/rows.csv']
    """
    if inner is not None:
        holder = out.with_name(f"{out.name}.inner")
        _extract(archive, holder, (inner,), "", _Budget(max_bytes), exact=True)
        archive = holder / inner
    return _extract(archive, out, members, strip, _Budget(max_bytes))


def _extract(
    archive: Path,
    out: Path,
    patterns: Sequence[str],
    strip: str,
    budget: _Budget,
    *,
    exact: bool = False,
) -> dict[str, Unpacked]:
    matches = str.__eq__ if exact else fnmatchcase
    missing = set(patterns)

    def wanted(name: str) -> bool:
        hits = {pattern for pattern in patterns if matches(name, pattern)}
        missing.difference_update(hits)
        return bool(hits)

    out.mkdir()
    done: dict[str, Unpacked] = {}
    taken: set[str] = set()  # some file systems do not tell A from a
    try:
        # Closed at once after an error, so that the caller can remove the archive.
        with closing(_files(archive, wanted, budget.limit)) as files:
            for name, stream in files:
                path = _inside(name.removeprefix(strip), archive)
                if not path or path.casefold() in taken:
                    raise _refused(archive, name, "occurs twice or has no name left")
                taken.add(path.casefold())
                done[path] = _store(stream, out / path, budget)
    except _BROKEN as error:
        raise ValueError(f"{archive.name} is a broken archive: {error}") from error
    if missing:
        raise ValueError(
            f"{archive.name} holds nothing that matches {sorted(missing)}; mend Asset.members"
        )
    return done


def _store(stream: IO[bytes], target: Path, budget: _Budget) -> Unpacked:
    digest = hashlib.sha256()
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"a member clashes with another one at {target.name!r}") from error
    with file:
        while chunk := stream.read(_CHUNK):
            budget.spend(len(chunk))
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
    return Unpacked(size, digest.hexdigest())


def _files(archive: Path, wanted: _Wanted, limit: int) -> _Files:
    """Yield name and content of the wanted plain files, after checking every name."""
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip_files(file, archive, wanted)
        else:
            with _decompressed(file, magic) as raw:
                yield from _tar_files(_Counted(raw, _Budget(limit)), archive, wanted)


def _decompressed(file: IO[bytes], magic: bytes) -> IO[bytes]:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    return file


def _zip_files(file: IO[bytes], archive: Path, wanted: _Wanted) -> _Files:
    with zipfile.ZipFile(file) as bundle:
        # All names first: one bad name refuses the archive before a byte of it is written.
        names = [_inside(info.orig_filename, archive) for info in bundle.infolist()]
        for name, info in zip(names, bundle.infolist(), strict=True):
            if info.is_dir() or not wanted(name):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(archive, name, "is a link or a device")
            if info.flag_bits & 0x1:
                raise _refused(archive, name, "is encrypted")
            with bundle.open(info) as stream:
                yield name, stream


def _tar_files(raw: _Counted, archive: Path, wanted: _Wanted) -> _Files:
    # "r|": strictly forward, so that a header can't send the reader back or round in circles.
    with tarfile.open(fileobj=raw, mode="r|") as bundle:
        for member in bundle:
            name = _inside(member.name, archive)
            if member.isdir() or not wanted(name):
                continue
            stream = bundle.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _refused(archive, name, "is a link or a device")
            with stream:
                yield name, stream


def _inside(name: str, archive: Path) -> str:
    """Return ``name`` in plain form, or refuse one that leads outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _refused(archive, name, "leads outside the folder")
    if "\\" in name or "\0" in name or any(PureWindowsPath(part).drive for part in path.parts):
        raise _refused(archive, name, "has a drive letter, a backslash or a NUL in its name")
    return "/".join(path.parts)


def _refused(archive: Path, name: str, why: str) -> ValueError:
    return ValueError(
        f"{archive.name} was refused: its member {name!r} {why}; nothing of it was kept"
    )
