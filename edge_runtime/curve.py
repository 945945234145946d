"""The server's side of CurveZMQ (rfc.zeromq.org/spec/26): only known keys get in, and nobody else can read or change
what passes. The cryptography is libsodium's.

A server's connection knows one client by its long-term key. What a stranger can make it do before that is five
operations on the curve, which the door counts as its cost.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Collection

from nacl.bindings import (
    crypto_box_beforenm,
    crypto_box_easy_afternm,
    crypto_box_keypair,
    crypto_box_open_easy_afternm,
)
from nacl.exceptions import CryptoError

from edge_runtime import zmtp
from edge_runtime.keyring import Client, Keyring
from edge_runtime.zmtp import ProtocolError

NAME = b"CURVE"
GREETING = zmtp.greeting(NAME, as_server=True)
KEY_BYTES = 32
_MAC_BYTES, _LONG_NONCE_BYTES, _COOKIE_BYTES = 16, 16, 96
_MESSAGE = b"\x07MESSAGE"
_COUNTER = struct.Struct(">Q")
OVERHEAD = len(_MESSAGE) + _COUNTER.size + _MAC_BYTES + 1
_HELLO_BYTES = 2 + 72 + KEY_BYTES + _COUNTER.size + 64 + _MAC_BYTES
_VOUCH_BYTES = 2 * KEY_BYTES + _MAC_BYTES
_IDENTITY_BYTES = KEY_BYTES + _LONG_NONCE_BYTES + _VOUCH_BYTES


class CurveServer:
    """See zmtp.Mechanism. `keyring` says with which keys this side is known, and which clients there are."""

    name = NAME
    greeting = GREETING
    overhead = OVERHEAD

    def __init__(self, own: bytes, others: Collection[bytes], stranger: str, keyring: Keyring) -> None:
        self.open = False
        self.client: Client | None = None
        self._own, self._others, self._stranger = own, others, stranger
        self._keyring = keyring
        self._cookie = b""
        self._own_secret = b""
        self._server_public = b""
        self._client_transient = b""
        self._shared = b""
        """Of the two transient keys; nothing else is needed once it is open, and nobody can make it again."""
        self._sent = 0
        self._heard = 0
        """The other side's counter, which only goes up: nothing can be said again."""

    def begin(self) -> bytes:
        """See Mechanism: the client speaks first."""
        return b""

    def handshake(self, body: bytes) -> bytes:
        """See Mechanism."""
        name, data = zmtp.split_command(body)
        try:
            if name == b"HELLO" and not self._cookie:
                return self._welcome(data)
            if name == b"INITIATE" and self._cookie:
                return self._ready(data)
        except CryptoError:
            raise ProtocolError("bad_key") from None
        raise ProtocolError("no_handshake")

    def unseal(self, flags: int, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """See Mechanism."""
        begin = len(_MESSAGE) + _COUNTER.size
        if len(body) < OVERHEAD or bytes(body[: len(_MESSAGE)]) != _MESSAGE:
            raise ProtocolError("not_sealed")
        counter = bytes(body[len(_MESSAGE) : begin])
        self._count(counter)
        try:
            plain = crypto_box_open_easy_afternm(bytes(body[begin:]), b"CurveZMQMESSAGEC" + counter, self._shared)
        except CryptoError:
            raise ProtocolError("not_sealed") from None
        # 1: more frames follow; 2: a command.
        return (zmtp.MORE if plain[0] & 1 else 0) | (zmtp.COMMAND if plain[0] & 2 else 0), memoryview(plain)[1:]

    def seal(self, *frames: tuple[int, bytes]) -> bytes:
        """See Mechanism."""
        wire = b""
        for flags, body in frames:
            inner = bytes(((1 if flags & zmtp.MORE else 0) | (2 if flags & zmtp.COMMAND else 0),)) + body
            counter = self._next()
            box = crypto_box_easy_afternm(inner, b"CurveZMQMESSAGES" + counter, self._shared)
            wire += zmtp.frame(_MESSAGE + counter + box)
        return wire

    def _welcome(self, data: bytes) -> bytes:
        """To the client's HELLO: it knows this server's key."""
        if len(data) != _HELLO_BYTES or data[0] != 1:
            raise ProtocolError("bad_hello")
        transient, rest = data[74 : 74 + KEY_BYTES], data[74 + KEY_BYTES :]
        counter, box = rest[: _COUNTER.size], rest[_COUNTER.size :]
        public, shared = self._known_as(transient, counter, box)
        self._count(counter)
        own_transient, own_secret = crypto_box_keypair()
        self._cookie = os.urandom(_COOKIE_BYTES)
        self._server_public, self._client_transient = public, transient
        self._shared = crypto_box_beforenm(transient, own_secret)
        self._own_secret = own_secret
        nonce = os.urandom(_LONG_NONCE_BYTES)
        welcome = crypto_box_easy_afternm(own_transient + self._cookie, b"WELCOME-" + nonce, shared)
        return zmtp.command(b"WELCOME", nonce + welcome)

    def _known_as(self, transient: bytes, counter: bytes, box: bytes) -> tuple[bytes, bytes]:
        """Which of this side's public keys the client means, and what it shares with that one."""
        for public, secret in self._keyring.own:
            shared = crypto_box_beforenm(transient, secret)
            try:
                crypto_box_open_easy_afternm(box, b"CurveZMQHELLO---" + counter, shared)
            except CryptoError:
                continue
            return public, shared
        raise ProtocolError("other_server_key")

    def _ready(self, data: bytes) -> bytes:
        """To the client's INITIATE: it holds a key that may come in, and the transient key is its own."""
        cookie, counter = data[:_COOKIE_BYTES], data[_COOKIE_BYTES : _COOKIE_BYTES + _COUNTER.size]
        if len(counter) != _COUNTER.size or not hmac.compare_digest(cookie, self._cookie):
            raise ProtocolError("bad_initiate")
        self._count(counter)
        box = data[_COOKIE_BYTES + _COUNTER.size :]
        plain = crypto_box_open_easy_afternm(box, b"CurveZMQINITIATE" + counter, self._shared)
        if len(plain) < _IDENTITY_BYTES:
            raise ProtocolError("bad_initiate")
        public, metadata = plain[:KEY_BYTES], plain[_IDENTITY_BYTES:]
        nonce, vouch = plain[KEY_BYTES : KEY_BYTES + _LONG_NONCE_BYTES], plain[KEY_BYTES + _LONG_NONCE_BYTES :]
        shared = crypto_box_beforenm(public, self._own_secret)
        vouched = crypto_box_open_easy_afternm(vouch[:_VOUCH_BYTES], b"VOUCH---" + nonce, shared)
        if not hmac.compare_digest(vouched, self._client_transient + self._server_public):
            raise ProtocolError("bad_initiate")
        client = self._keyring.client(public)
        if client is None:
            raise ProtocolError("unknown_key")
        if zmtp.socket_type(metadata) not in self._others:
            raise ProtocolError(self._stranger)
        self.client, self.open = client, True
        self._own_secret = self._cookie = b""
        answer = self._next()
        own = zmtp.properties(Socket_Type=self._own)
        return zmtp.command(b"READY", answer + crypto_box_easy_afternm(own, b"CurveZMQREADY---" + answer, self._shared))

    def _next(self) -> bytes:
        self._sent += 1
        return _COUNTER.pack(self._sent)

    def _count(self, counter: bytes) -> None:
        (number,) = _COUNTER.unpack(counter)
        if number <= self._heard:
            raise ProtocolError("said_again")
        self._heard = number
