"""One connection: what is understood, what is refused at its header, and when it says that a message came."""

from __future__ import annotations

import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import zmtp
from edge_runtime.capture.sender import MAX_MARKS, MAX_SURPLUS_PARTS, SMALL_BYTES, Arrived, Limits, Sender
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


def test_what_comes_after_a_read_that_left_nothing_came_after_that_read(wire: Wire) -> None:
    for number in range(3):
        wire.far.sendall(message(b"a"))
        assert [one.at_ns for one in wire.read(100 * (number + 1))] == [100 * number or 1]
    # More than is read at once: the rest had come by then, and what is sent after it had not.
    wire.far.sendall(message(b"b", bytes(600)) * 60)
    first: list[Arrived] = []
    wire.sender.receive(1000, first)
    assert 0 < len(first) < 60
    wire.far.sendall(message(b"c"))
    rest = wire.read(2000)
    assert {one.at_ns for one in [*first, *rest[:-1]]} == {300}
    assert [(bytes(rest[-1].parts[0]), rest[-1].at_ns)] == [(b"c", 1000)]


@pytest.mark.parametrize("parts", [(b"first", b"second"), (b"first", bytes(SMALL_BYTES * 3)), (b"a", b"b", b"c")])
def test_a_message_is_as_old_as_its_first_frame_refused_or_not(wire: Wire, parts: tuple[bytes, ...]) -> None:
    wire.read(50)
    for number, part in enumerate(parts):
        said = frame(part, MORE if number < len(parts) - 1 else 0)
        wire.far.sendall(said[: len(said) // 2])
        assert wire.read(100 + 10 * number) == []
        wire.far.sendall(said[len(said) // 2 :])
        got = wire.read(105 + 10 * number)
    assert [one.at_ns for one in got] == [1], "after the handshake, which was read at 1"


def test_what_it_knows_of_the_connection(wire: Wire) -> None:
    assert (wire.sender.key, wire.sender.open, wire.sender.heard_ns, wire.sender.holds) == ("one", True, 1, 0)
    wire.far.sendall(message(b"a"))
    wire.read(77)
    assert wire.sender.heard_ns == 77
    wire.read(99)
    assert wire.sender.heard_ns == 77, "nothing came"
    wire.far.close()
    with pytest.raises(EOFError):
        wire.read(100)
    shut = Wire(zmtp.GREETING)
    assert (shut.sender.open, shut.answers) == (False, zmtp.ready(b"PULL"))
    shut.close()


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ((bytes(1000),), True),
        ((bytes(1001),), False),
        ((b"", bytes(100_000)), True),
        ((b"", bytes(100_001)), False),
        ((bytes(200_000),), False),  # too big for a message, and the connection stands
        ((b"", bytes(SMALL_BYTES)), True),
        ((b"", bytes(SMALL_BYTES + 1)), True),
        ((b"", b""), True),
        ((b"", b"", b""), False),
    ],
)
def test_frames_may_be_as_long_as_their_limit_and_no_longer(wire: Wire, parts: tuple[bytes, ...], whole: bool) -> None:
    def send() -> None:
        wire.far.sendall(message(*parts) + message(b"after"))

    thread = threading.Thread(target=send)
    thread.start()
    got: list[Arrived] = []
    while len(got) < 2:
        got += wire.read(2)
    thread.join()
    first, after = got
    assert (tuple(bytes(part) for part in first.parts) == parts) is whole
    assert (first.refused is None) is whole
    assert contents([after]) == [(b"after",)] and after.refused is None


def test_what_is_refused_says_why(wire: Wire) -> None:
    wire.far.sendall(message(bytes(1001)) + message(b"a", b"b", b"c") + message(b"a", bytes(100_001)))
    assert [(one.refused, one.detail) for one in wire.read(2)] == [
        ("too_big", "1001 bytes, at most 1000 are read"),
        ("malformed", "more than 2 frames"),
        ("too_big", "100001 bytes, at most 100000 are read"),
    ]


def test_some_surplus_frames_cost_the_message_and_one_more_the_connection(wire: Wire) -> None:
    wire.far.sendall(frame(b"x", MORE) * (1 + MAX_SURPLUS_PARTS) + frame(b"x") + message(b"after"))
    refused, after = wire.read(2)
    assert (refused.refused, contents([after])) == ("malformed", [(b"after",)])
    wire.far.sendall(frame(b"x", MORE) * (1 + MAX_SURPLUS_PARTS) + frame(b"x"))
    assert len(wire.read(2)) == 1, "each message has its own count"
    wire.far.sendall(frame(b"x", MORE) * (2 + MAX_SURPLUS_PARTS) + frame(b"x"))
    with pytest.raises(ProtocolError, match="^malformed$"):
        wire.read(2)


def test_commands_are_taken_up_to_their_limit_and_whole(wire: Wire) -> None:
    longest = command(b"PING", bytes(zmtp.MAX_COMMAND_BYTES - 5))
    assert len(longest) == 9 + zmtp.MAX_COMMAND_BYTES
    for at in range(0, len(longest), 100):
        assert wire.answers.count(b"PONG") == 0
        wire.far.sendall(longest[at : at + 100])
        assert wire.read(2) == []
    assert wire.answers.endswith(command(b"PONG", bytes(16)))
    wire.far.sendall(command(b"HELLO", b"of a later version"))
    assert wire.read(3) == []
    wire.far.sendall(command(b"PING", bytes(zmtp.MAX_COMMAND_BYTES - 4)))
    with pytest.raises(ProtocolError, match="^too_big$"):
        wire.read(2)


def test_marks_are_bounded_and_where_one_goes_an_older_one_speaks_for_it(wire: Wire) -> None:
    start = wire.sender._received
    for number in range(2 * MAX_MARKS):
        wire.sender._mark(start + 10 * number, 100 + number)
    assert len(wire.sender._marks) <= MAX_MARKS
    for number in range(2 * MAX_MARKS):
        assert wire.sender._arrival(start + 10 * number + 5) <= 100 + number
    # Of two marks at one place the later one counts.
    wire.sender._mark(start + 10_000, 5000)
    wire.sender._mark(start + 10_000, 6000)
    assert wire.sender._arrival(start + 10_000) == 6000
