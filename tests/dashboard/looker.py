"""Somebody who looks at the page's events over a socket of their own."""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.conftest import WAIT_S


def connection(endpoint: str, encryption: ssl.SSLContext | None = None, receive_bytes: int = 0) -> socket.socket:
    """To the server at `endpoint` (`http://ADDRESS:PORT/`)."""
    parts = urlsplit(endpoint)
    plain = socket.socket()
    if receive_bytes:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.settimeout(WAIT_S)
    plain.connect((parts.hostname, parts.port))
    return plain if encryption is None else encryption.wrap_socket(plain, server_hostname=parts.hostname)


def ask(
    endpoint: str, path: str = "/", *headers: str, body: bytes = b"", encryption: ssl.SSLContext | None = None
) -> Any:
    """Status, head and body of one answer."""
    with connection(endpoint, encryption) as talking:
        method = "POST" if body else "GET"
        host = (
            () if any(one.lower().startswith("host:") for one in headers) else (f"Host: {urlsplit(endpoint).netloc}",)
        )
        lines = (f"{method} {path} HTTP/1.1", *host, *headers, *((f"Content-Length: {len(body)}",) if body else ()))
        talking.sendall("\r\n".join((*lines, "", "")).encode() + body)
        answer = b""
        while part := talking.recv(1 << 16):
            answer += part
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode("latin-1"), content


class Looker:
    """Reads events as they come."""

    def __init__(self, endpoint: str, *headers: str) -> None:
        self.socket = connection(endpoint)
        lines = ("GET /events HTTP/1.1", f"Host: {urlsplit(endpoint).netloc}", *headers, "", "")
        self.socket.sendall("\r\n".join(lines).encode())
        self._waiting = b""
        head = self._until(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self.head = head.decode("latin-1")

    def next(self) -> tuple[str, dict[str, Any]]:
        """Kind and content of the next event. Raises EOFError where there are no more."""
        while True:
            fields = dict(line.partition(": ")[::2] for line in self._until(b"\n\n").decode().splitlines())
            if "event" in fields:
                return fields["event"], msgspec.json.decode(fields["data"])

    def find(self, key: str) -> Any:
        """The next that is told under `key`."""
        while True:
            _, view = self.next()
            if view.get(key):
                return view[key]

    def close(self) -> None:
        self.socket.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._waiting:
            part = self.socket.recv(1 << 16)
            if not part:
                raise EOFError
            self._waiting += part
        found, _, self._waiting = self._waiting.partition(mark)
        return found
