"""A real MQTT broker for tests, and somebody who listens there."""

from __future__ import annotations

import datetime
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import WAIT_S, wait_for

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needed = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed (apt-get install mosquitto)")


class Mosquitto:
    """Listens at a port of its own; may be killed, stalled and started again there."""

    def __init__(self, folder: Path, *lines: str) -> None:
        """`lines` of mosquitto.conf besides; unless they say otherwise, anybody may come in."""
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._lines = lines or ("allow_anonymous true",)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """At the port that it had before, if any."""
        deadline = time.monotonic() + WAIT_S
        while True:
            port = self.port or _free_port()
            config = self.folder / "mosquitto.conf"
            config.write_text("\n".join((f"listener {port} 127.0.0.1", "user root", *self._lines)) + "\n")
            with (self.folder / "mosquitto.log").open("ab") as log:
                assert PROGRAM is not None
                self._process = subprocess.Popen([PROGRAM, "-v", "-c", str(config)], stdout=log, stderr=log)
            while self._process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        self.port = port
                        return
                time.sleep(0.01)
            assert time.monotonic() < deadline, (self.folder / "mosquitto.log").read_text()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP: it takes connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """At once; with it go all retained messages."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Heard(NamedTuple):
    topic: str
    payload: bytes
    retained: bool
    expires_s: int | None


class Ear:
    """A client of its own: hears everything, and may speak."""

    def __init__(self, port: int, topics: Sequence[str] = ("#",)) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.heard: list[Heard] = []
        self._ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = lambda client, data, message: self.heard.append(
            Heard(
                message.topic,
                message.payload,
                message.retain,
                getattr(message.properties, "MessageExpiryInterval", None),
            )
        )
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, 5)
        self.client.loop_start()
        assert self._ready.wait(WAIT_S)

    def say(self, topic: str, payload: str | bytes, retain: bool = False) -> None:
        """Wait until the broker has it."""
        self.client.publish(topic, payload, 1, retain).wait_for_publish(WAIT_S)

    def of(self, topic: str) -> list[Heard]:
        """What came there."""
        return [one for one in list(self.heard) if one.topic == topic]

    def wait(self, topic: str, count: int = 1) -> list[Heard]:
        """At least so many messages."""
        wait_for(lambda: len(self.of(topic)) >= count, f"{count} messages at {topic}; there are {self.heard}")
        return self.of(topic)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def make_certificates(folder: Path) -> dict[str, Path]:
    """An authority, a broker's certificate for 127.0.0.1, a client's; and another authority that signed neither."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    files: dict[str, Path] = {}

    def make(name: str, issuer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        import ipaddress

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer[0].subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        certificate = builder.sign(key if issuer is None else issuer[1], hashes.SHA256())
        files[name] = folder / f"{name}.pem"
        files[name].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[f"{name}.key"] = folder / f"{name}.key"
        files[f"{name}.key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files[f"{name}.key"].chmod(0o600)
        return certificate, key

    authority = make("authority", None)
    make("broker", authority)
    make("client", authority)
    make("stranger", None)
    return files
