"""One connection: what is understood, what is refused at its header, and when it says that a message came."""

from __future__ import annotations

import socket
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import zmtp
from edge_runtime.capture.sender import MAX_SURPLUS_PARTS, SMALL_BYTES, Arrived, Limits, Sender
from edge_runtime.zmtp import COMMAND, LONG, MORE, ProtocolError, command, frame, properties

LIMITS = Limits((1000, 100_000), 200_000)
HELLO = zmtp.GREETING + command(b"READY", properties(Socket_Type=b"PUSH", Identity=b""))


class Wire:
    """A sender's connection, with both ends in hand, and a clock that stands still."""

    def __init__(self, said: bytes = HELLO) -> None:
        self.far, near = socket.socketpair()
        near.setblocking(False)
        self.sender = Sender(near, "one", LIMITS, 0)
        self.answers = b""
        self.far.sendall(said)
        if said:
            assert self.read(1) == []

    def read(self, now_ns: int) -> list[Arrived]:
        """All that waits, read at `now_ns`."""
        messages: list[Arrived] = []
        while True:
            try:
                self.answers += self.sender.receive(now_ns, messages)
                if self.sender.wants:
                    self.sender.grant()
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self.far.close()
        self.sender.socket.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def message(*parts: bytes) -> bytes:
    return b"".join(frame(part, MORE) for part in parts[:-1]) + frame(parts[-1])


def contents(arrived: list[Arrived]) -> list[tuple[bytes, ...]]:
    return [tuple(bytes(part) for part in one.parts) for one in arrived]


part = st.binary(max_size=300)


@given(
    st.lists(st.one_of(st.tuples(part), st.tuples(part, st.integers(0, 60_000).map(bytes))), max_size=12),
    st.lists(st.integers(1, 5000), min_size=1, max_size=8),
)
def test_messages_arrive_whole_whatever_pieces_they_come_in(sent: list[tuple[bytes, ...]], pieces: list[int]) -> None:
    wire = Wire(b"")
    said, got, number = HELLO + b"".join(message(*parts) for parts in sent), [], 0
    while said:
        piece, said = said[: pieces[number % len(pieces)]], said[pieces[number % len(pieces)] :]
        wire.far.sendall(piece)
        got += wire.read(number)
        number += 1
    assert contents(got) == sent
    assert wire.answers == zmtp.ready(b"PULL")
    wire.close()


@given(st.lists(st.binary(max_size=4000), max_size=6), st.sampled_from([b"", zmtp.GREETING, HELLO]))
def test_no_bytes_break_it(chunks: list[bytes], start: bytes) -> None:
    wire = Wire(b"")
    try:
        wire.far.sendall(start)
        wire.read(0)
        for chunk in chunks:
            wire.far.sendall(chunk)
            for one in wire.read(0):
                assert len(one.parts) <= 2 and all(
                    len(part) <= most for part, most in zip(one.parts, LIMITS.parts, strict=False)
                )
    except ProtocolError:
        pass
    wire.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "no_zmtp"),
        (zmtp.GREETING[:10] + b"\x01" + bytes(53), "old_zmtp"),
        (zmtp.GREETING.replace(b"NULL", b"CURV"), "other_security"),
        (zmtp.GREETING + frame(b"hello"), "no_handshake"),
        (zmtp.GREETING + command(b"READY", properties(Socket_Type=b"SUB")), "no_pusher"),
        (HELLO + b"\xff", "no_frame"),
        (HELLO + struct.pack(">BQ", LONG, 200_001), "too_big"),
        (HELLO + struct.pack(">BQ", LONG, 1 << 63), "too_big"),
        (HELLO + struct.pack(">BQ", LONG | COMMAND, 5000), "too_big"),
        (HELLO + command(b"ERROR", b"\x00"), "error"),
        (HELLO + frame(b"x", MORE) * (MAX_SURPLUS_PARTS + 3), "malformed"),
    ],
)
def test_what_no_pusher_says_ends_the_conversation(said: bytes, reason: str) -> None:
    wire = Wire(b"")
    wire.far.sendall(said)
    with pytest.raises(ProtocolError, match=reason):
        wire.read(0)
    wire.close()


@pytest.mark.parametrize(
    "broken", [b"\xff", frame(b"x", MORE) * (MAX_SURPLUS_PARTS + 3), struct.pack(">BQ", LONG, 1 << 40)]
)
def test_what_was_whole_before_a_break_has_arrived_and_nothing_behind_it(wire: Wire, broken: bytes) -> None:
    wire.far.sendall(message(b"a") + message(b"b", b"c") + broken + message(b"behind"))
    messages: list[Arrived] = []
    with pytest.raises(ProtocolError):
        wire.sender.receive(2, messages)
    assert contents(messages) == [(b"a",), (b"b", b"c")]


def test_a_heartbeat_is_answered_between_messages(wire: Wire) -> None:
    wire.far.sendall(message(b"a") + command(b"PING", b"\x00\x05mark") + message(b"b"))
    assert contents(wire.read(2)) == [(b"a",), (b"b",)]
    assert wire.answers.endswith(command(b"PONG", b"mark"))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [((b"a", b"b", b"c", b"", b"d"), "malformed"), ((bytes(1001),), "too_big"), ((b"a", bytes(100_001)), "too_big")],
)
def test_a_refused_message_costs_itself_only(wire: Wire, parts: tuple[bytes, ...], reason: str) -> None:
    wire.far.sendall(message(b"before") + message(*parts) + message(b"after", b"x"))
    before, refused, after = wire.read(2)
    assert contents([before, after]) == [(b"before",), (b"after", b"x")]
    assert (refused.parts, refused.refused) == ((), reason)


def test_announced_frames_take_no_memory_before_their_bytes_come(wire: Wire) -> None:
    tracemalloc.start()
    try:
        wire.far.sendall(frame(b"a", MORE) + struct.pack(">BQ", LONG, 100_000) + bytes(10))
        assert wire.read(2) == []
        assert wire.sender.holds == 100_000
        wire.far.sendall(bytes(99_990))
        (whole,) = wire.read(3)
        assert len(whole.parts[1]) == 100_000 and wire.sender.holds == 0
        # Long frames one after the other without end: none of them is kept.
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            wire.far.sendall(frame(bytes(100_000)))
            (one,) = wire.read(3)
            assert one.refused == "too_big"
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 900), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 3),
)
def test_nothing_counts_as_younger_than_it_is(steps: list[tuple[int, int, bool]], idle: int) -> None:
    """Messages wait in the socket while nobody reads, some read in the middle of a heap of them: none is said to have
    come later than it was sent.
    """
    wire = Wire()
    now, sent, got = 10, [], []
    for gap, size, reads in steps:
        now += gap
        wire.far.sendall(message(b"%d" % len(sent), bytes(size * 10)))
        sent.append(now)
        if reads:
            try:
                wire.sender.receive(now + 1, got)  # once: what is left waits on
                if wire.sender.wants:
                    wire.sender.grant()
            except BlockingIOError:
                pass
            now += 2
            if idle == 0 and not wire.sender._waiting():
                wire.sender.was_empty(now)
    now += 1000
    got += wire.read(now)
    assert [one.parts[0] for one in got] == [b"%d" % number for number in range(len(sent))]
    assert all(one.at_ns <= at for one, at in zip(got, sent, strict=True))
    wire.close()


def test_what_is_read_at_once_after_an_empty_look_came_after_that_look(wire: Wire) -> None:
    wire.sender.was_empty(500)
    wire.far.sendall(message(b"a"))
    assert [one.at_ns for one in wire.read(600)] == [500]
    wire.sender.was_empty(900)
    wire.far.sendall(message(b"b") + message(b"c", bytes(SMALL_BYTES * 2)))
    assert [one.at_ns for one in wire.read(1000)] == [900, 900]
