"""An MQTT broker (version 5 of the protocol): how it is reached, and a connection that is made again whenever it ends.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html. Paho does the protocol; the loop around it is here, so that
nothing waits longer than is said and nothing is kept that nobody has asked for. Paho is imported where it is used.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from edge_runtime import endpoints
from edge_runtime.errors import ConfigError
from edge_runtime.extras import need
from edge_runtime.pauses import Pauses
from edge_runtime.secret_file import check_private, first_line

if TYPE_CHECKING:
    import ssl

    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger("edge_runtime")

QOS = 1
PORT, TLS_PORT = 1883, 8883
CONNECT_S = 5.0
"""For each step of a connection: the network's part, encryption, the broker's answer."""
ANSWER_S = 10.0
"""A broker that leaves a message unacknowledged for so long has stalled."""
KEEPALIVE_S = 15
"""Silent for so long, it is asked for a sign of life; silent again for as long, it is gone."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
"""A connection that has lasted for so long has not failed at its start: the pauses begin anew."""
TURN_S = 0.05
MAX_PACKET_BYTES = 256 << 10
"""More in one message the broker is told to keep to itself."""
MAX_SHARE_BYTES = 65_535
"""Of a topic."""


class Broker(Struct, frozen=True, kw_only=True):
    """The settings of a connection, the same for sink and source."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Unless given, 1883, with TLS 8883."""
    tls: bool = False
    """Encrypt, and ask the broker for a certificate for `host`; `ca` and `certificate` mean the same."""
    ca: str = ""
    """PEM file with the authority that signs the broker's certificate; unless given, the system's."""
    certificate: str = ""
    """PEM file with this client's own certificate, where the broker asks for one."""
    key: str = ""
    """PEM file with the key to it; unless given, it is in the same file."""
    user: str = ""
    password_file: str = ""
    """File with the password on its first line, which nobody else may read."""

    @property
    def encrypted(self) -> bool:
        return bool(self.tls or self.ca or self.certificate)

    @property
    def at(self) -> endpoints.Tcp:
        """Where it listens."""
        return endpoints.Tcp(self.host, self.port or (TLS_PORT if self.encrypted else PORT))

    def __str__(self) -> str:
        return str(self.at).replace("tcp://", "mqtts://" if self.encrypted else "mqtt://")

    def check(self, insecure: bool, where: str) -> None:
        """Raise ConfigError for settings that cannot be meant, and for a broker beyond this host that is not both
        encrypted and told who comes, unless `insecure` (allowed in words).
        """
        need(where, "mqtt", paho="paho-mqtt")
        if not self.host or any(c.isspace() or c == "/" for c in self.host):
            raise ConfigError(f"{where}: host is {self.host!r}; expected a name or an address, without port")
        if self.password_file and not self.user:
            raise ConfigError(f"{where}: password_file is given without user")
        if self.key and not self.certificate:
            raise ConfigError(f"{where}: key is given without certificate")
        safe = self.encrypted and (self.user or self.certificate)
        if not endpoints.is_local(self.at) and not safe and not insecure:
            missing = "" if self.encrypted else "tls = true with "
            raise ConfigError(
                f"{where}: the broker {self} is beyond this host, and is reached "
                f"{'without saying who comes' if self.encrypted else 'without encryption'}; give "
                f"{missing}user and password_file (or certificate), or set "
                f'insecure_public_bind = "{endpoints.INSECURE_PHRASE}"'
            )


def password(broker: Broker) -> str | None:
    """What its file says. Raises ConfigError where others may read or change it; the message never holds it."""
    return first_line(Path(broker.password_file), "password_file") if broker.password_file else None


def encryption(broker: Broker) -> ssl.SSLContext:
    """TLS 1.2 or newer, the broker's certificate and name checked. Raises ConfigError for files that cannot be used."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=broker.ca or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"ca {broker.ca}: cannot be used ({_reason(error)})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if broker.certificate:
        key = broker.key or broker.certificate
        try:
            check_private(Path(key), "key")
            # A callback, so that a key under a passphrase is an error and no question at a terminal.
            context.load_cert_chain(broker.certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise ConfigError(f"certificate {broker.certificate}: cannot be used ({_reason(error)})") from None
    return context


class Link:
    """One connection to a broker, made again at growing, jittered pauses until it is told to stop.

    `run` is the body of a thread; all below it is called there, by it. Whoever has something to do for it keeps that
    until `turn` comes, and may `wake` it (any thread). What was published and not acknowledged when a connection ends
    is not sent again: `lost` says so to whoever may want to.
    """

    def __init__(self, broker: Broker, name: str, will: tuple[str, bytes] | None = None) -> None:
        """`name`: of this client, made unique here. `will`: retained topic and payload that the broker publishes when
        the connection ends without a farewell. Raises ConfigError for secrets that cannot be used.
        """
        self.broker = broker
        self.reason: str | None = f"no answer from {broker} yet"
        """Why there is no connection that does all that is asked of it, if so. Any thread."""
        self.connections = 0
        """So far. Any thread."""
        self.in_flight: dict[int, float] = {}
        """Numbers of messages that are not acknowledged yet, and when they were published."""
        self._will = will
        self._name = f"edge-runtime-{name}-{os.urandom(4).hex()}"
        self._password = password(broker)
        self._tls = encryption(broker) if broker.encrypted else None
        self._client: Client | None = None
        self._answer: ReasonCode | None = None
        self._ending: str | None = None
        self._since_ns = 0
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    # What the user of a link adds.

    def connected(self) -> None:
        """The broker has let us in; subscriptions are to be made anew."""

    def turn(self) -> None:
        """At least 20 times a second while it is connected, and after `wake`."""

    def heard(self, topic: str, payload: bytes, retained: bool, since_ns: int) -> None:
        """A message that has come since `since_ns` (monotonic): then nothing was there to be read yet."""

    def acknowledged(self, number: int, refusal: str | None) -> None:
        """The broker has the message, or does not take it, and why."""

    def lost(self) -> None:
        """The connection has ended; what is `in_flight` may or may not have arrived."""

    def farewell(self) -> None:
        """It is told to stop and still connected: the last that can be said."""

    # What it may ask of the link, from within those.

    def publish(self, topic: str, payload: bytes, retain: bool = False, expires_s: int | None = None) -> int:
        """Number of the message, which is acknowledged later. The broker gives it to nobody after `expires_s`."""
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        assert self._client is not None
        properties = None
        if expires_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expires_s
        number = self._client.publish(topic, payload, QOS, retain, properties).mid
        self.in_flight[number] = time.monotonic()
        return number

    def subscribe(self, topics: Sequence[str]) -> None:
        """Messages of these topic filters are heard from now on, retained ones first."""
        from paho.mqtt.subscribeoptions import SubscribeOptions

        assert self._client is not None
        if topics:
            self._client.subscribe([(topic, SubscribeOptions(qos=QOS)) for topic in topics])

    # The rest is the loop's.

    def wake(self) -> None:
        """Have `turn` called soon. Any thread."""
        with suppress(OSError):  # full: it is awake; closed: it has stopped
            self._waker.send(b"\0")

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping`; a farewell takes a second at most, a connection that is being made CONNECT_S."""
        pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        try:
            while not stopping.is_set():
                began, before = time.monotonic(), self.connections
                told = self.reason
                try:
                    self._connect(stopping)
                    self._serve(stopping)
                except (OSError, ValueError, _Ended) as error:
                    self.reason = f"{self.broker}: {_reason(error)}"
                finally:
                    self._close()
                if stopping.is_set():
                    return
                if self.connections > before and time.monotonic() - began >= STEADY_S:
                    pauses.succeeded()
                if self.reason != told:  # once per change, not once per try
                    log.warning("mqtt: %s; trying again", self.reason)
                stopping.wait(pauses.next_s())
        finally:
            self.close()

    def close(self) -> None:
        """Free what a link has that never ran; harmless after `run`."""
        self._woken.close()
        self._waker.close()

    def _connect(self, stopping: threading.Event) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        client = self._client = Client(
            CallbackAPIVersion.VERSION2, self._name, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        self._answer = self._ending = None
        self.in_flight.clear()
        client.connect_timeout = CONNECT_S
        if self.broker.user:
            client.username_pw_set(self.broker.user, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(*self._will, QOS, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_PACKET_BYTES
        client.connect(str(self.broker.at.host), self.broker.at.port, KEEPALIVE_S, properties=limits)
        deadline = time.monotonic() + CONNECT_S
        while self._answer is None and not stopping.is_set():
            if time.monotonic() > deadline:
                raise _Ended("takes connections but does not answer")
            self._step(TURN_S)
        if self._answer is not None and self._answer.is_failure:
            raise _Ended(f"lets us not in: {self._answer}")

    def _serve(self, stopping: threading.Event) -> None:
        if stopping.is_set():
            return
        self.connections += 1
        self.reason = None
        log.info("mqtt: connected to %s", self.broker)
        try:
            self.connected()
            while not stopping.is_set():
                self.turn()
                self._step(TURN_S)
                oldest = next(iter(self.in_flight.values()), None)
                if oldest is not None and time.monotonic() - oldest > ANSWER_S:
                    raise _Ended(f"has acknowledged nothing for {ANSWER_S:g} s")
            self.farewell()
            deadline = time.monotonic() + 0.5
            while self.in_flight and time.monotonic() < deadline:
                self._step(TURN_S)
            assert self._client is not None
            self._client.disconnect()
        finally:
            self.lost()

    def _step(self, wait_s: float) -> None:
        """Write what is due, wait for something to read at most `wait_s`, and read it. Raises _Ended."""
        client = self._client
        assert client is not None
        connection = client.socket()
        if connection is None:
            raise _Ended(self._ending or "the connection has ended")
        now_ns = time.monotonic_ns()
        there = self._readable(connection, 0)
        if not there:
            self._since_ns = now_ns
            writing = [connection] if client.want_write() else []
            reading, writable, _ = select.select([connection, self._woken], writing, [], wait_s)
            if self._woken in reading:
                self._woken.recv(4096)
            there = connection in reading
            if writable:
                client.loop_write()
        elif client.want_write():
            client.loop_write()
        if there:
            client.loop_read()
        client.loop_misc()

    @staticmethod
    def _readable(connection: Any, wait_s: float) -> bool:
        pending = getattr(connection, "pending", None)
        return bool(pending is not None and pending()) or bool(select.select([connection], [], [], wait_s)[0])

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None and (connection := client.socket()) is not None:
            connection.close()

    def _on_connect(self, client: Client, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._answer = code

    def _on_disconnect(self, client: Client, data: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._ending = f"the connection has ended ({code})"

    def _on_subscribe(self, client: Client, data: Any, mid: int, codes: list[ReasonCode], properties: Any) -> None:
        failed = [str(code) for code in codes if code.is_failure]
        if failed:
            self.reason = f"{self.broker}: does not let us read all topics: {', '.join(sorted(set(failed)))}"
            log.warning("mqtt: %s", self.reason)

    def _on_publish(self, client: Client, data: Any, mid: int, code: ReasonCode, properties: Any) -> None:
        self.in_flight.pop(mid, None)
        refusal = str(code) if code.is_failure else None
        if refusal is not None and self.reason is None:
            log.warning("mqtt: %s takes a message not: %s", self.broker, refusal)
        self.acknowledged(mid, refusal)

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no name that anybody has asked for
            return
        self.heard(topic, bytes(message.payload), message.retain, self._since_ns)


def probe(broker: Broker) -> str | None:
    """Why the broker cannot be used, by one try; None where it lets us in. Raises ConfigError as `Link` does."""
    link = Link(broker, "doctor")
    unanswered, stopping = link.reason, threading.Event()
    thread = threading.Thread(target=link.run, args=(stopping,), name="mqtt probe", daemon=True)
    thread.start()
    deadline = time.monotonic() + 3 * CONNECT_S
    while not link.connections and link.reason == unanswered and time.monotonic() < deadline:
        time.sleep(0.01)
    reason = None if link.connections else link.reason
    stopping.set()
    link.wake()
    thread.join(CONNECT_S)
    return reason


class _Ended(Exception):
    """Why a connection has."""


def _reason(error: Exception) -> str:
    if message := getattr(error, "verify_message", None):  # ssl.SSLCertVerificationError's
        return f"its certificate is not good: {message}"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def topic_problem(topic: str, wildcards: bool) -> str | None:
    """Why `topic` is none (MQTT 5, 4.7); `wildcards`: as a filter, where `+` and `#` stand for levels."""
    if not topic or "\0" in topic or len(topic.encode()) > MAX_SHARE_BYTES:
        return "is empty, too long or holds a zero character"
    levels = topic.split("/")
    for number, level in enumerate(levels):
        if "#" in level and (level != "#" or number < len(levels) - 1):
            return "`#` stands alone, and last"
        if "+" in level and level != "+":
            return "`+` stands for a whole level"
    if not wildcards and any(level in ("+", "#") for level in levels):
        return "holds a wildcard"
    return None


def matches(pattern: str, topic: str) -> tuple[str, ...] | None:
    """The levels of `topic` that the pattern's `+` stand for, and what its `#` does; None where it does not match.

    Topics that begin with `$` are the broker's own: no wildcard stands for their first level (MQTT 5, 4.7.2).
    """
    wanted, levels = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return None
    found: list[str] = []
    for number, level in enumerate(wanted):
        if level == "#":
            return (*found, "/".join(levels[number:]))
        if number >= len(levels):
            return None
        if level == "+":
            found.append(levels[number])
        elif level != levels[number]:
            return None
    return tuple(found) if len(levels) == len(wanted) else None


def wildcards(pattern: str) -> Iterator[str]:
    """Those in it."""
    return (level for level in pattern.split("/") if level in ("+", "#"))
