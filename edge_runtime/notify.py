"""Tell systemd how the service is doing (sd_notify(3)): datagrams to $NOTIFY_SOCKET, nothing where it is unset."""

from __future__ import annotations

import os
import socket

from edge_runtime.log_handler import one_line


class Notifier:
    """Loop thread only. Raises nothing: a service manager that has gone away must not stop decisions."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        environment = dict(os.environ) if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for Linux' abstract socket namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        interval_us = int(environment.get("WATCHDOG_USEC", "0") or 0)
        self._ping_interval_ns = interval_us * 1000 // 4
        self._next_ping_ns = 0

    def send(self, state: str) -> None:
        """E.g. `READY=1`, `STOPPING=1`, `STATUS=text`."""
        if self._socket is not None:
            try:
                # Never waits: a manager that does not read must not stop decisions either.
                self._socket.sendto(state.encode("utf-8", "replace"), socket.MSG_DONTWAIT, self._address)
            except OSError:
                pass

    def status(self, text: str) -> None:
        """What `systemctl status` shows, in one line."""
        self.send(f"STATUS={one_line(text)}")

    def reloading(self, now_ns: int) -> None:
        """A reload begins, at this monotonic time (which `Type=notify-reload` asks for); `READY=1` ends it."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={now_ns // 1000}")

    def decided(self, now_ns: int) -> None:
        """A decision was published: feed the watchdog (at most four times per watchdog interval)."""
        if self._ping_interval_ns and now_ns >= self._next_ping_ns:
            self._next_ping_ns = now_ns + self._ping_interval_ns
            self.send("WATCHDOG=1")

    def close(self) -> None:
        """Free the socket. Harmless when called again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
