"""One file out of a tar, as `tar` makes them: plain or through gzip, names with `./` or below one folder.

Nothing is unpacked onto the disk by its name, and no size that the archive announces is believed.
"""

from __future__ import annotations

import errno
import gzip
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_runtime.plain_file import BoundedReader, open_plain

MAX_MEMBERS = 10_000
MAX_RATIO = 100
"""What is packed with gzip may grow by this much: weights hardly shrink, a megabyte of zeros does a thousandfold."""
PART_BYTES = 1 << 20
"""More than any header needs (a name has at most 4 KiB) and the size of the pieces in which content is read."""
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


def read_member(path: Path, name: str, limit: int, root: str) -> bytes:
    """The bytes of the regular file `name` in the tar at `path`, at most `limit`; names count from where `root` lies,
    a file at the archive's top or in its one folder. Raises OSError.
    """
    try:
        with _plain(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = _members(archive)
            member = members.get(_folder(members, root) + name)
            if member is None:
                raise OSError(errno.ENOENT, f"there is no {name} in it")
            if not member.isreg() or member.issparse():
                raise OSError(errno.EINVAL, f"{name} is no plain file in it")
            if member.size > limit:
                raise OSError(errno.EFBIG, f"{name} has {member.size} bytes, at most {limit} are allowed")
            return _content(archive, member)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise OSError(errno.EINVAL, f"it is damaged or no tar: {error}") from None


def list_members(path: Path, root: str) -> dict[str, bool]:
    """Name of everything in the tar at `path` but folders, from where `root` lies, to whether it is a plain file; what
    lies elsewhere keeps its whole name behind `/`. Raises OSError.
    """
    try:
        with _plain(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = _members(archive)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise OSError(errno.EINVAL, f"it is damaged or no tar: {error}") from None
    folder = _folder(members, root)
    return {
        name.removeprefix(folder) if name.startswith(folder) else f"/{name}": member.isreg() and not member.issparse()
        for name, member in members.items()
        if not member.isdir()
    }


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Name without `./` to member; of two of one name the later counts, as for `tar -x`."""
    members: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(archive):
        if count >= MAX_MEMBERS:
            raise OSError(errno.EFBIG, f"more than {MAX_MEMBERS} files in it")
        members[member.name.removeprefix("./")] = member
    return members


def _folder(members: dict[str, tarfile.TarInfo], root: str) -> str:
    """`FOLDER/` where the one `root` lies in a folder of the archive, else nothing."""
    if root in members:
        return ""
    candidates = [name for name in members if name.count("/") == 1 and name.endswith(f"/{root}")]
    return candidates[0].removesuffix(root) if len(candidates) == 1 else ""


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    with file:
        parts = list(iter(lambda: file.read(PART_BYTES), b""))
    return b"".join(parts)


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """The tar at `path`, what gzip packed unpacked into a file without a name."""
    with open_plain(path, PART_BYTES) as file:
        start = file.peek(6)[:6]
        if other := next((packer for mark, packer in _OTHERS.items() if start.startswith(mark)), None):
            raise OSError(errno.EINVAL, f"it is packed with {other}; pack it with tar alone, or with gzip")
        if not start.startswith(b"\x1f\x8b"):
            yield file
            return
        limit = MAX_RATIO * path.stat().st_size
        with tempfile.TemporaryFile() as unpacked, gzip.GzipFile(fileobj=file) as packed:
            while part := packed.read(PART_BYTES):
                if unpacked.tell() + len(part) > limit:
                    raise OSError(errno.EFBIG, f"it would unpack to more than {MAX_RATIO} times its size")
                unpacked.write(part)
            unpacked.flush()
            with BoundedReader(io.FileIO(unpacked.fileno(), closefd=False), PART_BYTES) as bounded:
                bounded.seek(0)
                yield bounded
