from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from edge_runtime.notify import Notifier


def test_without_a_service_manager_nothing_is_sent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        notifier = Notifier({"WATCHDOG_USEC": "1000"})
        notifier.send("READY=1")
        notifier.decided(1)
        notifier.close()
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_the_watchdog_is_fed_by_decisions_at_most_four_times_an_interval(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"})
        notifier.send("READY=1")
        for milliseconds in range(0, 1000, 10):
            notifier.decided(milliseconds * 1_000_000)
        received = [manager.recv(100) for _ in range(3)]
        assert received == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        notifier.close()
        notifier.close()


def test_a_manager_that_has_gone_away_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(path)})
    notifier.send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        notifier.send("STATUS=back")
        assert manager.recv(100) == b"STATUS=back"
    notifier.close()


def test_a_status_is_one_line_whatever_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        notifier.status("camera\nWATCHDOG=1")
        assert manager.recv(100) == b"STATUS=camera\\nWATCHDOG=1"
        notifier.close()


def test_a_manager_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        for _ in range(10_000):  # many times what the kernel keeps
            notifier.send("STATUS=on")
        manager.setblocking(False)
        kept = 0
        with contextlib.suppress(BlockingIOError):
            while manager.recv(100) == b"STATUS=on":
                kept += 1
        assert 0 < kept < 10_000
        notifier.send("STATUS=read again")
        assert manager.recv(100) == b"STATUS=read again"
        notifier.close()
