"""The door that senders knock at: takes their connections, and hears each of them in its turn.

It is our own and not the library's, whose pulling sockets keep a message of endless frames in memory until its end, and
do not tell senders apart. What one sender does here costs bounded memory and bounded time, and the others nothing.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from edge_runtime import sockets, zmtp
from edge_runtime.capture.sender import OTHERS, OWN, STRANGER, Arrived, Limits, Sender
from edge_runtime.clock import Clock, SleepWatch
from edge_runtime.keyring import Client, Keyring

MAX_SENDERS = 128
"""Connections at once; beyond that those that have been silent for longest give way."""
LEAST_BYTES, MOST_BYTES = 64 << 10, 1 << 20
"""Taken of one sender's long frame in one turn: a byte for each nanosecond that it may spend, within these."""
SOCKET_BYTES = 256 << 10
"""What the kernel keeps of one connection (it takes twice that)."""
MAX_LARGE_BYTES = 64 << 20
"""Long frames that are still coming, of all senders together; beyond that they have to wait at their senders."""
GRANTED_BYTES = 256 << 10
"""A frame that is no longer waits for no other."""
SLOW_NS = 1_000_000_000
"""A sender that is longer at a long frame than this gives way to one that waits."""
WAIT_NS = 20_000_000
HANDSHAKE_NS = 5_000_000_000
POLL_S = 0.02
"""A wait is no longer than this: so it is known, within this, since when a message may have been there."""
SLACK_NS = 25_000_000
"""A wait and a little: a message that cannot have been here for longer counts from when it was read."""
TURN_NS = 4_000_000
"""Nobody new is heard in a turn that has taken so long."""
IDLE_NS = 2_000_000
"""A sender that has sent nothing for so long keeps nothing back."""
ACCEPTS = 16
"""New connections in one turn."""
SHARE = 0.2
"""Of a core's time, for all senders together that keep the door busy: beyond it they wait."""
LEAST_SHARE = 0.03
"""Of a core's time, for each sender that never costs more, however many others do."""
BURST_NS = 20_000_000
"""Work that a sender may make at once."""
NEWCOMERS_SHARE = 0.05
"""Of a core's time, for all connections together when they are new: who ends one and opens another gains nothing."""
RESTED_NS = 1_000_000
"""What a sender that had to wait may make when it is heard again."""
SHUT_NS = 100_000_000
"""How long nobody is let in where there is no file descriptor left."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Visitor:
    """A connection, and what it has cost. The door's own but for `key`."""

    def __init__(self, sender: Sender, now_ns: int, turn: int) -> None:
        self.sender = sender
        self.since_ns = now_ns
        self.turn = turn
        """When bytes waited last."""
        self.credit_ns = 0.0
        self.credited_ns = now_ns
        self.muted_until_ns = 0
        self.began_large_ns = 0
        self.read_ns = 0
        self.behind_ns: int | None = None
        """Where its messages have waited: since when, until it is seen to have nothing more to send."""
        self.last_ns = 0
        """What its last message counts from: none that came after it counts from before."""

    @property
    def key(self) -> Hashable:
        """Whose messages these are: equal for a client with a key, and where there are none for a process at a Unix
        socket, a connection from this host, another host."""
        return self.sender.key

    @property
    def client(self) -> Client | None:
        """Who it is, where keys say so."""
        return self.sender.client


class Heard(NamedTuple):
    """What one connection has sent: whole messages in order."""

    visitor: Visitor
    messages: list[Arrived]


class Door:
    """Listens at `listening`, which stays its caller's. One thread.

    A message's time of arrival is when it was read, where it cannot have waited for longer than SLACK_NS; else a time
    at which it had certainly not come: nothing counts as younger than it is by more than SLACK_NS, however long this
    process stood still and however much lay before it. Behind a message that had to wait others may wait at the sender:
    until that one is seen to have nothing to send for IDLE_NS, all it sends counts from the same time, and never from
    before what it has sent earlier: of two of its messages the later one is the newer. What a sender's
    system holds back for longer (it tries again after 200 ms where our buffer was full) counts from when it comes: who
    must know its age demands stamps.
    """

    def __init__(
        self,
        listening: socket.socket,
        limits: Limits,
        clock: Clock,
        sleep: SleepWatch,
        keyring: Keyring | None = None,
    ) -> None:
        """With a `keyring` only its clients get in."""
        listening.setblocking(False)
        self._keyring = keyring
        self._mechanism = zmtp.mechanisms(OWN, OTHERS, STRANGER, keyring)
        self._listening = listening
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._slept_ns = sleep.look()
        self._awake_ns = clock.now_ns()
        """What may have come before this counts from then: the machine slept since."""
        self._visitors: dict[int, Visitor] = {}
        self._muted: dict[int, Visitor] = {}
        self._poll = select.epoll()
        self._poll.register(listening.fileno(), select.EPOLLIN)
        self._shut_until_ns = 0
        self._spare = sockets.Spare()
        self._turn = 0
        self._newcomers_ns = float(BURST_NS)
        """What they may make, at `_newcomers_at_ns`."""
        self._newcomers_at_ns = time.monotonic_ns()
        self._polled_ns = clock.now_ns()
        self._swept_ns = 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = MAX_SENDERS if soft == resource.RLIM_INFINITY else max(1, min(MAX_SENDERS, soft // 4))
        self._ended: Counter[str] = Counter()

    def hear(self) -> list[Heard]:
        """What has come, a bounded part of each sender's, of those first that have cost least, for about TURN_NS; waits
        for at most POLL_S.
        """
        self._look_after(time.monotonic_ns())
        self._turn += 1
        earlier_ns, self._polled_ns = self._polled_ns, self._clock.now_ns()
        heard = []
        behind = any(visitor.behind_ns is not None for visitor in self._visitors.values())
        ready = {handle for handle, _ in self._poll.poll(IDLE_NS / 1e9 if behind else POLL_S)}
        waiting = [(handle, visitor) for handle, visitor in self._visitors.items() if handle in ready]
        for _, visitor in waiting:
            if visitor.turn < self._turn - 1:  # it was asked in the turn before, and had nothing
                visitor.sender.was_empty(earlier_ns)
                if earlier_ns - visitor.read_ns >= IDLE_NS:
                    visitor.behind_ns = None
            visitor.turn = self._turn
        # Those that have cost least come first: they wait for nobody's megabytes, and for no more than a turn.
        end_ns = time.monotonic_ns() + TURN_NS
        for handle, visitor in sorted(waiting, key=lambda one: -one[1].credit_ns):
            if self._visitors.get(handle) is not visitor:
                continue  # it had to go for what another one has sent
            if messages := self._hear(handle, visitor):
                heard.append(Heard(visitor, messages))
            if time.monotonic_ns() >= end_ns:
                break  # the others' bytes wait where they are
        if self._listening.fileno() in ready:
            self._welcome()
        return heard

    def charge(self, visitor: Visitor, spent_ns: int) -> None:
        """What `visitor` sent has cost this thread so much time on a processor (`time.thread_time_ns`); where that is
        more than its share, it waits to be heard again.
        """
        now_ns = time.monotonic_ns()
        among = 1 + len(self._muted)
        earned_ns = max(0, now_ns - visitor.credited_ns) * max(LEAST_SHARE, SHARE / among)
        visitor.credit_ns = min(BURST_NS, visitor.credit_ns + earned_ns) - spent_ns
        visitor.credited_ns = max(visitor.credited_ns, now_ns)
        handle = visitor.sender.socket.fileno()
        if visitor.credit_ns < 0 and handle in self._visitors and handle not in self._muted:
            self._mute(handle, visitor, now_ns + int((RESTED_NS - visitor.credit_ns) * among / SHARE))
            visitor.credit_ns, visitor.credited_ns = RESTED_NS, visitor.muted_until_ns  # it pays by waiting

    def take_ended(self) -> Counter[str]:
        """Connections that were ended for what they sent, or gave way, since the last call, by reason."""
        if self._ended:
            ended, self._ended = self._ended, Counter()
            return ended
        return self._ended

    def close(self) -> None:
        """End all connections."""
        for handle in list(self._visitors):
            self._drop(handle)
        self._spare.close()
        self._poll.close()

    def _look_after(self, now_ns: int) -> None:
        """Hear again whom it is time for; end handshakes that take too long."""
        for handle, visitor in list(self._muted.items()):
            if now_ns >= visitor.muted_until_ns:
                del self._muted[handle]
                visitor.turn = self._turn + 1  # nobody has looked whether something waits
                self._poll.register(handle, select.EPOLLIN)
        if self._shut_until_ns and now_ns >= self._shut_until_ns:
            self._shut_until_ns = 0
            self._poll.register(self._listening.fileno(), select.EPOLLIN)
        if now_ns - self._swept_ns > HANDSHAKE_NS // 5:
            self._swept_ns = now_ns
            for handle, visitor in list(self._visitors.items()):
                if not visitor.sender.open and now_ns - visitor.since_ns > HANDSHAKE_NS:
                    self._drop(handle, "no_handshake")
        if self._keyring is not None and self._keyring.changed(now_ns / 1e9):
            for handle, visitor in list(self._visitors.items()):
                if visitor.client is not None and not self._keyring.stands(visitor.client):
                    self._drop(handle, "revoked")

    def _hear(self, handle: int, visitor: Visitor) -> list[Arrived]:
        start_ns = time.thread_time_ns()
        sender = visitor.sender
        messages: list[Arrived] = []
        most = max(LEAST_BYTES, min(MOST_BYTES, int(visitor.credit_ns)))
        try:
            if not sender.wants and (answer := sender.receive(self._clock.now_ns(), messages, most)):
                sender.socket.send(answer, socket.MSG_NOSIGNAL)
            if sender.wants and self._grant(handle, visitor):  # at once, and not in the next turn
                sender.receive(self._clock.now_ns(), messages, most)
        except BlockingIOError:
            pass  # nothing more waits; or a peer does not read what it is answered, and goes without
        except zmtp.ProtocolError as error:
            self._drop(handle, str(error))
        except (OSError, EOFError):
            # Where there are keys, who goes before it has shown one is counted with those that were not let in.
            self._drop(handle, "no_handshake" if self._keyring is not None and not sender.open else None)
        read_ns = self._clock.now_ns()
        if self._sleep.look() != self._slept_ns:
            self._slept_ns, self._awake_ns = self._sleep.look(), self._clock.now_ns()
        self.charge(visitor, time.thread_time_ns() - start_ns)
        visitor.read_ns = read_ns
        if visitor.behind_ns is None and messages and messages[0].at_ns < max(read_ns - SLACK_NS, self._awake_ns):
            visitor.behind_ns = messages[0].at_ns
        at_ns = max(visitor.last_ns, read_ns if visitor.behind_ns is None else visitor.behind_ns)
        if messages:
            visitor.last_ns = at_ns
        return [one._replace(at_ns=at_ns) for one in messages]

    def _grant(self, handle: int, visitor: Visitor) -> bool:
        """Let a long frame come, if there is room; else it waits. Room is made by whoever is long at it, or has cost
        more than the one that waits.
        """
        sender, now_ns = visitor.sender, time.monotonic_ns()
        holding = [(other, one) for other, one in self._visitors.items() if one.sender.holds > GRANTED_BYTES]
        if sender.wants > GRANTED_BYTES and self._held(holding) + sender.wants > MAX_LARGE_BYTES:
            other, slowest = min(holding, key=lambda one: one[1].began_large_ns)
            if now_ns - slowest.began_large_ns <= SLOW_NS:
                paying = max(holding, key=lambda one: one[1].muted_until_ns)
                if paying[0] not in self._muted or visitor.credit_ns < BURST_NS / 2:
                    self._mute(handle, visitor, now_ns + WAIT_NS)
                    return False
                other = paying[0]
            self._drop(other, "too_slow")
            return self._grant(handle, visitor)
        visitor.began_large_ns = now_ns
        sender.grant()
        return True

    @staticmethod
    def _held(holding: list[tuple[int, Visitor]]) -> int:
        return sum(one.sender.holds for _, one in holding)

    def _mute(self, handle: int, visitor: Visitor, until_ns: int) -> None:
        visitor.muted_until_ns = until_ns
        self._muted[handle] = visitor
        self._poll.unregister(handle)

    def _welcome(self) -> None:
        for _ in range(ACCEPTS):
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._shut()
                    return
                continue  # it has gone again
            if len(self._visitors) >= self._room:
                self._make_room()
            connection.setblocking(False)
            mechanism = self._mechanism()
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
                key = _identity(connection, address)
                connection.send(mechanism.greeting, socket.MSG_NOSIGNAL)
            except OSError:
                connection.close()
                continue
            sender = Sender(connection, key, self._limits, self._clock.now_ns(), mechanism)
            visitor = Visitor(sender, time.monotonic_ns(), self._turn)
            visitor.credit_ns = self._part_of_newcomers(visitor.since_ns)
            self._visitors[connection.fileno()] = visitor
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def _part_of_newcomers(self, now_ns: int) -> float:
        """What one of them may make at once: half of what is left for all."""
        earned_ns = (now_ns - self._newcomers_at_ns) * NEWCOMERS_SHARE
        self._newcomers_ns = min(BURST_NS, self._newcomers_ns + earned_ns) / 2
        self._newcomers_at_ns = now_ns
        return self._newcomers_ns

    def _make_room(self) -> None:
        """The one that has been silent for longest gives way, one in its handshake first."""
        handle = min(self._visitors, key=lambda one: (self._visitors[one].sender.open, self._visitors[one].turn))
        self._drop(handle, "gave_way")

    def _shut(self) -> None:
        """No file descriptor is left: somebody gives way or the new one is turned away, and the rest waits a little."""
        self._ended["no_file_descriptors"] += 1
        if len(self._visitors) > 1:
            self._make_room()
        else:
            self._spare.turn_away(self._listening)
        self._shut_until_ns = time.monotonic_ns() + SHUT_NS
        self._poll.unregister(self._listening.fileno())

    def _drop(self, handle: int, reason: str | None = None) -> None:
        visitor = self._visitors.pop(handle)
        self._muted.pop(handle, None)
        with contextlib.suppress(OSError):  # one that is muted is not there
            self._poll.unregister(handle)
        visitor.sender.socket.close()
        if reason is not None:
            self._ended[reason] += 1


def _identity(connection: socket.socket, address: object) -> Hashable:
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return "process", struct.unpack("3i", credentials)[0]
    assert isinstance(address, tuple)
    host = str(address[0])
    local = host == "::1" or host.removeprefix("::ffff:").startswith("127.")
    return ("connection", *address[:2]) if local else ("host", host)
