from __future__ import annotations

import errno
import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime import trusted_path
from edge_runtime.trusted_path import others_may_write, why_replaceable

STRANGER = 54321
"""A user number that nobody here has."""


@pytest.fixture
def way(tmp_path: Path) -> Path:
    """Three folders, one in the other, that only this user may write."""
    folder = tmp_path / "a" / "b" / "c"
    for made in (tmp_path / "a", tmp_path / "a" / "b", folder):
        made.mkdir(mode=0o700)
    return folder


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `path` belong to somebody else: in truth where we are root, else by what is read of it."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1, follow_symlinks=False)
        return
    for name in ("stat", "lstat"):
        real = getattr(Path, name)

        def told(self: Path, _real: object = real, **options: object) -> os.stat_result:
            found: os.stat_result = _real(self, **options)  # type: ignore[operator]
            fields = list(found)
            if self == path:
                fields[4] = STRANGER
            return os.stat_result(fields)

        monkeypatch.setattr(Path, name, told)


def test_a_way_that_is_this_user_s_alone_is_fine(way: Path) -> None:
    assert why_replaceable(way) is None
    assert why_replaceable(way / "not there yet") is None


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("mode", [0o707, 0o777, 0o702])
def test_a_folder_above_that_all_may_write_is_named_with_its_mend(way: Path, depth: int, mode: int) -> None:
    above = way.parents[depth]
    above.chmod(mode)
    reason = why_replaceable(way)
    assert reason == f"others may write in {above} above it; chmod go-w {above}, or name another place"


def test_a_sticky_folder_above_is_fine_as_tmp_is(way: Path) -> None:
    way.parent.chmod(0o1777)
    assert why_replaceable(way) is None


def test_the_path_itself_is_the_caller_s_to_judge(way: Path) -> None:
    way.chmod(0o777)
    assert why_replaceable(way) is None
    assert others_may_write(way.stat())


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_folder_above_of_another_user_is_refused_whatever_its_mode(
    way: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.parent.chmod(mode)
    give_away(way.parent, monkeypatch)
    reason = why_replaceable(way)
    assert reason is not None
    assert reason.startswith(f"{way.parent} above it belongs to user {STRANGER}; name another place")
    assert others_may_write(way.parent.stat())


def test_the_way_behind_a_link_is_looked_at_too(way: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    for target in (way.parent, Path("a/../a/b")):
        way.parents[1].chmod(0o700)
        link.symlink_to(target)
        assert why_replaceable(link / "c") is None
        way.parents[1].chmod(0o777)
        assert f"others may write in {way.parents[1]} above it" in str(why_replaceable(link / "c"))
        assert f"others may write in {way.parents[1]} above it" in str(why_replaceable(link))
        link.unlink()


def test_the_folder_that_a_link_lies_in_is_looked_at_too(way: Path, tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    (open_folder / "link").symlink_to(way.parent)
    assert f"others may write in {open_folder} above it" in str(why_replaceable(open_folder / "link" / "c"))


def test_a_link_of_another_user_in_a_sticky_folder_is_refused(
    way: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link"
    link.symlink_to(way.parent)
    assert why_replaceable(link / "c") is None
    give_away(link, monkeypatch)
    assert f"the link {link} on the way belongs to user {STRANGER}" in str(why_replaceable(link / "c"))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError) as caught:
        why_replaceable(tmp_path / "one" / "x")
    assert caught.value.errno == errno.ELOOP


def test_a_way_that_is_not_there_cannot_be_judged(way: Path) -> None:
    with pytest.raises(FileNotFoundError):
        why_replaceable(way / "missing" / "file")


@pytest.mark.parametrize(
    ("group", "own"),
    [
        (SimpleNamespace(gr_name="kim", gr_mem=[]), True),
        (SimpleNamespace(gr_name="kim", gr_mem=["kim"]), True),
        (SimpleNamespace(gr_name="kim", gr_mem=["kim", "lee"]), False),
        (SimpleNamespace(gr_name="staff", gr_mem=[]), False),
        (None, False),
    ],
)
def test_a_group_is_no_stranger_only_if_nobody_else_can_be_in_it(
    way: Path, monkeypatch: pytest.MonkeyPatch, group: SimpleNamespace | None, own: bool
) -> None:
    way.parent.chmod(0o770)
    gid = way.parent.stat().st_gid

    def find_group(number: int) -> object:
        if group is None or number != gid:
            raise KeyError(number)
        return group

    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="kim", pw_gid=gid))
    monkeypatch.setattr(grp, "getgrgid", find_group)
    trusted_path._is_own_group.cache_clear()
    try:
        assert (why_replaceable(way) is None) == own
        assert others_may_write(way.parent.stat()) == (not own)
    finally:
        trusted_path._is_own_group.cache_clear()


def described(mode: int, uid: int = 0, gid: int = STRANGER) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


def test_who_may_write_follows_from_owner_and_mode_alone() -> None:
    """Of root and of this user it may be; of nobody else, be their number as small as it may."""
    for uid in {0, os.geteuid()}:
        assert not others_may_write(described(0o100755, uid))
        assert others_may_write(described(0o100757, uid))
        assert others_may_write(described(0o100775, uid)), "in a group that is not this user's own"
    for uid in {1, 2, STRANGER} - {os.geteuid()}:
        assert others_may_write(described(0o100700, uid))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders and links to another user")
def test_the_first_user_that_is_not_root_is_another_one_too(way: Path, tmp_path: Path) -> None:
    os.chown(way.parent, 1, -1)
    assert f"{way.parent} above it belongs to user {pwd.getpwuid(1).pw_name};" in str(why_replaceable(way))
    os.chown(way.parent, 0, -1)
    assert why_replaceable(way) is None
    link = tmp_path / "link"
    link.symlink_to(way.parent)
    os.chown(link, 1, -1, follow_symlinks=False)
    assert "on the way belongs to user" in str(why_replaceable(link / "c"))


def test_as_many_links_as_the_system_follows_are_followed(tmp_path: Path) -> None:
    """The system is the judge: its own limit, and ours, are the same."""
    (tmp_path / "0").mkdir(mode=0o700)
    for number in range(1, 42):
        (tmp_path / str(number)).symlink_to(str(number - 1))
    assert (tmp_path / "40").exists()
    assert why_replaceable(tmp_path / "40" / "file") is None
    for judge in (os.stat, lambda path: why_replaceable(path / "file")):
        with pytest.raises(OSError) as caught:
            judge(tmp_path / "41")
        assert caught.value.errno == errno.ELOOP


def test_a_link_s_own_way_up_is_from_where_it_lies(way: Path, tmp_path: Path) -> None:
    """`..` behind a link is the folder above the target, as the system reads it, not above the link."""
    (tmp_path / "a" / "up").symlink_to("b/c/../..")
    assert why_replaceable(tmp_path / "a" / "up" / "b") is None
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "elsewhere" / "link").symlink_to(way / ".." / "file")
    way.parent.chmod(0o777)
    assert f"others may write in {way.parent} above it" in str(why_replaceable(tmp_path / "elsewhere" / "link"))
