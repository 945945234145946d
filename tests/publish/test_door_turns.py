"""The publisher's door turn by turn, at times that a test says: what is read, who is told again, and who gives way."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime import zmtp
from edge_runtime.keyring import LOOK_S
from edge_runtime.publish import zmq_publisher
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import (
    HANDSHAKE_S,
    LAST_VALUE_S,
    LOG_INTERVAL_S,
    MUTE_S,
    READ_BURST_BYTES,
    READ_RATE,
    SOCKET_BYTES,
    STALLED_S,
    SWEEP_S,
    ZmqPublisher,
)
from edge_runtime.publish.zmtp import READY, Conversation
from tests.conftest import wait_for
from tests.publish.test_sinks import decision, status
from tests.publish.test_zmtp import HELLO, subscription

EVERYTHING = HELLO + subscription(b"")
HIGH_WATER_MARK = 4


class Hall:
    """A publisher whose door a test turns; its thread has nothing to do."""

    def __init__(self, bind: str = "tcp://127.0.0.1:*") -> None:
        self.publisher = ZmqPublisher(bind, HIGH_WATER_MARK)
        self.guests: list[socket.socket] = []
        self.now = 1000.0

    def turn(self) -> None:
        ready = {key.fd: events for key, events in self.publisher._selector.select(0.01)}
        self.publisher._turn(ready, self.now)

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            self.turn()

    def guest(self, said: bytes = b"") -> tuple[socket.socket, Any]:
        """A connection that has been let in and has said this, and the publisher's account of it."""
        before = list(self.peers)
        host, port = self.publisher.endpoint.removeprefix("tcp://").split(":")
        guest = socket.create_connection((host, int(port)), 20)
        guest.settimeout(0.2)
        self.guests.append(guest)

        def is_in() -> bool:
            self.turn()
            return len(self.peers) > len(before) or self.peers[-1:] != before[-1:]

        wait_for(is_in, "a guest to be let in")
        peer = self.peers[-1]
        if said:
            self.say(guest, peer, said)
        return guest, peer

    def say(self, guest: socket.socket, peer: Any, said: bytes) -> None:
        """What is said has been read when this returns."""
        read = peer.conversation.feed
        heard = bytearray()

        def feed(data: bytes) -> Any:
            heard.extend(data)
            return read(data)

        peer.conversation.feed = feed
        guest.sendall(said)

        def all_read() -> bool:
            self.turn()
            return len(heard) >= len(said)

        wait_for(all_read, "it to be heard")
        del peer.conversation.feed

    @property
    def peers(self) -> list[Any]:
        return list(self.publisher._peers.values())

    def publish(self, seq: int) -> None:
        self.publisher.publish(published(decision(seq)))

    def close(self) -> None:
        for guest in self.guests:
            guest.close()
        self.publisher._close_all()
        os.close(self.publisher._wake)


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    monkeypatch.setattr(ZmqPublisher, "_run", lambda publisher: None)
    hall = Hall()
    yield hall
    hall.close()


def heard(guest: socket.socket) -> bytes:
    """All that has come."""
    data = b""
    try:
        while more := guest.recv(1 << 16):
            data += more
    except TimeoutError:
        pass
    return data


def gone(guest: socket.socket) -> bool:
    try:
        while guest.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_a_new_subscriber_is_greeted_and_gets_the_last_of_each_of_its_topics_once(hall: Hall) -> None:
    hall.publish(1)
    hall.publish(2)
    hall.publisher.publish(published(status(3)))
    guest, peer = hall.guest(HELLO + subscription(b"decision."))
    data = heard(guest)
    assert data.startswith(zmtp.GREETING + READY + b"\x01\x0cdecision.car")
    assert data.count(b"decision.car") == 1 and b"status.car" not in data and b'"seq":2,' in data
    hall.publish(4)
    assert b'"seq":4,' in heard(guest)
    hall.say(guest, peer, subscription(b"status."))
    data = heard(guest)
    assert data.count(b"status.car") == 1 and b"decision.car" not in data
    hall.say(guest, peer, subscription(b"decision.", on=False))
    hall.publish(5)
    assert heard(guest) == b"", "what is not wanted any more does not come"


def test_to_ask_again_gets_the_last_value_again_at_most_once_a_second(hall: Hall) -> None:
    hall.publish(1)
    guest, peer = hall.guest(EVERYTHING)
    assert heard(guest).count(b"decision.car") == 1
    hall.say(guest, peer, subscription(b"") * 5)
    assert heard(guest) == b"" and hall.publisher._timeout() == SWEEP_S
    hall.now += LAST_VALUE_S - 0.01
    hall.turns()
    assert heard(guest) == b""
    hall.now += 0.01
    hall.publisher._next_sweep = hall.now
    hall.turns()
    assert heard(guest).count(b"decision.car") == 1
    hall.now += 10 * LAST_VALUE_S
    hall.turns()
    assert heard(guest) == b"", "asked five times at once, told once"


def test_what_is_read_of_one_subscriber_is_a_burst_and_then_a_rate(hall: Hall) -> None:
    guest, peer = hall.guest(EVERYTHING)
    assert peer.credit == READ_BURST_BYTES - len(EVERYTHING)
    guest.sendall(subscription(b"") * 7000)  # 21 kB
    wait_for(lambda: hall.turn() or peer.credit < 1, "the burst to be read")  # type: ignore[func-returns-value]
    assert not peer.events & zmq_publisher._READ and hall.publisher._timeout() == SWEEP_S
    hall.publisher._next_sweep = hall.now
    peer.credit = 0.0
    hall.now += 0.9 * SWEEP_S
    hall.turn()
    assert peer.credit == pytest.approx(0.9 * SWEEP_S * READ_RATE)
    assert not peer.events & zmq_publisher._READ, "not for every byte"
    hall.now += 0.2 * SWEEP_S
    hall.publisher._next_sweep = hall.now
    hall.turn()
    assert peer.events & zmq_publisher._READ and peer.credit == pytest.approx(1.1 * SWEEP_S * READ_RATE)
    hall.turn()
    assert peer.credit < 1 and not peer.events & zmq_publisher._READ
    peer.earn(hall.now + 1e6)
    assert peer.credit == READ_BURST_BYTES


def test_time_that_passes_earns_before_what_is_read_costs(hall: Hall) -> None:
    guest, peer = hall.guest(EVERYTHING)
    peer.credit = 100.0
    hall.now += 1
    hall.say(guest, peer, subscription(b""))
    assert peer.credit == pytest.approx(100 + READ_RATE - len(subscription(b"")))


def test_a_handshake_is_waited_for_as_long_as_is_said(hall: Hall) -> None:
    silent, _ = hall.guest(zmtp.GREETING)
    done, peer = hall.guest(HELLO)
    hall.now += HANDSHAKE_S
    hall.turns()
    assert len(hall.peers) == 2 and hall.publisher._refused == {}
    hall.now += SWEEP_S
    hall.turns()
    assert hall.peers == [peer] and gone(silent) and not gone(done), "who has only not subscribed may stay"


def test_who_is_of_no_use_gives_way_eldest_first_and_else_the_new_one_is_refused(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    hall.publisher._room = 3
    hall.publish(1)
    _, first = hall.guest(EVERYTHING)
    _, idle = hall.guest(HELLO)
    _, late = hall.guest(zmtp.GREETING)
    _, fourth = hall.guest(EVERYTHING)
    assert hall.peers == [first, idle, fourth], "the one in its handshake went"
    _, fifth = hall.guest(EVERYTHING)
    assert hall.peers == [first, fourth, fifth], "then the one that had subscribed to nothing"
    fourth.behind, fourth.moved_at = True, hall.now - STALLED_S
    host, port = hall.publisher.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), 20) as refused:
        refused.settimeout(0.2)
        wait_for(lambda: hall.turn() or hall.publisher._refused["no_room"] > 0, "it to be refused")  # type: ignore[func-returns-value]
        assert gone(refused)
    assert hall.peers == [first, fourth, fifth], "it has taken something not long ago"
    hall.now += 0.001
    _, sixth = hall.guest(EVERYTHING)
    assert hall.peers == [first, fifth, sixth]
    assert hall.publisher._refused == {"gave_way": 3, "no_room": 1}
    caplog.clear()
    hall.publisher._next_log = hall.now + LOG_INTERVAL_S
    for _ in range(2):
        hall.now += LOG_INTERVAL_S / 2
        hall.turns()
    (line,) = caplog.messages
    assert line.endswith("connections closed: gave_way 3, no_room 1")
    assert hall.publisher._refused == {} and hall.publisher._next_log == hall.now + LOG_INTERVAL_S
    assert late.socket.fileno() == idle.socket.fileno() == fourth.socket.fileno() == -1


def test_behind_one_that_does_not_read_the_newest_wait_and_the_oldest_go(hall: Hall) -> None:
    guest, peer = hall.guest(EVERYTHING)
    other, _ = hall.guest(EVERYTHING)
    assert zmtp.GREETING in heard(guest)
    peer.rest, peer.behind = memoryview(b"rest"), True
    hall.now += 1
    for seq in range(10):
        hall.publish(seq)
    assert len(peer.backlog) == HIGH_WATER_MARK
    hall.publisher._look_after(peer, hall.now - 0.5)
    assert peer.moved_at == hall.now - 0.5, "since then it has taken nothing"
    hall.publisher._attention.append(peer)
    os.eventfd_write(hall.publisher._wake, 1)
    hall.turns()
    assert peer.moved_at == hall.now
    awake = {key.fd for key, _ in hall.publisher._selector.select(0)}
    assert hall.publisher._wake not in awake, "it is woken once"
    data = heard(guest)
    assert data.startswith(b"rest")
    assert [b'"seq":%d,' % seq in data for seq in range(10)] == [False] * 6 + [True] * 4
    assert not peer.behind and not peer.events & zmq_publisher._WRITE
    assert heard(other).count(b"decision.car") == 10, "nobody else loses anything"


def test_nothing_wakes_a_door_at_which_nothing_is_due(hall: Hall) -> None:
    assert hall.publisher._timeout() is None
    guest, peer = hall.guest(EVERYTHING)
    assert hall.publisher._timeout() is None
    _, late = hall.guest()
    assert hall.publisher._timeout() == SWEEP_S
    hall.publisher._drop(late)
    assert hall.publisher._timeout() is None
    hall.publisher._drop(peer, "error")
    assert hall.publisher._timeout() == SWEEP_S, "to say so"
    assert gone(guest)
    hall.publish(1)  # and nobody is sent anything


def test_without_a_file_descriptor_one_gives_way_or_the_new_one_is_turned_away(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    hall.publish(1)
    _, idle = hall.guest(HELLO)
    _, hears = hall.guest(EVERYTHING)
    tried: list[float] = []

    def none() -> None:
        tried.append(hall.now)
        raise OSError(errno.EMFILE, "none left")

    listener = hall.publisher._listener
    full = SimpleNamespace(accept=none, fileno=listener.socket.fileno)
    monkeypatch.setattr(hall.publisher, "_listener", SimpleNamespace(socket=full, close=listener.close))
    assert not hall.publisher._accept(hall.now)
    assert hall.peers == [hears] and hall.publisher._mute_until == 0, "the idle one has made room: it is tried again"
    assert idle.socket.fileno() == -1
    assert not hall.publisher._accept(hall.now)
    assert (len(tried), hall.publisher._refused["no_file_descriptors"]) == (3, 1)

    def gone_again() -> None:
        raise ConnectionAbortedError

    monkeypatch.setattr(full, "accept", gone_again)
    assert hall.publisher._accept(hall.now) is True, "there may be another"
    assert hall.publisher._mute_until == hall.now + MUTE_S and hall.publisher._timeout() == SWEEP_S
    assert hall.publisher._spare is not None, "one is kept for the next"
    assert listener.socket.fileno() not in {key.fd for key in hall.publisher._selector.get_map().values()}
    hall.publisher._next_sweep = 0.0
    hall.now += MUTE_S - 0.001
    hall.turn()
    assert hall.publisher._mute_until
    hall.publisher._next_sweep = 0.0
    hall.now += 0.002
    hall.turn()
    assert hall.publisher._mute_until == 0.0
    assert listener.socket.fileno() in {key.fd for key in hall.publisher._selector.get_map().values()}


def test_who_has_broken_off_is_sent_nothing_more_and_forgotten_in_the_next_turn(hall: Hall) -> None:
    guest, peer = hall.guest(EVERYTHING)
    guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    guest.close()

    def broken() -> bool:
        hall.publish(1)
        return bool(peer.broken)

    wait_for(broken, "it to be noticed")
    hall.publish(2)
    assert list(hall.publisher._attention) == [peer], "looked after once"
    hall.publisher._turn({}, hall.now)
    assert hall.peers == [] and hall.publisher._refused == {}


@pytest.mark.parametrize("keys", [False, True])
def test_who_goes_before_it_has_shown_a_key_is_counted_where_there_are_keys(hall: Hall, keys: bool) -> None:
    guest, _ = hall.guest(zmtp.GREETING)
    hall.publisher._keyring = SimpleNamespace(changed=lambda now: False) if keys else None  # type: ignore[assignment]
    guest.close()
    wait_for(lambda: hall.turn() or not hall.peers, "it to be forgotten")  # type: ignore[func-returns-value]
    assert hall.publisher._refused == ({"no_handshake": 1} if keys else {})


def test_who_is_revoked_goes_once_the_keys_have_changed(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    _, revoked = hall.guest(EVERYTHING)
    _, good = hall.guest(EVERYTHING)
    asked: list[float] = []
    answers = [False, True]

    def changed(now: float) -> bool:
        asked.append(now)
        return answers.pop(0)

    clients = {revoked.conversation: "revoked", good.conversation: "good"}
    monkeypatch.setattr(Conversation, "client", property(clients.get))
    keyring = SimpleNamespace(changed=changed, stands=lambda client: client == "good")
    hall.publisher._keyring = keyring  # type: ignore[assignment]
    assert hall.publisher._timeout() == LOOK_S, "keys are looked at though nothing comes"
    hall.publisher._sweep(hall.now)
    assert asked == [hall.now] and hall.peers == [revoked, good]
    hall.publisher._next_log = hall.now + 1  # which forgets what it has told
    hall.publisher._sweep(hall.now)
    assert hall.peers == [good] and hall.publisher._refused["revoked"] == 1


def test_what_the_kernel_keeps_of_a_connection_is_bounded(
    hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2 * min(SOCKET_BYTES, int(Path("/proc/sys/net/core/wmem_max").read_text()))
    monkeypatch.chdir(tmp_path)
    near = Hall("ipc://door")
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect("door")
        wait_for(lambda: near.turn() or bool(near.peers), "it to be let in")  # type: ignore[func-returns-value]
        _, far = hall.guest()
        for peer in (near.peers[0], far):
            assert peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == most
    near.close()


def test_at_the_end_what_waits_goes_out_and_nobody_is_heard_or_let_in(hall: Hall) -> None:
    guest, peer = hall.guest(EVERYTHING)
    silent, stuck = hall.guest(EVERYTHING)
    heard(guest)
    peer.rest, peer.behind = memoryview(b"the rest"), True
    stuck.rest, stuck.behind = memoryview(bytes(64 << 20)), True
    hall.publisher._attention.extend((peer, stuck))
    silent.sendall(subscription(b"more"))
    host, port = hall.publisher.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), 20):
        hall.publisher._linger()
    assert heard(guest) == b"the rest" and not peer.behind
    assert stuck.behind, "one that takes nothing is not waited for"
    assert not stuck.events & zmq_publisher._READ
    assert hall.publisher._listener.socket.fileno() not in hall.publisher._selector.get_map()
