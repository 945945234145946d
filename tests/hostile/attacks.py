"""The attacks: a function and a row of the table each; every one runs in a process of its own.

    python -m tests.hostile.attacks NAME INPUTS DECISIONS PID SECONDS [KEYS]

KEYS is the file of a client that may send and listen, where the doors have keys. It says `ready`, waits for a line, and
attacks. Its last line is a JSON object: messages sent, and what went wrong as the attacker saw it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import zmq
from nacl.exceptions import CryptoError

from edge_runtime import sockets
from edge_runtime import zmtp as zmtp_commands
from tests.hostile import bombs, curve, zmtp

NICENESS = 10
"""Attackers stand for neighbours elsewhere: they must not take the service's cores by being on the same machine."""
LINE_RATE_BATCH = 64


@dataclass
class Target:
    """What is attacked, until when, and what was seen."""

    inputs: str
    decisions: str
    pid: int
    until_s: float
    keys: Path
    sent: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def going(self) -> bool:
        return time.monotonic() < self.until_s

    @contextlib.contextmanager
    def push(self, queue: int = 1000, keys: Path | None = None) -> Iterator[zmq.Socket[bytes]]:
        """A PUSH socket whose sends give up after 0.1 s."""
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, queue)
            socket.setsockopt(zmq.SNDTIMEO, 100)
            sockets.connect(socket, self.inputs, keys)
            yield socket

    def pour(
        self, messages: Iterable[list[bytes]], pause_s: float = 0.0, queue: int = 1000, keys: Path | None = None
    ) -> None:
        """Send them as fast as they are taken, or one every `pause_s`, until the time is over."""
        with self.push(queue, keys) as socket:
            for number, parts in enumerate(messages):
                if number % LINE_RATE_BATCH == 0 and not self.going:
                    return
                with contextlib.suppress(zmq.Again):
                    socket.send_multipart(parts, copy=False)
                    self.sent += 1
                if pause_s:
                    time.sleep(pause_s)
                    if not self.going:
                        return


@dataclass(frozen=True)
class Attack:
    """A row: what is done, how many at once, and which rules of `judge` it leaves out."""

    run: Callable[[Target], None]
    words: str
    copies: int = 1
    timed: bool = True
    """Whether decisions have to go on meanwhile: a process that is stopped cannot decide."""
    quiet: bool = False
    """Whether it must cost no CPU to speak of."""
    keyed: bool = False
    """Whether the service's doors have keys."""
    together: bool = True
    """Whether it takes part when all attack at once."""
    ready: Callable[[], object] = bombs.frame
    """Done before the time begins: what it throws is made."""

    @property
    def name(self) -> str:
        return self.run.__name__


def sensors_at_line_rate(target: Target) -> None:
    target.pour(itertools.repeat([bombs.message("sensors", values=bombs.SENSORS)]))


def sensors_at_4_khz(target: Target) -> None:
    def stamped() -> Iterator[list[bytes]]:
        while True:
            now_ns = time.monotonic_ns()
            yield [bombs.message("sensors", values=bombs.SENSORS, captured_ns=now_ns, id=f"t{now_ns}")]

    target.pour(stamped(), pause_s=1 / 4000)


def short_texts_at_line_rate(target: Target) -> None:
    target.pour([bombs.message("text", text=f"turn left {number}")] for number in itertools.count())


def long_texts_at_line_rate(target: Target) -> None:
    texts = [bombs.message("text", text=("go left " * 8000)[: 65_000 - number]) for number in range(32)]
    target.pour([text] for text in itertools.cycle(texts))


def odd_texts_at_line_rate(target: Target) -> None:
    rng = random.Random(1)
    texts = [bombs.message("text", text="".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(512)))]
    texts += [bombs.message("text", text="\u0301" * 20_000), bombs.message("text", text=" \n" * 20_000)]
    target.pour([text] for text in itertools.cycle(texts))


def garbage(target: Target) -> None:
    rng = random.Random(2)
    target.pour([rng.randbytes(rng.choice((0, 1, 30, 1000, 64_000)))] for _ in itertools.count())


def poison(target: Target) -> None:
    target.pour([body] for body in itertools.cycle(bombs.poison()))


def many_parts(target: Target) -> None:
    target.pour(itertools.repeat([b"x"] * 2000), queue=10)


def endless_message(target: Target) -> None:
    """Parts without end, 64 KiB each."""
    part = zmtp.head(65_536, zmtp.MORE) + bytes(65_536)
    while target.going:
        with contextlib.suppress(OSError), zmtp.peer(target.inputs, "PUSH") as link:
            while target.going:
                link.sendall(part)
                target.sent += 1


def endless_small_parts(target: Target) -> None:
    parts = (zmtp.head(1, zmtp.MORE) + b"x") * 20_000
    while target.going:
        with contextlib.suppress(OSError), zmtp.peer(target.inputs, "PUSH") as link:
            while target.going:
                link.sendall(parts)
                target.sent += 1


def half_messages(target: Target) -> None:
    """Two hundred senders of 8 MiB that hold the last byte back."""
    head, links = zmtp.head(8 << 20), []
    body = bytes(1 << 20)
    for _ in range(200):
        with contextlib.suppress(OSError):
            link = zmtp.peer(target.inputs, "PUSH")
            links.append(link)
            link.sendall(head)
            for _ in range(7):
                link.sendall(body)
            link.sendall(body[:-1])
            target.sent += 1
        if not target.going:
            break
    _hold(target, links)


def huge_messages(target: Target) -> None:
    """64 MiB, again and again."""
    body = bytes(64 << 20)
    with contextlib.suppress(zmq.ZMQError):
        target.pour(([body] for _ in itertools.count()), pause_s=0.02, queue=2)


def largest_pictures(target: Target) -> None:
    """Fifty senders of two parts that are as large as allowed."""
    header, body = bombs.message("camera.front"), bytes(8 << 20)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(target.push(4)) for _ in range(50)]
        while target.going:
            for socket in sockets:
                with contextlib.suppress(zmq.Again):
                    socket.send_multipart([header, body], zmq.NOBLOCK, copy=False)
                    target.sent += 1
            time.sleep(0.01)


def pictures_of_4k(target: Target) -> None:
    """Faster than any decoder here, each newest when it comes."""
    data = bombs.picture_of_4k()

    def stamped() -> Iterator[list[bytes]]:
        while True:
            yield [bombs.message("camera.front", captured_ns=time.monotonic_ns()), data]

    target.pour(stamped(), queue=4)


def picture_bombs(target: Target) -> None:
    header = bombs.message("camera.front")
    target.pour([header, data] for data in itertools.cycle(bombs.pictures()))


def headers_without_pictures(target: Target) -> None:
    """Well-formed headers whose picture is none: newer than every honest frame, and worth nothing."""
    header = bombs.message("camera.front")
    target.pour(itertools.repeat([header, b"no picture"]))


def words_for_values(target: Target) -> None:
    words = (None, "unavailable", "NaN", "", True, 1e30, "12,5", -1e9)

    def values(number: int) -> bytes:
        channels = {name: words[(number + at) % len(words)] for at, name in enumerate(bombs.SENSORS)}
        return bombs.message("sensors", values={**channels, f"channel_{number}": 1.0})

    target.pour([values(number)] for number in itertools.count())


def wrong_stamps(target: Target) -> None:
    """Of the past, of the future, and backwards."""

    def stamped() -> Iterator[list[bytes]]:
        for number in itertools.count():
            now_ns = time.monotonic_ns()
            stamp = (0, now_ns - 10**10, now_ns + 10**10, now_ns - (number % 1000) * 10**6)[number % 4]
            yield [bombs.message("sensors", values=bombs.SENSORS, captured_ns=stamp)]
            yield [bombs.message("text", text="turn left", captured_ns=stamp)]
            yield [bombs.message("camera.front", captured_ns=stamp), bombs.frame()]

    target.pour(stamped(), pause_s=1 / 500)


def names_without_end(target: Target) -> None:
    target.pour([bombs.message(f"stream-{number}", text="x")] for number in itertools.count())


def forged_lines(target: Target) -> None:
    rng = random.Random(3)
    target.pour([body] for _ in itertools.count() for body in bombs.forging(rng))


def connections_at_inputs(target: Target) -> None:
    """More than there are file descriptors, that say nothing."""
    _half_open(target, target.inputs)


def bytes_at_inputs(target: Target) -> None:
    _babble(target, target.inputs)


def subscription_storm(target: Target) -> None:
    """Subscribers that come and go, each wanting the last values."""
    with zmq.Context() as context:
        while target.going:
            with context.socket(zmq.XSUB) as socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.connect(target.decisions)
                for _ in range(500):
                    socket.send(b"\x01")
                    socket.send(b"\x00")
                    socket.send(b"\x01decision.")
                    target.sent += 3
                time.sleep(0.005)


def resubscription_storm(target: Target) -> None:
    """One connection that subscribes as fast as the wire takes it."""
    requests = b"".join(zmtp.head(len(body)) + body for body in (b"\x01", b"\x00")) * 2000
    while target.going:
        with contextlib.suppress(OSError), zmtp.peer(target.decisions, "SUB") as link:
            while target.going:
                link.sendall(requests)
                target.sent += 4000
                with contextlib.suppress(OSError):
                    while link.recv(1 << 20, socket.MSG_DONTWAIT):
                        pass


def many_subscriptions(target: Target) -> None:
    """Two hundred thousand of one subscriber, and again."""
    for number in itertools.count():
        if not target.going:
            return
        with contextlib.suppress(OSError), zmtp.peer(target.decisions, "SUB") as link:
            for block in range(200):
                bodies = (f"\x01{number}-{block}-{at}".encode() for at in range(1000))
                link.sendall(b"".join(zmtp.head(len(body)) + body for body in bodies))
                target.sent += 1000


def huge_subscriptions(target: Target) -> None:
    """64 MiB each."""
    body = b"\x01" + b"x" * (1 << 20)
    while target.going:
        with contextlib.suppress(OSError), zmtp.peer(target.decisions, "SUB") as link:
            link.sendall(zmtp.head(64 << 20))
            for _ in range(64):
                link.sendall(body[: 1 << 20])
            target.sent += 1


def connections_at_decisions(target: Target) -> None:
    """More than there are file descriptors, that say nothing; whoever comes later must hear decisions."""
    _half_open(target, target.decisions, then=_listens)


def bytes_at_decisions(target: Target) -> None:
    _babble(target, target.decisions)


def deaf_subscribers(target: Target) -> None:
    """A hundred that read nothing."""
    links = []
    for _ in range(100):
        with contextlib.suppress(OSError):
            link = zmtp.peer(target.decisions, "SUB")
            link.sendall(zmtp.head(1) + b"\x01")
            links.append(link)
            target.sent += 1
    _hold(target, links)


def standstill(target: Target) -> None:
    """The service stands still for the middle half of the time; what comes meanwhile is not stamped by its sender.

    What waits at its sender nobody can know of: each message goes out only when the one before has reached the
    service's socket.
    """
    begin_s = time.monotonic()
    quarter_s = (target.until_s - begin_s) / 4
    stopped: list[psutil.Process] = []
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: _go_on(stopped))
        links = [cleanup.enter_context(zmtp.peer(target.inputs, "PUSH")) for _ in range(3)]
        while target.going:
            mark = f"t{time.monotonic_ns()}"
            messages = (
                [bombs.message("camera.front", id=mark), bombs.frame()],
                [bombs.message("sensors", values=bombs.SENSORS, id=mark)],
                [bombs.message("text", text="turn left", id=mark)],
            )
            for link, parts in zip(links, messages, strict=True):
                if zmtp.waiting(link) == 0:
                    link.sendall(zmtp.whole(parts))
                    target.sent += 1
            middle = quarter_s < time.monotonic() - begin_s < 3 * quarter_s
            if middle and not stopped:
                main = psutil.Process(target.pid)
                stopped += [main, *main.children(recursive=True)]
                for process in stopped:
                    process.send_signal(signal.SIGSTOP)
            elif stopped and not middle:
                _go_on(stopped)
            time.sleep(1 / 30)


def handshakes_of_garbage(target: Target) -> None:
    """CURVE as far as the greeting, then a HELLO of the right size, of another one, or none."""
    rng = random.Random(5)
    for number in itertools.count():
        if not target.going:
            return
        endpoint, kind = ((target.inputs, "PUSH"), (target.decisions, "SUB"))[number % 2]
        with contextlib.suppress(OSError), curve.Link(endpoint, kind, target.keys) as link:
            hello = zmtp_commands.command(b"HELLO", b"\x01\x00" + rng.randbytes(192))
            said = rng.choice((hello, hello[: rng.randrange(200)], rng.randbytes(500)))
            link.socket.sendall(said)
            target.sent += 1
            if said is hello and link.socket.recv(100):
                target.faults.append("garbage was answered")


def handshakes_half_done(target: Target) -> None:
    """Right as far as it goes: the server has made its keys and a cookie, and hears nothing more."""
    links: list[curve.Link] = []
    for number in itertools.count():
        if not target.going:
            break
        endpoint, kind = ((target.inputs, "PUSH"), (target.decisions, "SUB"))[number % 2]
        with contextlib.suppress(OSError, CryptoError):
            link = curve.Link(endpoint, kind, target.keys)
            links.append(link)
            link.hello()
            link.welcome()
            target.sent += 1
        if len(links) > 500:
            links.pop(0).close()
    for link in links:
        link.close()


def unknown_keys(target: Target) -> None:
    """Whole handshakes with keys that nobody was given: all that a server can be made to compute."""
    for number in itertools.count():
        if not target.going:
            return
        endpoint, kind = ((target.inputs, "PUSH"), (target.decisions, "SUB"))[number % 2]
        with contextlib.suppress(OSError, CryptoError), curve.Link(endpoint, kind, target.keys, stranger=True) as link:
            link.hello()
            link.initiate(*link.welcome())
            target.sent += 1
            if link.socket.recv(100):
                target.faults.append("a stranger was let in")


def plain_at_keys(target: Target) -> None:
    """Who speaks without security, at doors that have it."""
    while target.going:
        for endpoint, kind in ((target.inputs, "PUSH"), (target.decisions, "SUB")):
            with contextlib.suppress(OSError):
                zmtp.peer(endpoint, kind).close()
            target.sent += 1


def known_at_line_rate(target: Target) -> None:
    """A client that has keys: sensor values as fast as a socket takes them."""
    target.pour(itertools.repeat([bombs.message("sensors", values=bombs.SENSORS)]), keys=target.keys)


def known_with_pictures(target: Target) -> None:
    """... and pictures that are as large as allowed, and none."""
    header, body = bombs.message("camera.front"), bytes(8 << 20)
    target.pour(itertools.repeat([header, body]), queue=4, pause_s=0.01, keys=target.keys)


def known_without_end(target: Target) -> None:
    """... and a message of endless parts."""
    while target.going:
        with contextlib.suppress(OSError, CryptoError), curve.Link(target.inputs, "PUSH", target.keys).open() as link:
            while target.going:
                link.socket.sendall(link.sealed([bytes(60_000)] * 8, ends=False))
                target.sent += 1


def known_again(target: Target) -> None:
    """... and a sealed message that is said again: the connection ends, and another one begins."""
    while target.going:
        with contextlib.suppress(OSError, CryptoError), curve.Link(target.inputs, "PUSH", target.keys).open() as link:
            said = link.sealed([bombs.message("sensors", values=bombs.SENSORS)])
            link.socket.sendall(said * 100)
            target.sent += 1
            while link.socket.recv(100):
                pass


def known_subscriptions(target: Target) -> None:
    """... and one that subscribes as fast as the wire takes it."""
    while target.going:
        with contextlib.suppress(OSError, CryptoError), curve.Link(target.decisions, "SUB", target.keys).open() as link:
            while target.going:
                link.socket.sendall(b"".join(link.sealed([body]) for body in (b"\x01", b"\x00") for _ in range(200)))
                target.sent += 400
                with contextlib.suppress(OSError):
                    while link.socket.recv(1 << 20, socket.MSG_DONTWAIT):
                        pass


def _go_on(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def _hold(target: Target, links: list[socket.socket]) -> None:
    while target.going:
        time.sleep(0.05)
    for link in links:
        link.close()


def _half_open(target: Target, endpoint: str, then: Callable[[Target], bool] | None = None) -> None:
    links = []
    for _ in range(1500):
        if not target.going:
            break
        try:
            links.append(zmtp.tcp(endpoint, 0.5))
            target.sent += 1
        except OSError:
            break
    if then is not None and target.going and not then(target):
        target.faults.append("a subscriber that came later heard nothing")
    _hold(target, links)


def _listens(target: Target) -> bool:
    """Whether a subscriber that comes now hears a decision within the time that is left, but at least 5 s."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.subscribe(b"decision.")
        socket.connect(target.decisions)
        return bool(socket.poll(int(1000 * max(5.0, target.until_s - time.monotonic()))))


def _babble(target: Target, endpoint: str) -> None:
    """Bytes that are no protocol: from the first on, or after a proper handshake."""
    rng = random.Random(4)
    while target.going:
        with contextlib.suppress(OSError):
            link = zmtp.peer(endpoint, rng.choice(("PUSH", "SUB"))) if rng.random() < 0.5 else zmtp.tcp(endpoint)
            with link:
                link.sendall(rng.choice((b"GET / HTTP/1.1\r\n\r\n", zmtp.GREETING[:20], rng.randbytes(3000))))
                link.sendall(rng.randbytes(rng.randrange(1, 100_000)))
            target.sent += 1


ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(sensors_at_line_rate, "sensor values as fast as a socket takes them", copies=2),
        Attack(sensors_at_4_khz, "sensor values 4000 times a second, stamped"),
        Attack(short_texts_at_line_rate, "sentences as fast as a socket takes them"),
        Attack(long_texts_at_line_rate, "texts of 64 KiB as fast as a socket takes them"),
        Attack(odd_texts_at_line_rate, "texts of rare signs, accents, white space"),
        Attack(garbage, "random bytes as messages"),
        Attack(poison, "JSON that parsers have tripped over"),
        Attack(many_parts, "messages of 2000 parts"),
        Attack(endless_message, "a message that never ends, 64 KiB a part", copies=2),
        Attack(endless_small_parts, "a message that never ends, one byte a part"),
        Attack(half_messages, "200 messages of 8 MiB whose last byte is held back"),
        Attack(huge_messages, "messages of 64 MiB"),
        Attack(largest_pictures, "50 senders of 8 MiB that are no pictures"),
        Attack(pictures_of_4k, "3840x2160 JPEGs as fast as a socket takes them", copies=2, ready=bombs.picture_of_4k),
        Attack(picture_bombs, "pictures that announce, repeat or lack something", ready=bombs.pictures),
        Attack(headers_without_pictures, "camera messages that hold no picture, at line rate"),
        Attack(words_for_values, "nulls, words and new channel names, at line rate"),
        Attack(wrong_stamps, "stamps of the past and of the future"),
        Attack(names_without_end, "a new stream name with each message"),
        Attack(forged_lines, "names with line breaks and terminal controls"),
        Attack(connections_at_inputs, "1500 connections that say nothing", quiet=True, together=False),
        Attack(bytes_at_inputs, "bytes that are no protocol"),
        Attack(subscription_storm, "subscribers that come and go"),
        Attack(resubscription_storm, "one that subscribes at line rate"),
        Attack(many_subscriptions, "200,000 subscriptions of one subscriber, and again"),
        Attack(huge_subscriptions, "subscriptions of 64 MiB"),
        Attack(connections_at_decisions, "1500 connections that say nothing", quiet=True, together=False),
        Attack(bytes_at_decisions, "bytes that are no protocol"),
        Attack(deaf_subscribers, "100 subscribers that read nothing", quiet=True),
        Attack(handshakes_of_garbage, "CURVE handshakes that are none", copies=2, keyed=True),
        Attack(handshakes_half_done, "CURVE handshakes that stop in the middle, 500 at a time", copies=2, keyed=True),
        Attack(unknown_keys, "whole CURVE handshakes with keys of nobody", copies=4, keyed=True),
        Attack(plain_at_keys, "clients without security", keyed=True),
        Attack(known_at_line_rate, "a known client: sensor values at line rate", copies=2, keyed=True),
        Attack(known_with_pictures, "a known client: 8 MiB that are no pictures", copies=2, keyed=True),
        Attack(known_without_end, "a known client: a message of endless parts", keyed=True),
        Attack(known_again, "a known client: sealed messages said again", keyed=True),
        Attack(known_subscriptions, "a known client: subscriptions at line rate", keyed=True),
        Attack(standstill, "the process stands still; senders do not stamp", timed=False, together=False),
    )
}


def main(name: str, inputs: str, decisions: str, pid: int, seconds: float, keys: str = "") -> None:
    os.nice(NICENESS)
    # More connections than the service may have need as many descriptors here.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ATTACKS[name].ready()
    print("ready", flush=True)
    sys.stdin.readline()
    target = Target(inputs, decisions, pid, time.monotonic() + seconds, Path(keys))
    ATTACKS[name].run(target)
    print(json.dumps({"sent": target.sent, "faults": target.faults}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), *sys.argv[6:])
