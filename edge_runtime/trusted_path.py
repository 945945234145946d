"""Whether other users of this machine could put something else in a file's place: asked of what is trusted unread.

A folder is only as safe as every folder above it: who may rename an entry of one of them may put another folder there.
The rules are those of sshd's StrictModes, extended to symbolic links and sticky folders (`man 7 inode`, S_ISVTX).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from functools import cache
from pathlib import Path

SERVICES = "edge-runtime"
"""The group that may read secrets of root's: nobody's but the systemd services'."""
_MAX_LINKS = 40
"""As Linux allows in one path (`man 7 path_resolution`)."""


def others_may_write(status: os.stat_result) -> bool:
    """Whether anybody but root and this user may write what `status` describes: by its owner or its mode.

    A group that only this user can be in is no other: where login sets umask 002, all that a user makes has it.
    """
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(os.geteuid(), status.st_gid)


def others_may_read(status: os.stat_result) -> bool:
    """Whether anybody but root and this user may read what `status` describes, or the services, as which no person logs
    in."""
    if status.st_mode & stat.S_IRWXO or status.st_uid not in {0, os.geteuid()}:
        return True
    return bool(status.st_mode & stat.S_IRWXG) and not (status.st_uid == 0 and status.st_gid == services())


def why_replaceable(path: Path) -> str | None:
    """Why another user could put something else in `path`'s place, naming the folder and the mend; None if none could.

    Every folder above `path` is looked at, along symbolic links too; `path` itself is not (it need not exist). A folder
    that all may write is fine if it is sticky, as /tmp is. Raises OSError where the way cannot be walked.
    """
    parts = list(reversed(Path(os.path.abspath(path)).parts[1:]))  # noqa: PTH100  # `resolve` would follow the links
    folder, links = Path("/"), 0
    while parts:
        # Every folder that is looked up in is checked, when it is looked up in.
        if (reason := _why_unsafe(folder)) is not None:
            return reason
        part = parts.pop()
        if part == "..":
            folder = folder.parent
            continue
        entry = folder / part
        try:
            status = entry.lstat()
        except FileNotFoundError:
            if parts:
                raise
            return None
        if not stat.S_ISLNK(status.st_mode):
            folder = entry
            continue
        if (links := links + 1) > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if status.st_uid not in {0, os.geteuid()}:
            return f"the link {entry} on the way belongs to {_user(status.st_uid)}; remove it, or name another place"
        target = entry.readlink()
        folder = Path("/") if target.is_absolute() else folder
        parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return None


def _why_unsafe(folder: Path) -> str | None:
    status = folder.stat()
    if status.st_uid not in {0, os.geteuid()}:
        return f"{folder} above it belongs to {_user(status.st_uid)}; name another place, or chown root {folder}"
    if others_may_write(status) and not status.st_mode & stat.S_ISVTX:
        return f"others may write in {folder} above it; chmod go-w {folder}, or name another place"
    return None


def services() -> int:
    """The group of the systemd services, -1 where there is none."""
    try:
        return grp.getgrnam(SERVICES).gr_gid
    except KeyError:
        return -1


@cache
def _is_own_group(uid: int, gid: int) -> bool:
    """Whether the group bears the user's name and has no other member (the way of useradd and adduser)."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
