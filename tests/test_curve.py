"""Doors with keys: who gets in, what they may do there, and what a stranger can see or break."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import Subscriber, keyring, sockets, zmtp
from edge_runtime.capture.zmq_source import ZmqSource
from edge_runtime.config import ZmqSink
from edge_runtime.config import ZmqSource as SourceRow
from edge_runtime.curve import OVERHEAD, CurveServer
from edge_runtime.keyring import Keyring
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage, StatusMessage
from edge_runtime.zmtp import ProtocolError
from tests.capture.test_sources import Inbox
from tests.conftest import jpeg, noise, running, tiny_config, wait_for

ROOT = Path(__file__).parent.parent
SAMPLE = {"schema": 1, "stream": "sensors", "values": {"a": 1}}
SENTENCE = {"schema": 1, "stream": "text", "text": "stop here"}


class Keys:
    """A folder of keys with three clients."""

    def __init__(self, where: Path) -> None:
        self.folder = where / "keys"
        self.where = where
        keyring.make_server(self.folder)
        self.both = self.client("both", ("*",), True)
        self.reader = self.client("reader", (), True)
        self.writer = self.client("writer", ("sensors",), False)

    def client(self, name: str, send: tuple[str, ...], receive: bool) -> Path:
        return keyring.make_client(self.folder, name, send, receive, self.where / f"{name}.key.toml")

    def stranger(self) -> Path:
        """Knows the server's key, as everybody may, and has one that nobody gave it."""
        public, secret = (key.decode() for key in zmq.curve_keypair())
        path = self.where / "stranger.key.toml"
        path.write_text(f'server_key = "{keyring.public_keys(self.folder)[0]}"\npublic_key = "{public}"\n')
        path.write_text(path.read_text() + f'secret_key = "{secret}"\n')
        path.chmod(0o600)
        return path


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


class Hall:
    """A source with keys, and who pushes to it."""

    def __init__(self, keys: Keys, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.inbox = Inbox()
        self.source = ZmqSource(self.inbox.intake, "tcp://127.0.0.1:*", keys=keys.folder)
        self.source.start()
        self._context = context

    def guest(self, keys: Path | None) -> zmq.Socket[bytes]:
        guest = self._context.socket(zmq.PUSH)
        guest.setsockopt(zmq.RECONNECT_IVL, 20)
        guest.setsockopt(zmq.LINGER, 0)
        guest.setsockopt(zmq.SNDTIMEO, 60_000)
        sockets.connect(guest, self.source.endpoint, keys)
        return guest

    def dropped(self, stream: str) -> dict[str, int]:
        return self.inbox.boxes[stream].counts(0).dropped

    def ended(self, reason: str) -> int:
        return self.inbox.intake.unrouted_counts().get(f"connection_{reason}", 0)


@pytest.fixture
def hall(keys: Keys, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Hall]:
    made = Hall(keys, context)
    yield made
    made.source.stop()


def test_a_client_sends_its_own_streams_and_no_others(keys: Keys, hall: Hall) -> None:
    writer = hall.guest(keys.writer)
    writer.send(json.dumps(SAMPLE).encode())
    wait_for(lambda: hall.inbox.captured("sensors") == 1, "its sample")
    writer.send(json.dumps(SENTENCE).encode())
    wait_for(lambda: hall.dropped("text").get("not_allowed") == 1, "the refusal")
    writer.send(json.dumps({**SENTENCE, "stream": "nobody's"}).encode())
    wait_for(lambda: hall.inbox.intake.unrouted_counts().get("unknown_stream") == 1, "the other refusal")
    both = hall.guest(keys.both)
    both.send(json.dumps(SENTENCE).encode())
    wait_for(lambda: hall.dropped("text") == {"not_allowed": 1} and hall.inbox.captured("text") == 2, "the sentence")


def test_pictures_of_any_size_and_many_small_messages_come_through(keys: Keys, hall: Hall) -> None:
    both = hall.guest(keys.both)
    header = json.dumps({"schema": 1, "stream": "camera", "id": "one"}).encode()
    picture = jpeg(noise(128, 1))
    padded = picture + bytes(300_000)  # more than one read
    for content in (picture, padded):
        taken = hall.inbox.captured("camera")
        both.send_multipart([header, content])
        wait_for(lambda before=taken: hall.inbox.captured("camera") > before, "the picture")  # type: ignore[misc]
    for _ in range(500):
        both.send(json.dumps(SAMPLE).encode())
    wait_for(lambda: hall.inbox.captured("sensors") == 500, "all samples")
    assert hall.inbox.intake.unrouted_counts() == {}
    both.send_multipart([header, bytes(9 << 20)])
    wait_for(lambda: hall.ended("too_big") == 1, "the end of a sender of pictures without end")


def test_strangers_plain_and_foreign_are_counted_and_heard_by_nobody(keys: Keys, hall: Hall) -> None:
    stranger, plain = hall.guest(keys.stranger()), hall.guest(None)
    other = keys.where / "other"
    keyring.make_server(other)
    lost = hall.guest(keyring.make_client(other, "lost", ("*",), True, keys.where / "lost.key.toml"))
    for guest in (stranger, plain, lost):
        with contextlib.suppress(zmq.Again):  # the plain client may be gone already: it has nowhere to send to
            guest.send(json.dumps(SAMPLE).encode(), zmq.NOBLOCK)
    # They try again, but the library's plain client: it sees that it will not be understood, and goes.
    for reason, times in (("unknown_key", 2), ("no_handshake", 1), ("other_server_key", 2)):
        wait_for(lambda reason=reason, times=times: hall.ended(reason) >= times, reason)  # type: ignore[misc]
    assert hall.inbox.captured("sensors") == 0


def test_a_revoked_client_is_out_at_once_and_a_new_one_in_without_a_restart(keys: Keys, hall: Hall) -> None:
    writer = hall.guest(keys.writer)
    writer.send(json.dumps(SAMPLE).encode())
    wait_for(lambda: hall.inbox.captured("sensors") == 1, "its sample")
    keyring.remove_client(keys.folder, "writer")
    wait_for(lambda: hall.ended("revoked") == 1 and hall.ended("unknown_key") > 0, "its end, and its next try")
    late = hall.guest(keys.client("late", ("sensors",), False))
    late.send(json.dumps(SAMPLE).encode())
    wait_for(lambda: hall.inbox.captured("sensors") == 2, "the new one's sample")


def test_both_keys_are_good_while_they_are_rotated_and_then_the_new_one_only(keys: Keys, hall: Hall) -> None:
    keyring.rotate_server(keys.folder)
    new = keys.client("new", ("*",), True)
    wait_for(lambda: _sent(hall, new), "the new key")
    assert _sent(hall, keys.both, 20), "the key before"
    moved = keyring.rotate_client(keys.folder, "both", keys.where / "moved.key.toml")
    wait_for(lambda: _sent(hall, moved), "the client's new key")
    assert _sent(hall, keys.both, 20), "the client's key before"
    keyring.finish_rotation(keys.folder, "both")
    keyring.finish_rotation(keys.folder, None)
    wait_for(lambda: not _sent(hall, keys.both, 0.3), "the end of the keys before")
    assert _sent(hall, moved, 20)


def _sent(hall: Hall, keys: Path, within_s: float = 2.0) -> bool:
    """Whether a sample of somebody with these keys arrives soon."""
    before = hall.inbox.captured("sensors")
    guest = hall.guest(keys)
    guest.send(json.dumps(SAMPLE).encode())
    deadline = time.monotonic() + within_s
    while hall.inbox.captured("sensors") == before and time.monotonic() < deadline:
        time.sleep(0.01)
    guest.close(linger=0)
    return hall.inbox.captured("sensors") > before


def _with_keys(bundle: Path, keys: Keys) -> Runtime:
    config = tiny_config(bundle, SourceRow("tcp://127.0.0.1:*", rate_limit=0, keys=str(keys.folder)))
    return Runtime(msgspec.structs.replace(config, sink=(ZmqSink("tcp://127.0.0.1:*", keys=str(keys.folder)),)))


def test_decisions_reach_those_who_may_read_them_and_nobody_else(tiny_bundle_path: Path, keys: Keys) -> None:
    with running(_with_keys(tiny_bundle_path, keys)) as runtime:
        where = runtime.decisions_endpoint
        others = [Subscriber(where, keys=one) for one in (keys.writer, keys.stranger(), None)]
        with Subscriber(where, keys=keys.both) as one, Subscriber(where, keys=keys.reader) as two:
            for subscriber in (one, two):
                seen: set[type] = set()
                wait_for(lambda s=subscriber, seen=seen: _seen(s, seen), "decisions and status")  # type: ignore[misc]
                assert subscriber.lost == 0
        for other in others:
            assert other.receive(0.2) is None
            other.close()


def _seen(subscriber: Subscriber, seen: set[type]) -> bool:
    seen.add(type(subscriber.receive(0.1)))
    return seen >= {DecisionMessage, StatusMessage}


def test_nothing_that_passes_can_be_read_on_the_way(tiny_bundle_path: Path, keys: Keys) -> None:
    with (
        running(_with_keys(tiny_bundle_path, keys)) as runtime,
        _Tap(runtime.decisions_endpoint) as tap,
        Subscriber(tap.endpoint, keys=keys.both) as subscriber,
    ):
        wait_for(lambda: isinstance(subscriber.receive(0.1), DecisionMessage), "a decision")
    assert b"CURVE" in tap.heard, "it did listen"
    for word in (b"decision.", b"probabilities", b"stop", b"schema"):
        assert word not in tap.heard


class _Tap:
    """Somebody on the way who passes everything on."""

    def __init__(self, endpoint: str) -> None:
        self._to = int(endpoint.rsplit(":", 1)[1])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self.heard = b""

    def __enter__(self) -> _Tap:
        threading.Thread(target=self._meet, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _meet(self) -> None:
        near, _ = self._listening.accept()
        far = socket.create_connection(("127.0.0.1", self._to))
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.heard += data
                target.sendall(data)
        except OSError:
            pass


def test_heartbeats_of_the_library_are_answered_under_seal(tiny_bundle_path: Path, keys: Keys) -> None:
    """A connection whose heartbeats are not answered is ended by the library within their time-out."""
    with running(_with_keys(tiny_bundle_path, keys)) as runtime, zmq.Context() as context:
        guest = context.socket(zmq.SUB)
        guest.setsockopt(zmq.HEARTBEAT_IVL, 50)
        guest.setsockopt(zmq.HEARTBEAT_TIMEOUT, 150)
        guest.setsockopt(zmq.RCVTIMEO, 20_000)
        guest.subscribe(b"status.")
        events = guest.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sockets.connect(guest, runtime.decisions_endpoint, keys.reader)
        for _ in range(2):
            guest.recv_multipart()  # a second apart
        assert not events.poll(0)
        guest.disable_monitor()
        events.close(linger=0)
        guest.close(linger=0)


class Dialogue:
    """The library's client beside a mechanism, so that what it sends can be changed on the way."""

    def __init__(self, keys: Keys, client: Path) -> None:
        self.keyring = Keyring(keys.folder)
        listening = socket.create_server(("127.0.0.1", 0))
        self._context = zmq.Context()
        self.pushing = self._context.socket(zmq.PUSH)
        sockets.connect(self.pushing, f"tcp://127.0.0.1:{listening.getsockname()[1]}", client)
        self.near, _ = listening.accept()
        listening.close()
        self.near.settimeout(20)
        self.server = CurveServer(b"PULL", (b"PUSH",), "no_pusher", self.keyring)
        self.near.sendall(self.server.greeting)
        self._exactly(zmtp.GREETING_BYTES)

    def command(self) -> bytes:
        """The body of the next frame."""
        flags = self._exactly(1)[0]
        size = int.from_bytes(self._exactly(8 if flags & zmtp.LONG else 1), "big")
        return self._exactly(size)

    def opened(self) -> None:
        for _ in range(2):
            self.near.sendall(self.server.handshake(self.command()))
        assert self.server.open

    def close(self) -> None:
        self._context.destroy(linger=0)
        self.near.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.near.recv(size - len(data))
        return data


@pytest.fixture
def dialogue(keys: Keys) -> Iterator[Dialogue]:
    made = Dialogue(keys, keys.both)
    yield made
    made.close()


def test_a_message_cannot_be_changed_or_said_again(dialogue: Dialogue) -> None:
    dialogue.opened()
    dialogue.pushing.send_multipart([b"first", b"second"])
    first, second = dialogue.command(), dialogue.command()
    for at in range(len(first)):
        changed = bytearray(first)
        changed[at] ^= 1
        with pytest.raises(ProtocolError):
            fresh = dialogue.server._heard
            try:
                dialogue.server.unseal(0, bytes(changed))
            finally:
                dialogue.server._heard = fresh  # as if the connection had not ended
    flags, body = dialogue.server.unseal(0, first)
    assert (flags, bytes(body)) == (zmtp.MORE, b"first")
    with pytest.raises(ProtocolError, match="said_again"):
        dialogue.server.unseal(0, first)
    flags, body = dialogue.server.unseal(0, second)
    assert (flags, bytes(body)) == (0, b"second")
    assert len(second) == len(b"second") + OVERHEAD


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_handshake_opens_nothing(keys: Keys, which: int) -> None:
    dialogue = Dialogue(keys, keys.both)
    try:
        for _ in range(which):
            dialogue.near.sendall(dialogue.server.handshake(dialogue.command()))
        said = dialogue.command()
        start = 1 + said[0]
        # HELLO is padded with zeros that nobody reads.
        places = [*range(start, len(said), 7)] if which else [start, *range(start + 74, len(said), 5)]
        for at in places:
            changed = bytearray(said)
            changed[at] ^= 1
            with pytest.raises(ProtocolError):
                dialogue.server.handshake(bytes(changed))
            assert not dialogue.server.open
            dialogue.server._heard = which  # as if it had not been tried
    finally:
        dialogue.close()


@given(
    st.lists(st.binary(max_size=400), max_size=4), st.sampled_from([b"", b"\x05HELLO", b"\x08INITIATE", b"\x07MESSAGE"])
)
def test_whatever_a_stranger_says_ends_the_conversation_or_nothing(said: list[bytes], start: bytes) -> None:
    server = CurveServer(b"PULL", (b"PUSH",), "no_pusher", _NOBODY)
    for body in said:
        with pytest.raises(ProtocolError):
            server.handshake(start + body)
        with pytest.raises(ProtocolError):
            server.unseal(0, start + body)
    assert not server.open


class _Nobody(Keyring):
    def __init__(self) -> None:
        self.own = ((bytes(31) + b"\x09", bytes(31) + b"\x01"),)

    def client(self, public: bytes) -> None:
        return None


_NOBODY = _Nobody()
