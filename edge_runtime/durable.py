"""Changes to files that outlive a power cut, in the few steps they are made of.

A file is there after a power cut if it was synced (`fsync`), and so was the folder that names it; until then any part
of it may be missing. A rename puts the new file in the old one's place at once, for every process and after every cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """The steps. Tests put something in their place that stops after any of them, or forgets what was not synced."""

    @contextmanager
    def hand(self) -> Iterator[None]:
        """What this process does within is done as the steps are."""
        yield

    def make_folders(self, path: Path) -> None:
        """`path` and what is missing above it, where it is not there yet."""
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def lock_file(self, path: Path) -> int:
        """A descriptor of a file to be locked, made where it is not there. Read only: who locks need not own it."""
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def make_folder(self, path: Path) -> None:
        """A new folder that all may read. Raises OSError, also where there is one."""
        path.mkdir(mode=0o755)
        path.chmod(0o755)  # whatever the installer's umask is, the service is another user

    def write(self, path: Path, data: bytes) -> None:
        """A new file that all may read, not synced yet. Raises OSError, also where there is one."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)

    def sync(self, path: Path) -> None:
        """Have what is in the file, or the names in the folder, outlive a power cut from here on."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Of a file or folder within its folder; a file takes the place of another."""
        old.rename(new)

    def remove(self, path: Path) -> None:
        """A file, a link, or a folder that is empty."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


DISK = Disk()


class OwnersDisk(Disk):
    """Root's steps in a folder of another user's, made as that user: it cannot have root write anywhere else by a link
    that it puts there, and owns what is made. Of a process with one thread.
    """

    def __init__(self, user: int, group: int) -> None:
        self._user, self._group = user, group

    @contextmanager
    def hand(self) -> Iterator[None]:
        groups = os.getgroups()
        os.setgroups([self._group])
        os.setegid(self._group)
        os.seteuid(self._user)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)

    def make_folders(self, path: Path) -> None:
        with self.hand():
            super().make_folders(path)

    def lock_file(self, path: Path) -> int:
        with self.hand():
            return super().lock_file(path)

    def make_folder(self, path: Path) -> None:
        with self.hand():
            super().make_folder(path)

    def write(self, path: Path, data: bytes) -> None:
        with self.hand():
            super().write(path, data)

    def sync(self, path: Path) -> None:
        with self.hand():
            super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        with self.hand():
            super().rename(old, new)

    def remove(self, path: Path) -> None:
        with self.hand():
            super().remove(path)


def disk_of(folder: Path) -> Disk:
    """For steps in `folder`, there already or to be made: by its owner's hand where root takes them in another's."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    owner = nearest.stat()
    return DISK if os.geteuid() != 0 or owner.st_uid == 0 else OwnersDisk(owner.st_uid, owner.st_gid)


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """Put `data` in the place of what `path` holds: after a power cut it is the one or the other, whole."""
    fresh = path.with_name(path.name + ".new")
    if fresh.exists():
        disk.remove(fresh)
    disk.write(fresh, data)
    disk.sync(fresh)
    disk.rename(fresh, path)
    disk.sync(path.parent)


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove `path` and all below it; nothing is followed."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            remove_tree(disk, entry)
    disk.remove(path)
