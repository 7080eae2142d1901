import hashlib
import io
import lzma
import stat
import tarfile
import zipfile

import pytest

from lightning_transfer.assets.unpack import unpack

OUTSIDE = ["../x", "a/../../x", "/x", "//host/share/x", "C:/x", "a/C:x", "a\\..\\x", ".."]


def write_zip(path, *entries):
    with zipfile.ZipFile(path, "w") as bundle:
        for entry, content in entries:
            bundle.writestr(entry, content)
    return path


def write_tar(path, *entries, mode="w:gz"):
    with tarfile.open(path, mode) as bundle:
        for entry, content in entries:
            entry = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_tar])


def run(archive, out, members=("*",), **options):
    return unpack(archive, out, members=members, **{"max_bytes": 10_000_000, **options})


@WRITERS
def test_only_selected_members_are_unpacked_with_their_digests(write, tmp_path):
    archive = write(
        tmp_path / "a", ("p/data/x.txt", b"x"), ("p/data/d/y.txt", b"yy"), ("p/setup.py", b"!")
    )
    done = run(archive, tmp_path / "out", ["p/data/*"], strip="p/data/")
    assert {path: file.size for path, file in done.items()} == {"x.txt": 1, "d/y.txt": 2}
    assert done["x.txt"].sha256 == hashlib.sha256(b"x").hexdigest()
    found = sorted(f for f in (tmp_path / "out").rglob("*") if f.is_file())
    assert [f.relative_to(tmp_path / "out").as_posix() for f in found] == ["d/y.txt", "x.txt"]
    assert (tmp_path / "out" / "d" / "y.txt").read_bytes() == b"yy"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_files_of_any_compression_are_unpacked(mode, tmp_path):
    archive = write_tar(tmp_path / "a", ("x", b"content"), mode=mode)
    run(archive, tmp_path / "out")
    assert (tmp_path / "out" / "x").read_bytes() == b"content"


@WRITERS
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_outside_of_the_folder_rejects_the_archive(write, name, tmp_path):
    archive = write(tmp_path / "a", (name, b"evil"), ("good", b""))
    with pytest.raises(ValueError, match="rejected: its member"):
        run(archive, tmp_path / "out", ["good"])
    assert not list(tmp_path.rglob("x*"))


@WRITERS
def test_a_prefix_cannot_be_stripped_to_an_absolute_path(write, tmp_path):
    archive = write(tmp_path / "a", ("p/etc/x", b"evil"))
    with pytest.raises(ValueError, match="'/etc/x' leads outside"):
        run(archive, tmp_path / "out", strip="p")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar_are_rejected(kind, tmp_path):
    entry = tarfile.TarInfo("data/link")
    entry.type, entry.linkname = kind, "../../secret"
    archive = write_tar(tmp_path / "a", (entry, b""), ("data/x", b"x"))
    with pytest.raises(ValueError, match=r"'data/link' is a link or a device"):
        run(archive, tmp_path / "out", ["data/*"])
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_rejected(kind, tmp_path):
    entry = zipfile.ZipInfo("data/link")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    archive = write_zip(tmp_path / "a", (entry, b"/etc"), ("data/link/x", b"x"))
    with pytest.raises(ValueError, match=r"'data/link' is a link or a device"):
        run(archive, tmp_path / "out", ["data/*"])
    assert not list((tmp_path / "out").iterdir())


def test_a_link_that_is_not_selected_is_ignored(tmp_path):
    entry = tarfile.TarInfo("docs/link")
    entry.type, entry.linkname = tarfile.SYMTYPE, "elsewhere"
    archive = write_tar(tmp_path / "a", (entry, b""), ("data/x", b"x"))
    assert list(run(archive, tmp_path / "out", ["data/*"])) == ["data/x"]


@WRITERS
def test_folders_modes_and_times_of_the_archive_are_ignored(write, tmp_path):
    script = tarfile.TarInfo("run.sh") if write is write_tar else zipfile.ZipInfo("run.sh")
    if isinstance(script, tarfile.TarInfo):
        script.mode = 0o6777
    else:
        script.external_attr = (stat.S_IFREG | 0o6777) << 16
    run(write(tmp_path / "a", (script, b"#!")), tmp_path / "out")
    assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o7111 == 0


@WRITERS
def test_unpacking_stops_at_the_largest_number_of_bytes(write, tmp_path):
    archive = write(tmp_path / "a", ("zeros", bytes(3_000_000)), ("x", b"x"))
    with pytest.raises(ValueError, match=r"more than the 1,000,000 bytes allowed"):
        run(archive, tmp_path / "out", ["zeros"], max_bytes=1_000_000)
    written = [file.stat().st_size for file in (tmp_path / "out").iterdir()]
    assert sum(written) <= 1_000_000


def test_skipped_members_of_a_tar_count_as_unpacked_bytes(tmp_path):
    archive = write_tar(tmp_path / "a", ("zeros", bytes(3_000_000)), ("x", b"x"))
    with pytest.raises(ValueError, match="more than the 1,000,000 bytes"):
        run(archive, tmp_path / "out", ["x"], max_bytes=1_000_000)


@WRITERS
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pair", [("x", "x"), ("x", "X"), ("x", "x/y"), ("./x", "x")])
def test_members_with_equal_paths_are_rejected(write, pair, tmp_path):
    archive = write(tmp_path / "a", (pair[0], b"1"), (pair[1], b"2"))
    with pytest.raises(ValueError, match=r"occurs twice|clashes"):
        run(archive, tmp_path / "out")


@WRITERS
def test_a_pattern_that_matches_nothing_is_an_error(write, tmp_path):
    archive = write(tmp_path / "a", ("x", b""))
    with pytest.raises(ValueError, match=r"no member that matches \['gone/\*'\]"):
        run(archive, tmp_path / "out", ["x", "gone/*"])


@WRITERS
def test_an_inner_archive_has_the_same_rules(write, tmp_path):
    inner = write_tar(tmp_path / "in", ("d/x.txt", b"x"), ("d/y.py", b"")).read_bytes()
    archive = write(tmp_path / "a", ("p/in.tar.gz", inner), ("p/setup.py", b"!"))
    done = run(archive, tmp_path / "out", ["d/*.txt"], strip="d/", inner="p/in.tar.gz")
    assert list(done) == ["x.txt"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["x.txt"]

    evil = write_tar(tmp_path / "in2", ("../x", b"x")).read_bytes()
    archive = write(tmp_path / "b", ("in.tar.gz", evil))
    with pytest.raises(ValueError, match=r"in\.tar\.gz was rejected: its member '\.\./x'"):
        run(archive, tmp_path / "out2", inner="in.tar.gz")

    zeros = write_tar(tmp_path / "in3", ("x", bytes(3_000_000))).read_bytes()
    archive = write(tmp_path / "c", ("in.tar.gz", zeros))
    with pytest.raises(ValueError, match="more than the 1,000,000 bytes"):
        run(archive, tmp_path / "out3", inner="in.tar.gz", max_bytes=1_000_000)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive" * 99, b"PK\3\4 broken", b"\x1f\x8b broken", lzma.compress(b"x" * 999)],
)
def test_a_broken_archive_is_an_error(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a is a broken archive"):
        run(tmp_path / "a", tmp_path / "out")


@WRITERS
def test_an_incomplete_archive_is_an_error(write, tmp_path):
    archive = write(tmp_path / "a", ("x", bytes(range(256)) * 4000))
    archive.write_bytes(archive.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="a is a broken archive"):
        run(archive, tmp_path / "out")
