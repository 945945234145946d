"""The door: many senders, what each costs, and since when a message may have waited."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import zmq

from edge_runtime import sockets
from edge_runtime.capture import door as module
from edge_runtime.capture.door import MAX_SENDERS, POLL_S, SLACK_NS, Door, Heard
from edge_runtime.capture.sender import Limits
from edge_runtime.clock import SleepWatch
from edge_runtime.zmtp import LONG, MORE, frame
from tests.capture.test_sender import HELLO, message
from tests.conftest import wait_for

LIMITS = Limits((1000, 8 << 20), 8 << 20)
S = 1_000_000_000


class Hand:
    """A clock that a test moves, beside the one that goes on."""

    def __init__(self) -> None:
        self.extra_ns = self.asleep_ns = 0

    def now_ns(self) -> int:
        return time.monotonic_ns() + self.extra_ns

    def wall_ns(self) -> int:
        return self.now_ns()

    def boot_ns(self) -> int:
        return self.now_ns() + self.asleep_ns


class Entrance:
    """A door and those who knock."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.listener = sockets.listen(endpoint, "test")
        self.clock = Hand()
        self.door = Door(self.listener.socket, LIMITS, self.clock, SleepWatch(self.clock))
        self.context = zmq.Context()
        self.raw: list[socket.socket] = []
        self.ended: Counter[str] = Counter()

    def pusher(self) -> zmq.Socket[bytes]:
        pusher = self.context.socket(zmq.PUSH)
        pusher.connect(self.listener.endpoint)
        return pusher

    def connection(self, said: bytes = HELLO) -> socket.socket:
        host, port = self.listener.socket.getsockname()[:2]
        connection = socket.create_connection((host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as ZeroMQ's own: nothing waits here
        connection.sendall(said)
        self.raw.append(connection)
        return connection

    def hear(self) -> list[Heard]:
        heard = self.door.hear()
        self.ended += self.door.take_ended()
        return heard

    def messages(self, count: int) -> list[tuple[object, bytes, int]]:
        """The next `count`: whose, first frame, when it came."""
        got: list[tuple[object, bytes, int]] = []

        def enough() -> bool:
            for visitor, arrived in self.hear():
                got.extend((visitor.key, bytes(one.parts[0]) if one.parts else b"", one.at_ns) for one in arrived)
            return len(got) >= count

        wait_for(enough, f"{count} messages")
        return got

    def close(self) -> None:
        self.context.destroy(linger=0)
        for one in self.raw:
            one.close()
        self.door.close()
        self.listener.close()


@pytest.fixture
def entrance() -> Iterator[Entrance]:
    entrance = Entrance()
    yield entrance
    entrance.close()


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "ipc"])
def test_zeromq_s_own_sockets_are_heard(kind: str, tmp_path: object) -> None:
    endpoint = {"tcp": "tcp://127.0.0.1:*", "tcp6": "tcp://[::1]:*", "ipc": f"ipc://{tmp_path}/in"}[kind]
    entrance = Entrance(endpoint)
    try:
        pusher = entrance.context.socket(zmq.PUSH)
        pusher.setsockopt(zmq.IPV6, 1)
        pusher.setsockopt(zmq.HEARTBEAT_IVL, 20)
        pusher.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20_000)
        pusher.connect(entrance.listener.endpoint)
        for number in range(300):
            pusher.send_multipart([b"%d" % number, bytes(number * 200)])
        assert [first for _, first, _ in entrance.messages(300)] == [b"%d" % number for number in range(300)]
        time.sleep(0.05)  # some of its heartbeats pass, and are answered
        pusher.send(b"more")
        assert [first for _, first, _ in entrance.messages(1)] == [b"more"]
        assert not entrance.ended
    finally:
        entrance.close()


def test_what_waited_while_nobody_listened_counts_from_before(entrance: Entrance) -> None:
    connection = entrance.connection(HELLO + message(b"first"))
    entrance.messages(1)
    for _ in range(3):
        entrance.hear()
    connection.sendall(message(b"waits"))
    sent_ns = entrance.clock.now_ns()
    entrance.clock.extra_ns += 12 * S  # this process stood still, and what lay in the socket with it
    ((_, _, at_ns),) = entrance.messages(1)
    assert at_ns <= sent_ns + SLACK_NS
    for _ in range(5):
        entrance.hear()
    connection.sendall(message(b"fresh"))
    sent_ns = entrance.clock.now_ns()
    ((_, _, at_ns),) = entrance.messages(1)
    assert at_ns >= sent_ns - int(POLL_S * S) - SLACK_NS


def test_of_two_messages_of_a_sender_the_later_one_is_never_the_older(entrance: Entrance) -> None:
    connection = entrance.connection(HELLO + message(b"first"))
    entrance.messages(1)
    for _ in range(5):
        entrance.hear()
    connection.sendall(message(b"read at once"))
    ((_, _, earlier_ns),) = entrance.messages(1)
    connection.sendall(message(b"waits"))
    sent_ns = entrance.clock.now_ns()
    entrance.clock.extra_ns += 12 * S
    ((_, _, at_ns),) = entrance.messages(1)
    assert earlier_ns <= at_ns <= sent_ns + SLACK_NS


def test_what_the_sender_kept_back_meanwhile_counts_from_before_too(entrance: Entrance) -> None:
    """ZeroMQ keeps a thousand messages at the sender, and the system more: none of them is fresh when it comes."""
    pusher = entrance.pusher()
    pusher.send(b"first")
    entrance.messages(1)
    for _ in range(5):
        entrance.hear()
    for _ in range(300):
        pusher.send_multipart([b"waits", bytes(20_000)])
    sent_ns = entrance.clock.now_ns()
    entrance.clock.extra_ns += 12 * S
    assert all(at_ns <= sent_ns + SLACK_NS for _, _, at_ns in entrance.messages(300))
    for _ in range(5):
        entrance.hear()
    # On a busy machine a turn may take longer than it waits: then a message counts as older, never as younger.
    for _ in range(100):
        pusher.send(b"fresh")
        sent_ns = entrance.clock.now_ns()
        if entrance.messages(1)[0][2] >= sent_ns - int(POLL_S * S) - SLACK_NS:
            break
    else:
        raise AssertionError("all that comes counts as old")


def test_a_heap_is_as_old_as_it_is_to_the_last_message(entrance: Entrance) -> None:
    connection = entrance.connection()
    while not any(one.sender.open for one in entrance.door._visitors.values()):
        entrance.hear()
    sent: dict[bytes, int] = {}
    for number in range(500):
        sent[b"%d" % number] = entrance.clock.now_ns()
        connection.sendall(message(b"%d" % number, bytes(60)))
        entrance.clock.extra_ns += 5_000_000
    assert all(at_ns <= sent[first] + SLACK_NS for _, first, at_ns in entrance.messages(500))


def test_what_came_before_the_machine_slept_counts_from_before(entrance: Entrance) -> None:
    connection = entrance.connection(HELLO + message(b"first"))
    entrance.messages(1)
    entrance.hear()
    connection.sendall(message(b"waits"))
    sent_ns = entrance.clock.now_ns()
    entrance.clock.asleep_ns += 3600 * S
    ((_, _, at_ns),) = entrance.messages(1)
    assert at_ns <= sent_ns, "no slack across a sleep"
    watch = entrance.door._sleep
    assert sent_ns - watch.aged(at_ns) >= 3599 * S


def test_a_frame_without_end_takes_no_memory_and_costs_the_others_nothing(entrance: Entrance) -> None:
    honest = entrance.pusher()
    endless = entrance.connection(HELLO + frame(b"x", MORE))
    endless.setblocking(False)
    part = frame(b"y" * 200, MORE) * 50
    for number in range(60):
        for _ in range(20):
            try:
                endless.send(part)
            except OSError:
                break
        honest.send(b"%d" % number)
        assert entrance.messages(1)[0][1] == b"%d" % number
    wait_for(lambda: bool(entrance.hear() or entrance.ended["malformed"]), "its end")


def test_long_frames_of_all_senders_together_are_bounded_and_the_slowest_goes(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LARGE_BYTES", 20 << 20)
    monkeypatch.setattr(module, "SLOW_NS", 3600 * S)
    header = frame(b"x", MORE) + bytes([LONG]) + (8 << 20).to_bytes(8, "big") + bytes(100_000)
    for _ in range(6):
        entrance.connection(HELLO + header)
    wait_for(lambda: bool(entrance.hear()) or _wanting(entrance) == 4, "all of them")
    for _ in range(50):
        entrance.hear()
        assert (_holding(entrance), _wanting(entrance)) == (2, 4)
    assert not entrance.ended, "who waits costs nothing, and loses nothing"
    monkeypatch.setattr(module, "SLOW_NS", S // 5)
    pusher = entrance.pusher()
    pusher.send_multipart([b"frame", bytes(7 << 20)])
    assert entrance.messages(1)[0][1] == b"frame", "a whole one comes through"
    assert entrance.ended["too_slow"] >= 1 and _holding(entrance) <= 2


def test_who_has_cost_much_gives_way_to_who_has_not(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LARGE_BYTES", 10 << 20)
    monkeypatch.setattr(module, "SLOW_NS", 3600 * S)
    begun = bytes([LONG]) + (8 << 20).to_bytes(8, "big") + bytes(100_000)
    entrance.connection(HELLO + frame(b"x", MORE) + begun)
    wait_for(lambda: bool(entrance.hear()) or _holding(entrance) == 1, "the first")
    (first,) = entrance.door._visitors.values()
    entrance.door.charge(first, 100_000_000)
    pusher = entrance.pusher()
    pusher.send_multipart([b"frame", bytes(7 << 20)])
    assert entrance.messages(1)[0][1] == b"frame"
    assert entrance.ended == {"too_slow": 1}


def test_pictures_of_ordinary_size_wait_for_no_other(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LARGE_BYTES", 10 << 20)
    monkeypatch.setattr(module, "SLOW_NS", 3600 * S)
    begun = bytes([LONG]) + (8 << 20).to_bytes(8, "big") + bytes(100_000)
    entrance.connection(HELLO + frame(b"x", MORE) + begun)
    wait_for(lambda: bool(entrance.hear()) or _holding(entrance) == 1, "the first")
    pusher = entrance.pusher()
    for number in range(20):
        pusher.send_multipart([b"%d" % number, bytes(200_000)])
    assert [first for _, first, _ in entrance.messages(20)] == [b"%d" % number for number in range(20)]
    assert _holding(entrance) == 1 and not entrance.ended


def _wanting(entrance: Entrance) -> int:
    return sum(one.sender.wants > 0 for one in entrance.door._visitors.values())


def _holding(entrance: Entrance) -> int:
    return sum(one.sender.holds > 0 for one in entrance.door._visitors.values())


def test_more_connections_than_there_is_room_for_leave_those_that_send(entrance: Entrance) -> None:
    honest = entrance.pusher()
    for number in range(3 * MAX_SENDERS):
        entrance.connection(HELLO if number % 2 else b"")
        if number % 20 == 0:
            honest.send(b"here")
            assert entrance.messages(1)[0][1] == b"here"
    wait_for(lambda: bool(entrance.hear()) or entrance.ended["gave_way"] >= 2 * MAX_SENDERS, "room")
    assert len(entrance.door._visitors) <= MAX_SENDERS
    honest.send(b"still here")
    assert entrance.messages(1)[0][1] == b"still here"


def test_one_who_floods_waits_and_another_does_not(entrance: Entrance) -> None:
    flood, honest = entrance.connection(), entrance.pusher()
    heap = message(b"x" * 50) * 2000
    flood.setblocking(False)
    heard: Counter[bytes] = Counter()
    start = time.monotonic()
    for number in range(40):
        try:
            flood.send(heap)
        except BlockingIOError:
            pass
        honest.send(b"honest")
        while heard[b"honest"] <= number:
            for visitor, arrived in entrance.hear():
                for one in arrived:
                    heard[bytes(one.parts[0])] += 1
                entrance.door.charge(visitor, 10_000 * len(arrived))  # what refusing them costs
    spent = time.monotonic() - start
    # A fifth of a core's time at 10 microseconds a message, and what may be had at once.
    assert heard[b"x" * 50] <= (0.2 * spent + 0.1) / 10e-6
    assert heard[b"x" * 50] > 0


STARVED = """
import resource, socket, sys, time
from edge_runtime import sockets
from edge_runtime.capture.door import Door
from edge_runtime.capture.sender import Limits
from edge_runtime.clock import RealClock, SleepWatch
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
listener = sockets.listen("tcp://127.0.0.1:*", "test")
clock = RealClock()
door = Door(listener.socket, Limits((1000,), 1000), clock, SleepWatch(clock))
print(listener.endpoint, flush=True)
taken = []
while True:
    for visitor, messages in door.hear():
        for one in messages:
            print(bytes(one.parts[0]).decode(), flush=True)
            if one.parts[0] == b"starve":
                try:
                    while True:
                        taken.append(socket.socket())
                except OSError:
                    start, cpu = time.monotonic(), time.process_time()
            elif one.parts[0] == b"measure":
                print(time.process_time() - cpu, time.monotonic() - start, len(door._visitors), flush=True)
            elif one.parts[0] == b"feed":
                taken.clear()
"""


def test_without_file_descriptors_the_cpu_is_quiet_and_senders_are_heard(entrance: Entrance) -> None:
    process = subprocess.Popen([sys.executable, "-c", STARVED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pushers = [entrance.context.socket(zmq.PUSH) for _ in range(2)]
    outside: list[socket.socket] = []
    try:
        endpoint = process.stdout.readline().strip()
        there, late = pushers

        def says(pusher: zmq.Socket[bytes], word: str) -> None:
            pusher.send_string(word)
            assert process.stdout is not None and process.stdout.readline().strip() == word

        there.connect(endpoint)
        says(there, "starve")
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        outside += [socket.create_connection((host, int(port))) for _ in range(100)]
        time.sleep(1.0)
        says(there, "measure")
        cpu_s, wall_s, _ = map(float, process.stdout.readline().split())
        assert cpu_s < wall_s / 2, "it span"
        says(there, "still there")
        says(there, "feed")
        late.connect(endpoint)  # those who say nothing give way to it
        says(late, "late")
        says(late, "measure")
        assert float(process.stdout.readline().split()[2]) <= 64 // 4, "never more than a part of what there is"
    finally:
        process.kill()
        process.wait()
        for one in outside:
            one.close()


def test_a_handshake_that_does_not_end_is_ended(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_NS", S // 5)
    entrance.connection(HELLO[:40])
    wait_for(lambda: bool(entrance.hear()) or entrance.ended["no_handshake"] == 1, "its end")


def test_senders_are_told_apart(entrance: Entrance, tmp_path: object) -> None:
    for name in (b"a", b"b"):
        entrance.pusher().send(name)
    by_connection = {key for key, _, _ in entrance.messages(2)}
    assert len(by_connection) == 2
    ipc = Entrance(f"ipc://{tmp_path}/in")
    for name in (b"a", b"b"):
        ipc.pusher().send(name)
    assert len({key for key, _, _ in ipc.messages(2)}) == 1, "one process, however often it connects"
    ipc.close()
