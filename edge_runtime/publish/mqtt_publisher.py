"""Decisions and status to an MQTT broker: the sink of kind `mqtt`.

What is handed in waits in a small spool for the thread that keeps the connection; neither waits for the other. What
the spool has no room for is lost and counted, the oldest first: what a runtime said a while ago is nobody's news.
Nothing that was decided is retained, since a broker does not tell how old a retained message is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from edge_runtime import config
from edge_runtime.broker import Link
from edge_runtime.publish import home_assistant
from edge_runtime.publish.home_assistant import Known, Topics
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import BundleId, DecisionMessage

log = logging.getLogger("edge_runtime.publish")

CHANGES_HZ = 10.0
"""Decisions that say something else than the one before go out at once, so many a second."""
STATUS_S = 5.0
"""Status that says the same goes out this often."""
IN_FLIGHT = 8
"""Messages that the broker has not acknowledged yet."""
CLOSE_S = 0.9


class _Waiting(NamedTuple):
    payload: bytes
    since: float
    """Monotonic seconds."""


class _Spool:
    """The newest messages of one topic, at most so many; how many it has lost."""

    def __init__(self, topic: str, most: int) -> None:
        self.topic = topic
        self.lost = 0
        self._most = most
        self._waiting: deque[_Waiting] = deque()

    def add(self, item: _Waiting) -> None:
        self._waiting.append(item)
        self._trim()

    def give_back(self, items: Iterable[_Waiting]) -> None:
        """Taken, and perhaps not arrived: older than all that wait."""
        self._waiting.extendleft(reversed(list(items)))
        self._trim()

    def take(self, oldest: float) -> _Waiting | None:
        """The next one that has waited since `oldest` or less long; older ones are lost."""
        while self._waiting:
            item = self._waiting.popleft()
            if item.since >= oldest:
                return item
            self.lost += 1
        return None

    def _trim(self) -> None:
        while len(self._waiting) > self._most:
            self._waiting.popleft()
            self.lost += 1


class _Thinner:
    """Lets what says something else pass at once, and what says the same every so often. The first passes."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._said: object = None
        self._at = float("-inf")
        self._held: tuple[object, _Waiting] | None = None

    def put(self, says: object, item: _Waiting) -> _Waiting | None:
        """`item`, if it is to go now; else it is held back, in place of the one before."""
        self._held = says, item
        return self.due(item.since)

    def due(self, now: float) -> _Waiting | None:
        """What is held back, once it is time (`now`: monotonic seconds)."""
        if self._held is None:
            return None
        says, item = self._held
        if now - self._at < (self._every_s if says == self._said else 1 / CHANGES_HZ):
            return None
        self._said, self._at, self._held = says, now, None
        return item


class MqttPublisher(Sink):
    """Connects when it is told of the session; until then it has nothing to say."""

    def __init__(self, row: config.MqttSink) -> None:
        self._row = row
        self._feed: _Feed | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def session(self, config: config.Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:
        """See Sink. Raises ConfigError for secrets that cannot be used."""
        if self._feed is None:
            self._feed = _Feed(self._row, config.name)
            self._thread = threading.Thread(
                target=self._feed.run, args=(self._stopping,), name=f"mqtt {config.name}", daemon=True
            )
            self._thread.start()
        model = f"{bundle.name} {bundle.version}"
        self._feed.begin(Known(config.name, model, version("edge-runtime"), tuple(streams), tuple(config.zones)))

    def publish(self, item: Published) -> None:
        if self._feed is not None:
            self._feed.put(item)

    @property
    def missed(self) -> int:
        """Lost from the spool, or not taken by the broker."""
        return 0 if self._feed is None else self._feed.missed

    @property
    def trouble(self) -> str | None:
        return None if self._feed is None else self._feed.reason

    def close(self) -> None:
        """Say goodbye and let go, within about a second."""
        self._stopping.set()
        if self._feed is not None and self._thread is not None:
            self._feed.wake()
            self._thread.join(CLOSE_S)


class _Feed(Link):
    """The connection and what waits for it. `begin`, `put`, `missed`: the sink's thread, or any; else the link's."""

    def __init__(self, row: config.MqttSink, name: str) -> None:
        own = f"{row.topic}/{name}"
        self._topics = Topics(f"{own}/decision", f"{own}/status", f"{own}/availability")
        super().__init__(row, name, (self._topics.availability, home_assistant.OFFLINE))
        self._row = row
        self._lock = threading.Lock()
        """Of all below."""
        self._decisions = _Spool(self._topics.decision, row.spool)
        self._statuses = _Spool(self._topics.status, 1)
        self._decision_thinner, self._status_thinner = _Thinner(1 / row.max_rate_hz), _Thinner(STATUS_S)
        self._sent: dict[int, tuple[_Spool, _Waiting]] = {}
        self._refused = 0
        self._known: Known | None = None
        self._announced: dict[str, str] = {}
        """Components that Home Assistant was told of, with their platforms."""
        self._announce = False

    def begin(self, known: Known) -> None:
        """A session begins: what its head says is learned anew."""
        with self._lock:
            self._known, self._announce = known, True
        self.wake()

    def put(self, item: Published) -> None:
        """One message, to be thinned out and to wait for the connection."""
        message, waiting = item.message, _Waiting(item.payload, time.monotonic())
        with self._lock:
            if isinstance(message, DecisionMessage):
                self._learn(message)
                if (now := self._decision_thinner.put((message.label, message.source), waiting)) is not None:
                    self._decisions.add(now)
            elif (now := self._status_thinner.put((message.state, message.reason), waiting)) is not None:
                self._statuses.add(now)
        if now is not None:
            self.wake()

    @property
    def missed(self) -> int:
        with self._lock:
            return self._decisions.lost + self._statuses.lost + self._refused

    def connected(self) -> None:
        self.publish(self._topics.availability, home_assistant.ONLINE, retain=True)
        if self._row.discovery:
            self.subscribe([f"{self._row.discovery}/status"])
        with self._lock:
            self._announce = True

    def heard(self, topic: str, payload: bytes, retained: bool, since_ns: int) -> None:
        """Home Assistant's birth or will message."""
        if payload == home_assistant.ONLINE and not retained:
            with self._lock:
                self._announce = True

    def turn(self) -> None:
        self._announce_if_due()
        now = time.monotonic()
        with self._lock:
            for thinner, spool in ((self._decision_thinner, self._decisions), (self._status_thinner, self._statuses)):
                if (held := thinner.due(now)) is not None:
                    spool.add(held)
        for spool in (self._decisions, self._statuses):
            self._send(spool, now)

    def acknowledged(self, number: int, refusal: str | None) -> None:
        with self._lock:
            if self._sent.pop(number, None) is not None:
                self._refused += refusal is not None
        if refusal is not None:
            self.reason = f"{self.broker}: takes our messages not: {refusal}"

    def lost(self) -> None:
        with self._lock:
            for spool in (self._decisions, self._statuses):
                spool.give_back(item for whose, item in self._sent.values() if whose is spool)
            self._sent.clear()

    def farewell(self) -> None:
        self.turn()
        self.publish(self._topics.availability, home_assistant.OFFLINE, retain=True)

    def _send(self, spool: _Spool, now: float) -> None:
        while len(self.in_flight) < IN_FLIGHT:
            with self._lock:
                item = spool.take(now - self._row.expire_after_s)
            if item is None:
                return
            number = self.publish(spool.topic, item.payload, expires_s=self._row.expire_after_s)
            with self._lock:
                # Acknowledgements are read by this thread: none has come before this.
                self._sent[number] = (spool, item)

    def _learn(self, message: DecisionMessage) -> None:
        if self._known is None:
            return
        known = home_assistant.learned(self._known, message)
        if known is not self._known:
            self._known, self._announce = known, True
            if known.classes and not home_assistant.counted(known, self._row.count):
                log.warning("mqtt: too many counts to announce; name the classes that matter: count = [...]")

    def _announce_if_due(self) -> None:
        with self._lock:
            known, due, self._announce = self._known, self._announce and self._known is not None, False
        # Without labels there would be an entity of no state that its list allows: the first decision brings them.
        if not due or known is None or not self._row.discovery or not known.labels:
            return
        topic = home_assistant.config_topic(self._row.discovery, known.name)
        payload = home_assistant.announcement(known, self._topics, self._row.expire_after_s, self._row.count)
        told: dict[str, Any] = payload["components"]
        gone = {key: platform for key, platform in self._announced.items() if key not in told}
        if gone:  # they are taken away by one message, and not mentioned by the next
            leaving = home_assistant.announcement(known, self._topics, self._row.expire_after_s, self._row.count, gone)
            self.publish(topic, msgspec.json.encode(leaving), retain=True)
        self.publish(topic, msgspec.json.encode(payload), retain=True)
        self._announced = {key: component["platform"] for key, component in told.items()}
