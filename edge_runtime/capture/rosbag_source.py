"""Recordings of ROS 2 as a source: topics of an MCAP file whose messages are CDR, by the definitions that lie in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mcap.records import Channel, Schema

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.channels import check_channels
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.json_place import Place, parse
from edge_runtime.capture.playback import wait_until
from edge_runtime.capture.ros_messages import COMPRESSED, IMAGE, delay_ns, picture_of, readings_of, sentence_of
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.messages import Words
from edge_runtime.recording.mcap_file import McapFile
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream

log = logging.getLogger("edge_runtime.capture")

Decode = Callable[[bytes], Any]
NAMED = 20
"""Topics that an error names."""


class _Row(NamedTuple):
    """Of the configuration, taken apart."""

    stream: str
    content: Callable[[str, Any], Any]
    """By a message's type and itself: what the intake takes, or a Refusal."""
    kinds: tuple[str, ...]
    """Types of messages that it can be; any where there is none."""


class _Item(NamedTuple):
    """One message of a topic that is asked for."""

    topic: str
    kind: str
    decode: Decode
    data: bytes
    recorded_ns: int


class RosbagSource(Source):
    """Plays the topics of its rows at the spacing of their recording, as if they came now.

    A message is as old as it was when it was recorded, by its header's stamp. One that is not what its definition says,
    or holds nothing that its stream can take, is refused and counted there. Topics that never came are logged.
    """

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.RosbagSource, streams: Mapping[str, StreamSpec]) -> None:
        """Raises ConfigError where there is no such recording, or nothing in it is asked for."""
        super().__init__(f"rosbag {settings.path}", intake)
        self._settings = settings
        self._rows: dict[str, list[_Row]] = {}
        for row in settings.topic:
            self._rows.setdefault(row.topic, []).append(_taken_apart(row, streams))
        self._came: set[str] = set()
        try:
            self._files = [McapFile(path) for path in _files(Path(settings.path))]
            there: set[str] = set()
            if next(self._items(there), None) is None:
                names = sorted(there)
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                raise ConfigError(
                    f"source rosbag: {settings.path} has none of the topics {sorted(self._rows)}; "
                    f"there are {names[:NAMED]}{more}"
                )
        except ConfigError:
            raise
        except UserError as error:
            raise ConfigError(f"source rosbag: {error}") from None

    def _run(self) -> None:
        while self._play() and self._settings.loop:
            pass

    def _play(self) -> bool:
        """Once from the beginning; False if stopped meanwhile."""
        clock, speed = self._intake.clock, self._settings.speed
        start_ns = clock.now_ns()
        first_ns: int | None = None
        for item in self._items():
            first_ns = item.recorded_ns if first_ns is None else first_ns
            due_ns = start_ns + int((item.recorded_ns - first_ns) / speed)
            if not wait_until(self, due_ns):
                return False
            self._came.add(item.topic)
            self._take(item, min(due_ns, clock.now_ns()))
        for file in self._files:
            if file.cut:
                log.warning("%s: the end of %s is missing", self.name, file.path)
        if missing := sorted(self._rows.keys() - self._came):
            log.warning("%s: nothing came of %s", self.name, ", ".join(missing))
        return True

    def _take(self, item: _Item, now_ns: int) -> None:
        """Hand one message to the intake, for every row that it is meant for."""
        for row in self._rows[item.topic]:
            captured_ns = now_ns
            try:
                message = item.decode(item.data)
                captured_ns -= int(delay_ns(message, item.recorded_ns) / self._settings.speed)
                content = row.content(item.kind, message)
            except Exception as error:  # whatever the bytes are
                content = Refusal("malformed", f"{item.topic}: {error}")
            if isinstance(content, Refusal):
                self._intake.refuse(row.stream, content)
            else:
                self._intake.put(row.stream, content, captured_ns)

    def _items(self, there: set[str] | None = None) -> Iterator[_Item]:
        """All that the rows ask for; the names of all topics go into `there`. Raises ConfigError, UserError."""
        for file in self._files:
            decoders: dict[int, Decode] = {}
            for channel, schema, message in file.messages():
                if there is not None:
                    there.add(channel.topic)
                if channel.topic not in self._rows:
                    continue
                if channel.id not in decoders:
                    self._check(channel, schema)
                    decoders[channel.id] = _decoder(channel, schema)
                kind = "" if schema is None else schema.name
                yield _Item(channel.topic, kind, decoders[channel.id], message.data, message.log_time)

    def _check(self, channel: Channel, schema: Schema | None) -> None:
        kind = "" if schema is None else schema.name
        for row in self._rows[channel.topic]:
            if row.kinds and kind not in row.kinds:
                raise ConfigError(
                    f"source rosbag: topic {channel.topic!r} is of type {kind!r}; stream {row.stream!r} takes "
                    f"{', '.join(row.kinds)}"
                )


def _files(path: Path) -> list[Path]:
    """The parts of a recording. Raises ConfigError for a folder without any."""
    if not path.is_dir():
        return [path]
    parts = sorted(path.glob("*.mcap"), key=lambda part: (len(part.name), part.name))  # _2 before _10
    if not parts:
        raise ConfigError(f"source rosbag: {path} holds no .mcap; have another storage converted: ros2 bag convert")
    return parts


def _taken_apart(row: config.RosTopic, streams: Mapping[str, StreamSpec]) -> _Row:
    """Raises ConfigError that names the topic."""
    where = f"source rosbag: topic {row.topic!r}"
    spec = streams.get(row.stream)
    if isinstance(spec, CameraStream):
        return _Row(row.stream, picture_of, (COMPRESSED, IMAGE))
    try:
        if isinstance(spec, SensorStream):
            check_channels("rosbag", row.stream, row.channels, spec)
            if not row.channels:
                raise ValueError(f'{row.stream} takes readings: give `channels`, such as {{ x = "point.x" }}')
            channels = {name: parse(place) for name, place in row.channels.items()}
            return _Row(row.stream, lambda kind, message: readings_of(channels, message), ())
        if isinstance(spec, TextStream):
            return _Row(row.stream, _sentence(parse(row.text)), ())
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    fitting = sorted(name for name, one in streams.items() if isinstance(one, CameraStream | SensorStream | TextStream))
    raise ConfigError(f"{where}: the bundle has no fitting stream {row.stream!r}; there are {fitting}")


def _sentence(place: Place) -> Callable[[str, Any], Words | Refusal]:
    def content(kind: str, message: Any) -> Words | Refusal:
        found = sentence_of(place, message)
        return found if isinstance(found, Refusal) else Words(found)

    return content


def _decoder(channel: Channel, schema: Schema | None) -> Decode:
    """Raises ConfigError where nobody can tell what the topic's messages mean."""
    from mcap_ros2.decoder import DecoderFactory

    encoding = "" if schema is None else schema.encoding
    try:
        decode = DecoderFactory().decoder_for(channel.message_encoding, schema)
    except Exception as error:  # its parser raises what it likes
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"source rosbag: topic {channel.topic!r}: its definition cannot be read ({why})") from None
    if decode is None:
        raise ConfigError(
            f"source rosbag: topic {channel.topic!r} is {channel.message_encoding!r} by {encoding!r}; "
            "expected 'cdr' by 'ros2msg', as ROS 2 records"
        )
    made: Decode = decode
    return made
