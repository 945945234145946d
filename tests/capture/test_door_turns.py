"""The door turn by turn, by a clock that a test moves: what a sender may cost, who gives way, and who is forgotten."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.capture import door as module
from edge_runtime.capture.door import (
    BURST_NS,
    HANDSHAKE_NS,
    IDLE_NS,
    LEAST_SHARE,
    MAX_SENDERS,
    NEWCOMERS_SHARE,
    POLL_S,
    RESTED_NS,
    SHARE,
    SHUT_NS,
    SLACK_NS,
    SOCKET_BYTES,
    Visitor,
    _identity,
)
from edge_runtime.zmtp import GREETING
from tests.capture.test_door import Entrance
from tests.capture.test_sender import HELLO, message
from tests.conftest import wait_for

S = 1_000_000_000


class Times:
    """`time`, as the door reads it, where it is put."""

    def __init__(self) -> None:
        self.at_ns = 100 * S

    def monotonic_ns(self) -> int:
        return self.at_ns

    def thread_time_ns(self) -> int:
        return 0  # what hearing costs is nothing: a test charges


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(module, "time", times)
    return times


@pytest.fixture
def entrance(times: Times) -> Iterator[Entrance]:
    entrance = Entrance()
    yield entrance
    entrance.close()


def visitors(entrance: Entrance) -> list[Visitor]:
    return list(entrance.door._visitors.values())


def let_in(entrance: Entrance, said: bytes = HELLO) -> tuple[socket.socket, Visitor]:
    """A connection whose first words have been heard, and the door's account of it."""
    before = visitors(entrance)
    connection = entrance.connection(said)
    wait_for(lambda: bool(entrance.hear()) or len(visitors(entrance)) > len(before), "it to be let in")
    (visitor,) = (one for one in visitors(entrance) if one not in before)
    if len(said) > len(GREETING):
        wait_for(lambda: bool(entrance.hear()) or visitor.sender.open, "its handshake")
    return connection, visitor


def heard(entrance: Entrance, turns: int = 3) -> list[bytes]:
    return [bytes(one.parts[0]) for _ in range(turns) for _, messages in entrance.hear() for one in messages]


def test_one_that_has_gone_is_forgotten_and_nobody_s_fault(entrance: Entrance) -> None:
    connection, visitor = let_in(entrance)
    connection.close()
    wait_for(lambda: bool(entrance.hear()) or not visitors(entrance), "it to be forgotten")
    assert visitor.sender.socket.fileno() == -1 and not entrance.ended


def test_who_costs_more_than_may_be_had_at_once_waits_until_it_is_paid(entrance: Entrance, times: Times) -> None:
    connection, visitor = let_in(entrance)
    visitor.credit_ns, visitor.credited_ns = float(BURST_NS), times.at_ns
    entrance.door.charge(visitor, BURST_NS)
    assert visitor.credit_ns == 0
    connection.sendall(message(b"a"))
    wait_for(lambda: b"a" in heard(entrance, 1), "what it may still send")
    entrance.door.charge(visitor, 1_000_000)
    until_ns = times.at_ns + int((RESTED_NS + 1_000_000) / SHARE)
    assert visitor.muted_until_ns == until_ns
    connection.sendall(message(b"b"))
    assert heard(entrance) == []
    times.at_ns = until_ns - 1
    assert heard(entrance) == []
    times.at_ns = until_ns
    wait_for(lambda: b"b" in heard(entrance, 1), "it to be heard again")
    assert visitor.credit_ns <= RESTED_NS, "it has paid by waiting, and no more"


def test_credit_grows_with_time_up_to_a_burst_and_is_shared_with_those_that_wait(
    entrance: Entrance, times: Times
) -> None:
    (_, one), (_, other), (_, third) = (let_in(entrance) for _ in range(3))
    for visitor in (one, other, third):
        visitor.credit_ns, visitor.credited_ns = 0.0, times.at_ns
    times.at_ns += 10_000_000
    entrance.door.charge(one, 0)
    assert one.credit_ns == 10_000_000 * SHARE
    times.at_ns += 3600 * S
    entrance.door.charge(one, 0)
    assert one.credit_ns == BURST_NS
    other.credited_ns = times.at_ns
    entrance.door.charge(other, 1)  # waits from here on: two share
    third.credit_ns, third.credited_ns = 0.0, times.at_ns
    times.at_ns += 1_000_000
    entrance.door.charge(third, 0)
    assert third.credit_ns == 1_000_000 * max(LEAST_SHARE, SHARE / 2)
    times.at_ns -= 500_000
    entrance.door.charge(third, 0)
    assert third.credit_ns == 1_000_000 * max(LEAST_SHARE, SHARE / 2), "time that goes back earns and costs nothing"


def test_newcomers_together_may_make_no_more_than_their_part(entrance: Entrance, times: Times) -> None:
    part = entrance.door._part_of_newcomers
    assert [part(times.at_ns) for _ in range(3)] == [BURST_NS / 2, BURST_NS / 4, BURST_NS / 8]
    times.at_ns += 10_000_000
    expected = (BURST_NS / 8 + 10_000_000 * NEWCOMERS_SHARE) / 2
    assert [part(times.at_ns), part(times.at_ns)] == [expected, expected / 2], "what a time has earned is had once"
    times.at_ns += 3600 * S
    _, visitor = let_in(entrance)
    assert visitor.credit_ns <= BURST_NS / 2 and part(times.at_ns) == BURST_NS / 4


def test_it_looks_again_soon_while_anybody_s_messages_have_waited(entrance: Entrance, times: Times) -> None:
    (_, one), _ = let_in(entrance), let_in(entrance)
    for visitor in visitors(entrance):
        visitor.behind_ns = None
    waited_s: list[float] = []

    def nothing(timeout_s: float) -> list[tuple[int, int]]:
        waited_s.append(timeout_s)
        return []

    poll = entrance.door._poll
    entrance.door._poll = SimpleNamespace(poll=nothing)  # type: ignore[assignment]
    entrance.hear()
    one.behind_ns = times.at_ns
    entrance.hear()
    entrance.door._poll = poll
    assert waited_s == [POLL_S, IDLE_NS / 1e9] == [0.02, 0.002]


def test_a_handshake_is_waited_for_as_long_as_is_said(entrance: Entrance, times: Times) -> None:
    let_in(entrance, GREETING)
    let_in(entrance)
    times.at_ns += HANDSHAKE_NS
    assert heard(entrance) == [] and not entrance.ended
    times.at_ns += HANDSHAKE_NS // 5
    assert heard(entrance) == [] and not entrance.ended, "it is looked at five times in that time"
    times.at_ns += 1
    entrance.hear()
    assert entrance.ended == {"no_handshake": 1} and len(visitors(entrance)) == 1, "one that is done may be silent"
    assert entrance.door.take_ended() == {}, "told once"


def test_who_never_ended_its_handshake_gives_way_first_then_who_was_silent_for_longest(entrance: Entrance) -> None:
    _, silent = let_in(entrance)
    _, eager = let_in(entrance)
    busy, talks = let_in(entrance)
    _, late = let_in(entrance, GREETING)
    busy.sendall(message(b"a"))
    wait_for(lambda: b"a" in heard(entrance, 1), "the busy one")
    for left in ([silent, eager, talks], [eager, talks], [talks]):
        entrance.door._make_room()
        assert visitors(entrance) == left
    assert late.sender.socket.fileno() == -1
    entrance.hear()
    assert entrance.ended == {"gave_way": 3}


def test_without_a_file_descriptor_somebody_gives_way_and_the_door_is_shut_for_a_moment(
    entrance: Entrance, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, eldest = let_in(entrance)
    _, other = let_in(entrance)
    tried: list[int] = []

    def none() -> None:
        tried.append(times.at_ns)
        raise OSError(errno.EMFILE, "none left")

    listening = entrance.door._listening
    entrance.door._listening = SimpleNamespace(accept=none, fileno=listening.fileno)  # type: ignore[assignment]
    entrance.connection(HELLO)
    wait_for(lambda: bool(entrance.hear()) or bool(tried), "the door to be knocked at")
    assert entrance.ended == {"no_file_descriptors": 1, "gave_way": 1}
    assert visitors(entrance) == [other] and eldest.sender.socket.fileno() == -1
    times.at_ns += SHUT_NS - 1
    assert heard(entrance) == [] and len(tried) == 1
    times.at_ns += 1
    wait_for(lambda: bool(entrance.hear()) or len(tried) > 1, "the door to be open again")
    assert visitors(entrance) == [other], "the last one is not sent away for one that cannot be let in"
    entrance.door._listening = listening
    times.at_ns += SHUT_NS
    wait_for(lambda: bool(entrance.hear()) or len(visitors(entrance)) == 2, "the one that waits outside")


def test_the_room_leaves_file_descriptors_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, room in ((4096, MAX_SENDERS), (200, 50), (3, 1), (module.resource.RLIM_INFINITY, MAX_SENDERS)):
        monkeypatch.setattr(module.resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        entrance = Entrance()
        assert entrance.door._room == room
        entrance.close()


@pytest.mark.parametrize(
    ("address", "key"),
    [
        (("127.0.0.1", 5000), ("connection", "127.0.0.1", 5000)),
        (("127.8.9.1", 5000), ("connection", "127.8.9.1", 5000)),
        (("::1", 5000, 0, 0), ("connection", "::1", 5000)),
        (("::ffff:127.0.0.1", 5000, 0, 0), ("connection", "::ffff:127.0.0.1", 5000)),
        (("10.0.0.127", 5000), ("host", "10.0.0.127")),
        (("fe80::1", 5000, 0, 0), ("host", "fe80::1")),
        (("::ffff:10.0.0.1", 5000, 0, 0), ("host", "::ffff:10.0.0.1")),
    ],
)
def test_of_this_host_each_connection_is_told_apart_of_others_each_host(
    address: tuple[object, ...], key: tuple[object, ...]
) -> None:
    with socket.socket() as connection:
        assert _identity(connection, address) == key


def test_closing_ends_every_connection(entrance: Entrance) -> None:
    connections = [let_in(entrance)[0] for _ in range(3)]
    muted = visitors(entrance)[0]
    entrance.door.charge(muted, S)
    entrance.door.close()
    assert visitors(entrance) == [] and muted.sender.socket.fileno() == -1
    for connection in connections:
        connection.settimeout(5)
        data = connection.recv(1 << 16)
        while data:
            data = connection.recv(1 << 16)
    entrance.door._poll = select.epoll()  # for the fixture, which closes it again


def test_a_turn_that_takes_long_hears_no_more_and_the_next_begins_with_who_has_cost_least(
    entrance: Entrance, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = [let_in(entrance) for _ in range(4)]
    for number, (connection, visitor) in enumerate(guests):
        visitor.credit_ns, visitor.credited_ns = 1e6 * (4 - number), times.at_ns
        connection.sendall(message(b"%d" % number))
    monkeypatch.setattr(module, "TURN_NS", 0)
    order: list[bytes] = []
    wait_for(lambda: bool(order) or bool(order.extend(heard(entrance, 1))), "the first")
    assert order == [b"0"], "one in a turn, whatever waits"
    guests[0][0].sendall(message(b"again"))  # has still cost less than the others
    for _ in range(20):
        said = heard(entrance, 1)
        assert len(said) <= 1
        order += said
    assert sorted(order) == [b"0", b"1", b"2", b"3", b"again"], "nobody is forgotten"
    assert order.index(b"again") < order.index(b"3")
    assert order.index(b"1") < order.index(b"2") < order.index(b"3")


def test_what_a_full_turn_left_waiting_is_as_old_as_it_is(
    entrance: Entrance, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looked whether it had nothing: it counts as having waited since it was last asked."""
    (cheap, first), (dear, second) = let_in(entrance), let_in(entrance)
    first.credit_ns, second.credit_ns = 2e6, 1e6
    monkeypatch.setattr(module, "TURN_NS", 0)
    dear.sendall(message(b"waits"))
    cheap.sendall(message(b"goes"))
    wait_for(lambda: heard(entrance, 1) == [b"goes"], "the cheap one")
    before = second.turn
    cheap.sendall(message(b"goes on"))
    wait_for(lambda: b"goes on" in heard(entrance, 1), "the cheap one again")
    assert second.turn > before, "that it has something is known"
    wait_for(lambda: b"waits" in heard(entrance, 1), "the dear one")


def test_what_came_while_its_sender_had_to_wait_counts_from_before(entrance: Entrance, times: Times) -> None:
    connection, visitor = let_in(entrance)
    for _ in range(3):
        entrance.hear()
    visitor.credit_ns, visitor.credited_ns = 0.0, times.at_ns
    entrance.door.charge(visitor, S)
    connection.sendall(message(b"waits"))
    sent_ns = entrance.clock.now_ns()
    entrance.clock.extra_ns += 12 * S
    assert heard(entrance) == []
    times.at_ns = visitor.muted_until_ns
    ((_, _, at_ns),) = entrance.messages(1)
    assert at_ns <= sent_ns + SLACK_NS


def test_who_is_revoked_goes_once_the_keys_have_changed(
    entrance: Entrance, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, visitor = let_in(entrance)
    asked: list[float] = []
    answers = [False, True]

    def changed(now: float) -> bool:
        asked.append(now)
        return answers.pop(0)

    keyring = SimpleNamespace(changed=changed, stands=lambda client: client == "good")
    entrance.door._keyring = keyring  # type: ignore[assignment]
    monkeypatch.setattr(Visitor, "client", "revoked")
    entrance.hear()
    assert asked == [times.at_ns / 1e9] and visitors(entrance) == [visitor]
    entrance.hear()
    assert visitors(entrance) == [] and entrance.ended == {"revoked": 1}


def test_what_the_kernel_keeps_of_a_connection_is_bounded(entrance: Entrance) -> None:
    _, visitor = let_in(entrance)
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    assert visitor.sender.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * min(SOCKET_BYTES, most)


def test_who_goes_while_it_has_to_wait_is_not_heard_again(entrance: Entrance, times: Times) -> None:
    _, visitor = let_in(entrance)
    entrance.door.charge(visitor, S)
    entrance.door._make_room()
    times.at_ns = visitor.muted_until_ns
    assert heard(entrance) == [] and visitors(entrance) == [] and entrance.ended == {"gave_way": 1}
