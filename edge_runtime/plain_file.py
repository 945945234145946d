"""Read files that somebody else wrote: regular ones only (no pipe, no device), and no more bytes than a limit."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


class BoundedReader(io.BufferedReader):
    """A file of which no single read takes more than `limit` bytes, whatever sizes the file itself announces."""

    def __init__(self, raw: io.FileIO, limit: int) -> None:
        super().__init__(raw)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        """As any reader's. Raises OSError where more is asked for than the limit, before anything is set aside."""
        if size is None or not 0 <= size <= self._limit:
            raise OSError(errno.EFBIG, f"a part of {size} bytes, at most {self._limit} are allowed")
        return super().read(size)


def open_plain(path: Path, limit: int) -> BoundedReader:
    """The regular file at `path`, read in parts of at most `limit` bytes. Raises OSError as `read_plain` does."""
    return BoundedReader(io.FileIO(_open(path)), limit)


def read_plain(path: Path, limit: int | None = None) -> bytes:
    """The bytes of the regular file at `path`, at most `limit`.

    Raises OSError whose `strerror` says why it cannot be; never waits for a writer, as opening a pipe would.
    """
    with os.fdopen(_open(path), "rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def list_files(folder: Path, most: int) -> dict[str, bool]:
    """Name of everything below `folder` but folders, from there, to whether it is a regular file; links are none.

    Raises OSError where there are more than `most` of them, or of folders.
    """
    found: dict[str, bool] = {}
    folders = [""]
    for prefix in folders:
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{entry.name}/")
                else:
                    found[prefix + entry.name] = entry.is_file(follow_symlinks=False)
                if max(len(found), len(folders)) > most:
                    raise OSError(errno.EFBIG, f"more than {most} files in it", str(folder))
    return found


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "no regular file", str(path))
