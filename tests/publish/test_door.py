"""The door that decisions leave by, and what is done to it: real sockets, ZeroMQ's and bare ones."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from edge_runtime import Subscriber, zmtp
from edge_runtime.errors import HeldError
from edge_runtime.health import resident_mb
from edge_runtime.publish import zmq_publisher
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from edge_runtime.publish.zmtp import MAX_PREFIXES, READY
from edge_runtime.wire import DecisionMessage
from tests.conftest import WAIT_S, wait_for
from tests.publish.test_sinks import decision, status
from tests.publish.test_zmtp import HELLO, subscription

EVERYTHING = HELLO + subscription(b"")


class Service:
    """A publisher that decides until it is closed, and an innocent subscriber that must hear all of it."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.publisher = ZmqPublisher(endpoint, 256)
        self.endpoint = self.publisher.endpoint
        self.seq = 0
        self.heard = 0
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self.innocent = Subscriber(self.endpoint, high_water_mark=100_000)
        self._threads = [threading.Thread(target=self._decide), threading.Thread(target=self._listen)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.heard > 0, "the innocent subscriber to hear the first decision")

    def _decide(self) -> None:
        while not self._stop.wait(0.01):
            start = time.monotonic()
            self.publisher.publish(published(decision(self.seq)))
            self.publisher.publish(published(status(self.seq)))
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            self.seq += 1

    def _listen(self) -> None:
        while not self._stop.is_set():
            message = self.innocent.receive(0.1)
            if isinstance(message, DecisionMessage):
                self.heard = message.seq

    def goes_on(self, decisions: int = 50) -> None:
        """So many more decisions are made and heard, from now on."""
        until = self.seq + decisions
        wait_for(lambda: self.heard >= until, f"{decisions} decisions")

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.innocent.close()
        self.publisher.close()


@contextlib.contextmanager
def serving(endpoint: str = "tcp://127.0.0.1:*") -> Iterator[Service]:
    service = Service(endpoint)
    try:
        yield service
        service.goes_on()
        assert (service.innocent.lost, service.innocent.repeated, service.innocent.restarts) == (0, 0, 0)
    finally:
        service.close()


def plug(endpoint: str) -> socket.socket:
    """A bare connection to a publisher."""
    if endpoint.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(endpoint.removeprefix("ipc://"))
    else:
        host, port = endpoint.removeprefix("tcp://").split(":")
        connection = socket.create_connection((host, int(port)), WAIT_S)
    connection.settimeout(WAIT_S)
    return connection


def hears(connection: socket.socket, what: bytes = b"decision.car") -> bool:
    """Whether `what` comes over a bare connection."""
    data = b""
    with contextlib.suppress(OSError):
        while what not in data:
            more = connection.recv(1 << 16)
            if not more:
                return False
            data = data[-100:] + more
    return what in data


def ended(connection: socket.socket) -> bool:
    """Whether the other end closes it in time, whatever it says before."""
    deadline = time.monotonic() + WAIT_S
    try:
        while connection.recv(1 << 16):
            if time.monotonic() > deadline:
                return False
    except TimeoutError:
        return False
    except OSError:
        pass  # torn down, with what was said still unread
    return True


@pytest.fixture(params=["tcp", "ipc", "abstract"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "tcp": "tcp://127.0.0.1:*",
        "ipc": f"ipc://{tmp_path}/decisions",
        "abstract": f"ipc://@edge-runtime-test-{os.getpid()}",
    }[str(request.param)]


def test_subscribers_of_every_transport_hear_and_get_the_last_values(endpoint: str) -> None:
    publisher = ZmqPublisher(endpoint, 10)
    publisher.publish(published(decision(7)))
    with Subscriber(publisher.endpoint) as subscriber:
        message = subscriber.receive(WAIT_S)
        assert isinstance(message, DecisionMessage) and message.seq == 7
        publisher.publish(published(decision(8)))
        message = subscriber.receive(WAIT_S)
        assert isinstance(message, DecisionMessage) and message.seq == 8
    publisher.close()


def test_two_hundred_thousand_subscriptions_cost_nobody_else_anything() -> None:
    with serving() as service, zmq.Context() as context, context.socket(zmq.SUB) as many:
        many.setsockopt(zmq.LINGER, 0)
        before_mb = resident_mb()
        many.connect(service.endpoint)
        subscribed = threading.Thread(target=lambda: [many.subscribe(b"decision.%d" % n) for n in range(200_000)])
        subscribed.start()
        service.goes_on(100)
        subscribed.join()
        service.goes_on(50)
        door = [len(peer.conversation.prefixes) for peer in service.publisher._peers.values()]
        assert max(door) <= MAX_PREFIXES
        # The 200,000 lie at the subscriber, which is this process too: what it keeps of them is all there is.
        assert resident_mb() - before_mb < 300


def test_a_storm_of_subscribing_and_unsubscribing_repeats_nothing_to_others_and_little_to_itself() -> None:
    with serving() as service, contextlib.closing(plug(service.endpoint)) as storm:
        storm.sendall(HELLO)
        block = (subscription(b"status.") + subscription(b"status.", on=False)) * 1000
        stop = threading.Event()

        def rage() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    storm.sendall(block)

        got = bytearray()
        thread = threading.Thread(target=rage)
        thread.start()
        start, first = time.monotonic(), service.seq
        service.goes_on(150)
        stop.set()
        storm.settimeout(0.2)
        with contextlib.suppress(OSError):
            while more := storm.recv(1 << 20):
                got += more
                if time.monotonic() - start > WAIT_S:
                    break
        storm.shutdown(socket.SHUT_RDWR)
        thread.join()
        # Each status that was made while it was subscribed, and the last value at most once a second.
        assert got.count(b"status.car") <= (service.seq - first) + time.monotonic() - start + 2


def test_a_subscription_of_64_mib_ends_its_own_connection_at_the_header() -> None:
    with serving() as service:
        before_mb = resident_mb()
        for _ in range(20):
            with contextlib.closing(plug(service.endpoint)) as big:
                big.sendall(HELLO + b"\x02" + struct.pack(">Q", 64 << 20))
                with contextlib.suppress(OSError):
                    big.sendall(bytes(8 << 20))
                assert ended(big)
        assert resident_mb() - before_mb < 32


@pytest.mark.parametrize("start", [b"", zmtp.GREETING, HELLO], ids=["at once", "after the greeting", "when open"])
def test_garbage_ends_its_own_connection(start: bytes) -> None:
    with serving() as service:
        for seed in range(30):
            with contextlib.closing(plug(service.endpoint)) as garbage:
                try:
                    garbage.sendall(start + b"\xf5" * (seed % 3) + os.urandom(100_000))
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it has ended already
                assert ended(garbage)


def test_what_never_speaks_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_publisher, "HANDSHAKE_S", 0.2)
    with serving() as service:
        silent = [plug(service.endpoint) for _ in range(20)]
        half = [plug(service.endpoint) for _ in range(20)]
        for one in half:
            one.sendall(zmtp.GREETING[:40])
        assert all(ended(one) for one in silent + half)
        wait_for(lambda: len(service.publisher._peers) == 1, "the door to forget them")


def test_beyond_the_limit_the_eldest_idle_ones_give_way_and_new_subscribers_hear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zmq_publisher, "MAX_SUBSCRIBERS", 8)
    with serving() as service:
        idle = []
        for _ in range(20):
            idle.append(plug(service.endpoint))
            idle[-1].sendall(HELLO)
        for _ in range(7):
            new = plug(service.endpoint)
            new.sendall(EVERYTHING)
            assert hears(new)
            idle.append(new)
        wait_for(lambda: len(service.publisher._peers) == 8, "the idle ones to give way")
        # All that are there now listen and take what comes: a new one is refused, and heard again once one has gone.
        reading = [threading.Thread(target=ended, args=(one,)) for one in idle[-7:]]
        for thread in reading:
            thread.start()
        late = plug(service.endpoint)
        assert ended(late)
        idle[-1].shutdown(socket.SHUT_RDWR)

        def gets_in() -> bool:
            with contextlib.closing(plug(service.endpoint)) as again:
                with contextlib.suppress(OSError):
                    again.sendall(EVERYTHING)
                return hears(again)

        wait_for(gets_in, "a slot to be free")
        for one in idle:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in reading:
            thread.join()


def test_one_that_takes_nothing_gives_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_publisher, "MAX_SUBSCRIBERS", 2)
    monkeypatch.setattr(zmq_publisher, "STALLED_S", 0.1)
    with serving() as service:
        stalled = plug(service.endpoint)
        stalled.sendall(EVERYTHING)
        wait_for(lambda: any(peer.behind for peer in list(service.publisher._peers.values())), "the backlog")

        def gets_in() -> bool:
            with contextlib.closing(plug(service.endpoint)) as again:
                with contextlib.suppress(OSError):
                    again.sendall(EVERYTHING)
                return hears(again)

        wait_for(gets_in, "the stalled one to give way")
        stalled.close()


def test_a_slow_subscriber_loses_its_oldest_and_nothing_in_part() -> None:
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 4)
    slow = plug(publisher.endpoint)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(EVERYTHING)
    wait_for(lambda: any(peer.conversation.prefixes for peer in list(publisher._peers.values())), "the subscription")
    for seq in range(500):
        publisher.publish(published(decision(seq, tags=["x" * 5000])))
    publisher.publish(published(decision(500, tags=["end"])))
    data = b""
    while b'"end"' not in data:
        more = slow.recv(1 << 16)
        assert more
        data += more
    seqs = _sequence_numbers(data[len(zmtp.GREETING) + len(READY) :])
    assert seqs[-1] == 500 and seqs == sorted(set(seqs))
    assert seqs[-4:] == [497, 498, 499, 500], "the newest are those that are kept"
    assert len(seqs) < 200
    slow.close()
    publisher.close()


def _sequence_numbers(data: bytes) -> list[int]:
    """Of whole messages, one after the other."""
    import msgspec

    numbers, at, parts = [], 0, []
    while at < len(data):
        flags = data[at]
        size, start = (
            (struct.unpack_from(">Q", data, at + 1)[0], at + 9) if flags & zmtp.LONG else (data[at + 1], at + 2)
        )
        parts.append(data[start : start + size])
        at = start + size
        if not flags & zmtp.MORE:
            assert parts[0] == b"decision.car"
            numbers.append(msgspec.json.decode(parts[1])["seq"])
            parts = []
    assert at == len(data) and not parts
    return numbers


def test_the_last_messages_reach_a_subscriber_that_reads_late() -> None:
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 256)
    late = plug(publisher.endpoint)
    late.sendall(EVERYTHING)
    wait_for(lambda: any(peer.conversation.prefixes for peer in list(publisher._peers.values())), "the subscription")
    for seq in range(100):
        publisher.publish(published(decision(seq, tags=["x" * 5000])))
    reader: list[bool] = []
    thread = threading.Thread(target=lambda: reader.append(hears(late, b'"seq":99')))
    thread.start()
    publisher.close()
    thread.join(WAIT_S)
    assert reader == [True]


def test_somebody_else_s_endpoint_is_refused(endpoint: str) -> None:
    first = ZmqPublisher(endpoint, 1)
    with pytest.raises(HeldError, match="is another runtime running"):
        ZmqPublisher(first.endpoint, 1)
    first.publish(published(decision(3)))
    with Subscriber(first.endpoint) as subscriber:
        assert subscriber.receive(WAIT_S) is not None
    first.close()
    ZmqPublisher(first.endpoint, 1).close()


STARVED = """
import resource, socket, sys, time
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from tests.publish.test_sinks import decision
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
publisher = ZmqPublisher("tcp://127.0.0.1:*", 8)
print(publisher.endpoint, flush=True)
sys.stdin.readline()
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        taken.append(socket.socket())
except OSError:
    pass
start, cpu, seq = time.monotonic(), time.process_time(), 1
while not sys.stdin.readline():
    pass
for seq in range(100):
    publisher.publish(published(decision(seq)))
    time.sleep(0.01)
print(time.process_time() - cpu, time.monotonic() - start, flush=True)
for one in taken:
    one.close()
sys.stdin.readline()
for seq in range(100, 200):
    publisher.publish(published(decision(seq)))
    time.sleep(0.01)
publisher.close()
"""


def test_without_file_descriptors_the_cpu_is_quiet_and_those_already_there_go_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARVED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_root()
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        endpoint = process.stdout.readline().strip()
        go: Callable[[], None] = lambda: (process.stdin.write("go\n"), process.stdin.flush())[0]  # type: ignore[union-attr]  # noqa: E731
        with contextlib.closing(plug(endpoint)) as there:
            there.sendall(EVERYTHING)
            assert hears(there, b"PUB")
            go()
            time.sleep(0.2)
            outside = [plug(endpoint) for _ in range(200)]
            go()
            assert hears(there, b'"seq":99')
            cpu_s, wall_s = map(float, process.stdout.readline().split())
            assert cpu_s < wall_s / 2, "it span"
            go()
            new = plug(endpoint)
            new.sendall(EVERYTHING)
            assert hears(new)
            for one in (*outside, new):
                one.close()
        process.wait(WAIT_S)
    finally:
        process.kill()
        process.wait()


def _root() -> Path:
    return Path(__file__).parents[2]


def test_the_limit_leaves_file_descriptors_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (100, 100))
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 1)
    assert publisher._room == 50
    publisher.close()
