"""The rows `[[sink]]` of a configuration: where decisions go."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edge_runtime import endpoints
from edge_runtime.broker import Broker, topic_problem
from edge_runtime.config.rules import Mode, check_address, check_tcp
from edge_runtime.errors import ConfigError
from edge_runtime.extras import need
from edge_runtime.specs import Positive


class ZmqSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="zmq"):
    """Publish to subscribers. Where no row is of this kind, there is one with these defaults."""

    bind: str = "tcp://127.0.0.1:5560"
    high_water_mark: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Messages kept for a slow subscriber before its own are dropped."""
    mode: Mode = "0666"
    """Of an `ipc://` path: who may listen; as at a loopback address, everybody who may enter its folder."""
    group: str = ""
    """Of an `ipc://` path: its group, one that this process is a member of."""
    keys: str = ""
    """Folder made by `edge-runtime keys generate`: only its clients that may receive get in, and nobody else can read
    what passes (CURVE). Without it no address beyond this host is taken."""

    def check(self, insecure: bool, where: str) -> None:
        check_address(self.bind, self.keys, insecure, where)


class UnixSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="unix"):
    """Packets for programs on this host that act on decisions, over a Unix socket of type SOCK_SEQPACKET."""

    bind: Annotated[str, Meta(pattern="^ipc://")]
    mode: Mode = "0666"
    """Of a path: who may listen."""
    group: str = ""
    """Of a path: its group, one that this process is a member of."""


class RecordingSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="recording"):
    """Record what comes in and what is decided."""

    path: str
    """MCAP file. An earlier recording is never overwritten: `drive.mcap` becomes `drive-2.mcap`."""
    max_gb: Positive | None = None
    """Stop recording at this size."""
    jpeg_quality: Annotated[int, Meta(ge=50, le=100)] | None = None
    """Keep a camera's decoded pictures as JPEG of this quality: large ones at a high rate are too much for lossless
    PNG. A replay then need not decide the same. Pictures that come as JPEG are kept as they are, always.
    """


class MetricsSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="metrics"):
    """Figures for Prometheus, at `http://ADDRESS:PORT/metrics`."""

    bind: str = "tcp://127.0.0.1:9464"

    def check(self, insecure: bool, where: str) -> None:
        need(where, "metrics", prometheus_client="prometheus-client")
        check_tcp(self.bind, where)
        endpoints.check(self.bind, insecure)


class MqttSink(Broker, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
    """Decisions and status to an MQTT broker, announced to Home Assistant."""

    topic: str = "edge-runtime"
    """Before `/<name>/decision`, `/<name>/status` and `/<name>/availability`."""
    discovery: str = "homeassistant"
    """Where Home Assistant looks for new devices; empty: nothing is announced."""
    max_rate_hz: Annotated[float, Meta(ge=0.1, le=100)] = 1.0
    """Decisions that say the same go out at most this often, the newest of them; one that says something else goes at
    once, up to 10 a second."""
    spool: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """Decisions kept while the broker is away, the newest ones. They are sent in order once it is back, for whoever
    looks at their `wall_time`; who does not acts on them late."""
    expire_after_s: Annotated[int, Meta(ge=30)] = 60
    """What is older is shown no more, nor sent."""
    count: tuple[str, ...] = ()
    """Classes of a detection head that are counted, in the whole picture and in each zone; unless given, all of them.
    """

    def check(self, insecure: bool, where: str) -> None:
        super().check(insecure, where)
        for key, topic in (("topic", self.topic), ("discovery", self.discovery)):
            if not topic and key == "discovery":
                continue
            problem = topic_problem(topic, wildcards=False)
            problem = problem or ("begins with $, which is the broker's own" if topic.startswith("$") else None)
            if problem is not None:
                raise ConfigError(f"{where}: {key} {topic!r} {problem}")


class DashboardSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dashboard"):
    """A page for people, at `http://ADDRESS:PORT/`: what is decided and why, as it happens."""

    bind: str = "tcp://127.0.0.1:5562"
    token_file: str = ""
    """File with a token of at least 16 characters on its first line, which nobody else may read; whoever looks is asked
    for it. Beyond this host there must be one."""
    certificate: str = ""
    """PEM file with a certificate for this host: the page is `https://` then. Beyond this host there must be one."""
    key: str = ""
    """PEM file with the key to it; unless given, it is in the same file."""

    def check(self, insecure: bool, where: str) -> None:
        """Raise ConfigError for settings that cannot be meant, and for a page that other hosts can reach and that asks
        for no token, or is not encrypted either unless `insecure` (allowed in words)."""
        endpoint = check_tcp(self.bind, where)
        if self.key and not self.certificate:
            raise ConfigError(f"{where}: key is given without certificate")
        if endpoints.is_local(endpoint):
            return
        if not self.token_file:
            raise ConfigError(
                f"{where}: {self.bind} is open to the network; use tcp://127.0.0.1:PORT, or give token_file"
            )
        if not self.certificate and not insecure:
            raise ConfigError(
                f"{where}: {self.bind} is open to the network without encryption; use tcp://127.0.0.1:PORT, give "
                f'certificate, or set insecure_public_bind = "{endpoints.INSECURE_PHRASE}"'
            )


class FoxgloveSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="foxglove"):
    """Live to Foxglove, at `ws://ADDRESS:PORT`: the channels of a recording."""

    bind: str = "tcp://127.0.0.1:8765"
    jpeg_quality: Annotated[int, Meta(ge=50, le=100)] = 80
    """Of pictures that did not come as JPEG."""

    def check(self, insecure: bool, where: str) -> None:
        need(where, "foxglove", foxglove="foxglove-sdk")
        check_tcp(self.bind, where)
        endpoints.check(self.bind, insecure)


SinkConfig = ZmqSink | UnixSink | RecordingSink | MetricsSink | MqttSink | DashboardSink | FoxgloveSink
