"""The client's side of CurveZMQ by hand (rfc.zeromq.org/spec/26), for handshakes that the library would not begin or
break off, and for messages that it would not repeat.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from nacl.bindings import (
    crypto_box_beforenm,
    crypto_box_easy_afternm,
    crypto_box_keypair,
    crypto_box_open_easy_afternm,
)

from edge_runtime import zmtp
from edge_runtime.keyring import decode, read_client_keys
from tests.hostile.zmtp import tcp

GREETING = zmtp.greeting(b"CURVE")
_COOKIE = slice(32, 128)


class Link:
    """A connection that has exchanged greetings; `hello`, `welcome` and `initiate` take it further. Raises OSError
    where the other side ends it, CryptoError where it says what cannot be understood.
    """

    def __init__(self, endpoint: str, kind: str, keys: Path, stranger: bool = False) -> None:
        """With the client's file `keys`; as a `stranger` with a key of its own, which nobody knows."""
        told = read_client_keys(keys)
        self._server = decode(told.server_key, keys)
        self._public, self._secret = decode(told.public_key, keys), decode(told.secret_key, keys)
        if stranger:
            self._public, self._secret = crypto_box_keypair()
        self._kind = kind.encode()
        self._own, self._own_secret = crypto_box_keypair()
        self._sent = 0
        self.socket = tcp(endpoint)
        self.socket.sendall(GREETING)
        self._exactly(zmtp.GREETING_BYTES)

    def open(self) -> Link:
        """The whole handshake; this link."""
        self.hello()
        self.initiate(*self.welcome())
        self._frame()
        return self

    def hello(self) -> None:
        counter = self._next()
        shared = crypto_box_beforenm(self._server, self._own_secret)
        box = crypto_box_easy_afternm(bytes(64), b"CurveZMQHELLO---" + counter, shared)
        self.socket.sendall(zmtp.command(b"HELLO", b"\x01\x00" + bytes(72) + self._own + counter + box))

    def welcome(self) -> tuple[bytes, bytes]:
        """The server's key for this connection, and its cookie."""
        data = self._frame()[len(b"\x07WELCOME") :]
        shared = crypto_box_beforenm(self._server, self._own_secret)
        plain = crypto_box_open_easy_afternm(data[16:], b"WELCOME-" + data[:16], shared)
        return plain[:32], plain[_COOKIE]

    def initiate(self, server: bytes, cookie: bytes) -> None:
        nonce, counter = os.urandom(16), self._next()
        vouch = crypto_box_easy_afternm(
            self._own + self._server, b"VOUCH---" + nonce, crypto_box_beforenm(server, self._secret)
        )
        self._shared = crypto_box_beforenm(server, self._own_secret)
        plain = self._public + nonce + vouch + zmtp.properties(Socket_Type=self._kind)
        box = crypto_box_easy_afternm(plain, b"CurveZMQINITIATE" + counter, self._shared)
        self.socket.sendall(zmtp.command(b"INITIATE", cookie + counter + box))

    def sealed(self, parts: Sequence[bytes], ends: bool = True) -> bytes:
        """A message as it goes over the wire, or parts of one that does not end there."""
        wire = b""
        for at, part in enumerate(parts):
            counter = self._next()
            more = b"\x00" if ends and at == len(parts) - 1 else b"\x01"
            box = crypto_box_easy_afternm(more + part, b"CurveZMQMESSAGEC" + counter, self._shared)
            wire += zmtp.frame(b"\x07MESSAGE" + counter + box)
        return wire

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self) -> bytes:
        """The body of the next one."""
        flags = self._exactly(1)[0]
        size = int.from_bytes(self._exactly(8 if flags & zmtp.LONG else 1), "big")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (piece := self.socket.recv(size - len(data))):
                raise ConnectionError("the other side ended the connection")
            data += piece
        return data

    def _next(self) -> bytes:
        self._sent += 1
        return struct.pack(">Q", self._sent)
