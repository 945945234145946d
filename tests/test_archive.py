"""Archives from strangers: what tar makes is read, what is made to hurt is refused, and memory stays bounded."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from edge_runtime import archive
from edge_runtime.archive import read_member

FILES = {"manifest.json": b"{}", "stages/a.onnx": os.urandom(300_000)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "home"


def read(path: Path, name: str, limit: int = 1 << 20) -> bytes:
    return read_member(path, name, limit, "manifest.json")


@pytest.mark.parametrize("how", ["-cf", "-czf"])
@pytest.mark.parametrize("what", [["-C", "home", "."], ["home"], ["./home"], ["-C", "home", "manifest.json", "stages"]])
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_what_tar_makes_is_read(folder: Path, how: str, what: list[str], form: str) -> None:
    subprocess.run(["tar", f"--format={form}", how, "b.tar", *what], cwd=folder.parent, check=True)
    for name, data in FILES.items():
        assert read(folder.parent / "b.tar", name) == data


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as made:
        for info, data in members:
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    other = tarfile.TarInfo("a.onnx")
    other.type, other.linkname = kind, "manifest.json"
    path = _tar(tmp_path / "b.tar", (tarfile.TarInfo("manifest.json"), b"{}"), (other, b""))
    with pytest.raises(OSError, match=r"a\.onnx is no plain file in it"):
        read(path, "a.onnx")


def test_of_two_files_of_one_name_the_later_counts_as_for_tar(tmp_path: Path) -> None:
    path = _tar(tmp_path / "b.tar", *((tarfile.TarInfo("manifest.json"), data) for data in (b"old", b"new")))
    assert read(path, "manifest.json") == b"new"


def _announcing(kind: bytes, size: int) -> bytes:
    """A header that says `size` bytes follow, and hardly any do."""
    info = tarfile.TarInfo("manifest.json")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096


KINDS = {
    "file": tarfile.REGTYPE,
    "long name": tarfile.GNUTYPE_LONGNAME,
    "pax": tarfile.XHDTYPE,
    "global": tarfile.XGLTYPE,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_are_only_announced_take_no_memory(tmp_path: Path, kind: str, packed: bool) -> None:
    path, data = tmp_path / "b.tar", _announcing(KINDS[kind], 3 << 30)
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    with pytest.raises(OSError):
        read(path, "manifest.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_sparse_archive_that_announces_a_huge_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(_announcing(tarfile.GNUTYPE_LONGNAME, 1 << 30))
    os.truncate(path, 2 << 30)  # takes no room on the disk
    with pytest.raises(OSError, match="at most 1048576 are allowed"):
        read(path, "manifest.json")


def test_what_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(OSError, match="more than 100 times its size"):
        read(path, "manifest.json")


def test_files_without_number_and_files_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _tar(tmp_path / "b.tar", *((tarfile.TarInfo(name), b"12345") for name in ("manifest.json", "x", "y")))
    assert read(path, "x", limit=5) == b"12345"
    with pytest.raises(OSError, match="x has 5 bytes, at most 4"):
        read(path, "x", limit=4)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    with pytest.raises(OSError, match="more than 2 files in it"):
        read(path, "x")


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_another_packing_is_named_with_the_mend(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "b.tar", mode):  # type: ignore[call-overload]
        pass
    with pytest.raises(OSError, match="packed with .*; pack it with tar alone, or with gzip"):
        read(tmp_path / "b.tar", "manifest.json")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8bno gzip", b"\x1f\x8b\x08" + bytes(40)])
def test_what_is_no_archive_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(OSError):
        read(tmp_path / "b.tar", "manifest.json")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "b.tar", "manifest.json")
