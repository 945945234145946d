"""Publish over ZeroMQ: two frames (topic, UTF-8 JSON), with the last message of each topic for new subscribers.

The door is our own and not the library's, whose publishing sockets keep whatever subscribers send: here nothing that a
subscriber does costs memory or time without a bound, and nobody notices what another does.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_runtime import sockets, zmtp
from edge_runtime.keyring import LOOK_S, Keyring
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.publish.zmtp import OWN, STRANGER, SUBSCRIBERS, Conversation, message

log = logging.getLogger("edge_runtime.publish")

MAX_SUBSCRIBERS = 256
SOCKET_BYTES = 64 << 10
"""What the kernel keeps for one subscriber (it takes twice that)."""
CLOSE_LINGER_S = 0.5
HANDSHAKE_S = 5.0
STALLED_S = 2.0
"""A subscriber that takes nothing for so long gives way to a new one when there is no room."""
LAST_VALUE_S = 1.0
"""A subscriber gets the last value of a topic again, for subscribing again, at most so often."""
READ_BYTES = 4096
READ_BURST_BYTES = 16 << 10
READ_RATE = 1024.0
"""Bytes a second that are read of one subscriber, beyond the burst; the rest waits in its own buffers."""
ACCEPTS = 16
"""New connections in one turn."""
PAUSE_SHARE = 3.0
MAX_PAUSE_S = 0.02
"""After a turn, the thread rests three times as long as it worked: what comes in costs at most a quarter of a core."""
SWEEP_S = 0.1
MUTE_S = 0.1
LOG_INTERVAL_S = 10.0
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Item(NamedTuple):
    """A message on its way out."""

    topic: bytes
    payload: bytes
    plain: bytes
    """As it goes over the wire where there is no security."""


class _Peer:
    """One subscriber. What is marked `lock` is used under the publisher's lock; the rest on the door's thread only."""

    def __init__(self, connection: socket.socket, now: float, high_water_mark: int, conversation: Conversation) -> None:
        self.socket = connection
        self.conversation = conversation
        """The door's, but for `seal` under the lock once it is open."""
        self.prefixes: frozenset[bytes] = frozenset()  # lock
        self.since = now
        self.backlog: deque[bytes] = deque(maxlen=high_water_mark)  # lock
        self.behind = False  # lock: bytes wait, and the door's thread sends them
        self.broken = False  # lock
        self.rest = memoryview(b"")  # the loop's until `behind`, then the door's
        self.moved_at = now
        """When it last took something, or had nothing to take."""
        self.credit = float(READ_BURST_BYTES)
        self.credited_at = now
        self.events = 0
        self.told: dict[bytes, float] = {}
        """When it last got the last value of a topic."""
        self.asked: set[bytes] = set()
        """Topics whose last value it is still to get."""

    def wants(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self.prefixes)

    def earn(self, now: float) -> None:
        self.credit = min(READ_BURST_BYTES, self.credit + READ_RATE * (now - self.credited_at))
        self.credited_at = now


class ZmqPublisher(Sink):
    """Binds for subscribers (SUB, XSUB) that speak ZMTP 3. `publish` is called by the loop and never waits: it sends to
    all that keep up; a thread of its own does all the rest.

    A subscriber that reads too slowly loses its own oldest messages beyond the high-water mark. A new one gets the last
    message of its topics at once, and nobody else does. At most MAX_SUBSCRIBERS (and half of the file descriptors that
    the process may have) are connected; beyond that the eldest that has not subscribed, or takes nothing, gives way,
    and where there is none the new one is refused.
    """

    def __init__(
        self, bind: str, high_water_mark: int, mode: int = 0o666, group: str = "", keys: Path | None = None
    ) -> None:
        """Where there is a folder of `keys`, only its clients that may receive get in (CURVE).

        Raises ConfigError, HeldError where somebody listens there already."""
        self._keyring = None if keys is None else Keyring(keys)
        self._mechanism = zmtp.mechanisms(OWN, SUBSCRIBERS, STRANGER, self._keyring)
        self._listener = sockets.listen(bind, "sink bind", mode, group, _prepare)
        self.endpoint = self._listener.endpoint
        """Where it really is bound."""
        self._listener.socket.setblocking(False)
        self._high_water_mark = high_water_mark
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = MAX_SUBSCRIBERS if soft == resource.RLIM_INFINITY else max(1, min(MAX_SUBSCRIBERS, soft // 2))
        self._lock = threading.Lock()
        self._last: dict[bytes, _Item] = {}  # lock
        self._audience: dict[bytes, dict[int, _Peer]] = {}  # lock: by topic and file descriptor
        self._attention: deque[_Peer] = deque()
        """Those that have fallen behind or broken while the loop sent to them."""
        self._peers: dict[int, _Peer] = {}  # lock, where the door's thread changes it and the loop looks at it
        self._refused: Counter[str] = Counter()
        self._next_log = 0.0
        self._mute_until = 0.0
        self._next_sweep = 0.0
        self._spare = sockets.Spare()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, _READ)
        self._selector.register(self._listener.socket, _READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"publish {self.endpoint}", daemon=True)
        self._thread.start()

    def publish(self, item: Published) -> None:
        out = _Item(item.topic, item.payload, message(item.topic, item.payload))
        with self._lock:
            self._last[item.topic] = out
            audience = self._audience.get(item.topic)
            if audience is None:
                wanting = {fd: peer for fd, peer in self._peers.items() if peer.wants(item.topic)}
                audience = self._audience[item.topic] = wanting
            for peer in audience.values():
                self._hand(peer, out)
        if self._attention:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            os.eventfd_write(self._wake, 1)
            self._thread.join(2 * CLOSE_LINGER_S)
            if not self._thread.is_alive():
                os.close(self._wake)

    def _hand(self, peer: _Peer, item: _Item) -> None:
        """Under the lock."""
        sealed = self._keyring is not None
        self._send(peer, peer.conversation.seal(item.topic, item.payload) if sealed else item.plain)

    def _send(self, peer: _Peer, data: bytes) -> None:
        """Under the lock. To a peer that keeps up at once; behind one that does not, in its backlog."""
        if peer.behind:
            peer.backlog.append(data)
        elif not peer.broken:
            try:
                sent = peer.socket.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                peer.broken = True
                self._attention.append(peer)
                return
            if sent < len(data):
                peer.rest = memoryview(data)[sent:]
                peer.behind = True
                self._attention.append(peer)

    # The rest runs on the door's thread.

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                ready = self._selector.select(self._timeout())
                start = time.monotonic()
                self._turn({key.fd: events for key, events in ready}, start)
                # A storm waits; whoever is only read to is woken by nothing and waits for nothing.
                self._stopping.wait(min(MAX_PAUSE_S, PAUSE_SHARE * (time.monotonic() - start)))
            self._linger()
        except Exception:
            log.exception("publish %s: the door failed; subscribers there already go on", self.endpoint)
            self._stopping.wait()
        finally:
            self._close_all()

    def _turn(self, ready: dict[int, int], now: float) -> None:
        if ready.pop(self._wake, 0):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        while self._attention:
            self._look_after(self._attention.popleft(), now)
        listening = ready.pop(self._listener.socket.fileno(), 0)
        for fd, events in ready.items():
            peer = self._peers.get(fd)
            if peer is not None and events & _WRITE:
                self._flush(peer, now)
            if peer is not None and events & _READ and self._peers.get(fd) is peer:
                self._read(peer, now)
        if listening:
            for _ in range(ACCEPTS):
                if not self._accept(now):
                    break
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_S
            self._sweep(now)

    def _timeout(self) -> float | None:
        """Until something is due that nothing announces."""
        due = self._mute_until or any(
            not peer.conversation.open or not peer.events & _READ or peer.asked for peer in self._peers.values()
        )
        if due or self._refused:
            return SWEEP_S
        return None if self._keyring is None else LOOK_S

    def _accept(self, now: float) -> bool:
        """Take one new connection; whether there may be more."""
        full = len(self._peers) >= self._room
        try:
            connection, _ = self._listener.socket.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._turn_away(now)
                return False
            return True  # it has gone again
        if full and not self._make_room(now):
            self._refused["no_room"] += 1
            connection.close()
            return True
        connection.setblocking(False)
        if connection.family == socket.AF_UNIX:  # which inherits nothing
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        peer = _Peer(connection, now, self._high_water_mark, Conversation(self._mechanism()))
        self._watch(peer, _READ)
        with self._lock:
            self._peers[connection.fileno()] = peer
            self._send(peer, peer.conversation.greeting)
        return True

    def _turn_away(self, now: float) -> None:
        """The process has no file descriptor left: an idle subscriber gives way, or the new one is turned away."""
        if self._make_room(now):
            return
        self._refused["no_file_descriptors"] += 1
        self._spare.turn_away(self._listener.socket)
        self._selector.unregister(self._listener.socket)
        self._mute_until = now + MUTE_S

    def _make_room(self, now: float) -> bool:
        """Close the eldest that is of no use: in the handshake still, subscribed to nothing, or taking nothing."""
        idle = next(self._idle(now), None)
        if idle is None:
            return False
        self._drop(idle, "gave_way")
        return True

    def _idle(self, now: float) -> Iterator[_Peer]:
        # The eldest come first: a dictionary keeps the order in which they came.
        peers = self._peers.values()
        yield from (peer for peer in peers if not peer.conversation.open)
        yield from (peer for peer in peers if not peer.prefixes)
        yield from (peer for peer in peers if peer.behind and now - peer.moved_at > STALLED_S)

    def _read(self, peer: _Peer, now: float) -> None:
        peer.earn(now)
        if peer.credit < 1:
            self._watch(peer, peer.events & ~_READ)
            return
        try:
            data = peer.socket.recv(min(READ_BYTES, int(peer.credit)))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # Where there are keys, who goes before it has shown one is counted with those that were not let in.
            self._drop(peer, "no_handshake" if self._keyring is not None and not peer.conversation.open else None)
            return
        peer.credit -= len(data)
        try:
            # What is open may be sealed for by the loop meanwhile.
            with self._lock if peer.conversation.open else contextlib.nullcontext():
                answer, fresh = peer.conversation.feed(data)
            client = peer.conversation.client
            if client is not None and not client.receive:
                raise zmtp.ProtocolError("not_allowed")
        except zmtp.ProtocolError as error:
            self._drop(peer, str(error))
            return
        self._answer(peer, answer, fresh, now)
        if peer.credit < 1:
            self._watch(peer, peer.events & ~_READ)

    def _answer(self, peer: _Peer, answer: bytes, fresh: frozenset[bytes], now: float) -> None:
        """What `peer` said is answered before it belongs to any audience."""
        with self._lock:
            if answer:
                self._send(peer, answer)
            if peer.conversation.prefixes != peer.prefixes:
                peer.prefixes = peer.conversation.prefixes
                for topic, audience in self._audience.items():
                    if peer.wants(topic):
                        audience[peer.socket.fileno()] = peer
                    else:
                        audience.pop(peer.socket.fileno(), None)
            if fresh:
                peer.asked.update(topic for topic in self._last if any(topic.startswith(one) for one in fresh))
                self._tell_last(peer, now)

    def _tell_last(self, peer: _Peer, now: float) -> None:
        """Under the lock: between two messages of the loop, so that none is missing and none comes twice."""
        for topic, item in self._last.items():
            if topic in peer.asked and now - peer.told.get(topic, -LAST_VALUE_S) >= LAST_VALUE_S:
                peer.asked.discard(topic)
                if peer.wants(topic):
                    peer.told[topic] = now
                    self._hand(peer, item)

    def _look_after(self, peer: _Peer, now: float) -> None:
        if self._peers.get(peer.socket.fileno()) is not peer:
            return
        if peer.broken:
            self._drop(peer)
        else:
            peer.moved_at = now
            self._watch(peer, peer.events | _WRITE)

    def _flush(self, peer: _Peer, now: float) -> None:
        """Send what waits, as far as it goes."""
        while True:
            if not peer.rest:
                with self._lock:
                    if not peer.backlog:
                        peer.behind = False
                        self._watch(peer, peer.events & ~_WRITE)
                        return
                    peer.rest = memoryview(peer.backlog.popleft())
            try:
                sent = peer.socket.send(peer.rest, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._drop(peer)
                return
            peer.rest = peer.rest[sent:]
            peer.moved_at = now

    def _sweep(self, now: float) -> None:
        """What is due without anything having come."""
        if self._mute_until and now >= self._mute_until:
            self._mute_until = 0.0
            self._selector.register(self._listener.socket, _READ)
        for peer in list(self._peers.values()):
            if not peer.conversation.open and now - peer.since > HANDSHAKE_S:
                self._drop(peer, "no_handshake")
                continue
            if not peer.events & _READ:
                peer.earn(now)
                if peer.credit >= READ_RATE * SWEEP_S:
                    self._watch(peer, peer.events | _READ)
            if peer.asked:
                with self._lock:
                    self._tell_last(peer, now)
        if self._keyring is not None and self._keyring.changed(now):
            for peer in list(self._peers.values()):
                if peer.conversation.client is not None and not self._keyring.stands(peer.conversation.client):
                    self._drop(peer, "revoked")
        if self._refused and now >= self._next_log:
            self._next_log = now + LOG_INTERVAL_S
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self._refused.items()))
            log.warning("publish %s: connections closed: %s", self.endpoint, reasons)
            self._refused.clear()

    def _watch(self, peer: _Peer, events: int) -> None:
        if events == peer.events:
            return
        if not peer.events:
            self._selector.register(peer.socket, events)
        elif not events:
            self._selector.unregister(peer.socket)
        else:
            self._selector.modify(peer.socket, events)
        peer.events = events

    def _drop(self, peer: _Peer, reason: str | None = None) -> None:
        if reason is not None:
            self._refused[reason] += 1
        fd = peer.socket.fileno()
        with self._lock:
            peer.broken = True
            del self._peers[fd]
            for audience in self._audience.values():
                audience.pop(fd, None)
        self._watch(peer, 0)
        peer.socket.close()

    def _linger(self) -> None:
        """Nothing more will be published: pass on what waits, for a moment."""
        deadline = time.monotonic() + CLOSE_LINGER_S
        while (now := time.monotonic()) < deadline:
            while self._attention:
                self._look_after(self._attention.popleft(), now)
            if not any(peer.behind for peer in self._peers.values()):
                return
            for key, events in self._selector.select(deadline - now):
                peer = self._peers.get(key.fd)
                if peer is not None and events & _WRITE:
                    self._flush(peer, now)
                elif peer is None or events & _READ:  # nobody is let in, nobody is heard any more
                    self._deafen(key.fd, peer)

    def _deafen(self, fd: int, peer: _Peer | None) -> None:
        if peer is None:
            self._selector.unregister(fd)
        else:
            self._watch(peer, peer.events & ~_READ)

    def _close_all(self) -> None:
        self._listener.close()
        for peer in list(self._peers.values()):
            # What was sent arrives, though something that nobody will read may have come.
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
                peer.socket.recv(SOCKET_BYTES)
            self._drop(peer)
        self._selector.close()
        self._spare.close()


def _prepare(listening: socket.socket) -> None:
    """What the connections inherit."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
