"""Live to Foxglove (https://foxglove.dev), over its WebSocket protocol: the channels and schemas of a recording, but
that pictures are Protobuf, which needs no base64.

The loop leaves references for a thread of the sink's own, and those only for channels that somebody is subscribed to.
The thread gets them when the turn is over, so that it does not compete with a decision. Of a camera only the newest
picture waits. Foxglove's SDK serves; where a viewer is slow, it drops what is its.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from edge_runtime import config, endpoints
from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError
from edge_runtime.kinds.camera import CompressedImage
from edge_runtime.kinds.record import wall_time
from edge_runtime.messages import Frame, Message
from edge_runtime.pictures import read_header
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.recording.annotations import ImageAnnotations, drawn, marked
from edge_runtime.recording.records import (
    ANNOTATIONS,
    DECISION,
    STATUS,
    STREAMS,
    encode,
    stream_schema,
    to_record,
    topic_schema,
)
from edge_runtime.specs import CameraStream
from edge_runtime.streams import StreamSpec, streams_of
from edge_runtime.wire import BundleId, DecisionMessage, StatusMessage

if TYPE_CHECKING:
    import foxglove
    from foxglove.websocket import WebSocketServer

log = logging.getLogger("edge_runtime.publish")

MAX_WAITING = 256
"""Messages; more are missed, and counted."""
CLOSE_S = 0.8
JSON = "jsonschema"
"""Encoding of a schema whose messages are JSON."""

_Streams = Mapping[str, StreamSpec]


class _Newest(Struct, frozen=True):
    """A camera's newest picture is to be sent."""

    camera: str


class FoxgloveSink(Sink):
    """A server at `bind`, for as many viewers as come."""

    def __init__(self, row: config.FoxgloveSink, clock: Clock) -> None:
        """Raises ImportError without Foxglove's SDK."""
        import foxglove

        self._row = row
        # Wall time is read once: log times keep the monotonic clock's order whatever happens to the wall clock.
        self._start_ns, self._start_wall_ns = clock.now_ns(), clock.wall_ns()
        self._context = foxglove.Context()
        self._server: WebSocketServer | None = None
        """From the first session on."""
        self.endpoint = ""
        self._channels: dict[str, foxglove.Channel] = {}
        """By topic. Replaced by the thread, never changed."""
        self._missed = 0
        self._trouble: str | None = None
        self._waiting: queue.SimpleQueue[_Streams | Message | Published | _Newest | None] = queue.SimpleQueue()
        self._turn: list[Message | Published | _Newest] = []
        """What this turn of the loop has brought."""
        self._pictures: dict[str, Frame] = {}
        self._streams: _Streams = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._run, name="foxglove", daemon=True)

    def session(self, config: config.Config, bundle: BundleId, streams: _Streams) -> None:
        """See Sink. Raises ConfigError if the address cannot be had."""
        if self._server is not None:
            self.serve()
            self._waiting.put(dict(streams))
            return
        # The SDK may refuse whoever subscribes to a channel the moment it is announced: nobody is there yet.
        self._begin(dict(streams))
        self._server = self._listen()
        self._thread.start()
        log.info("foxglove: %s", self.endpoint)

    def _listen(self) -> WebSocketServer:
        import foxglove

        bind = endpoints.parse(self._row.bind)
        assert isinstance(bind, endpoints.Tcp), "settings are checked"
        host = "0.0.0.0" if bind.host == "*" else bind.host
        try:
            server = foxglove.start_server(name="edge-runtime", host=host, port=bind.port, context=self._context)
        except Exception as error:  # the SDK has no errors of its own
            taken = f"foxglove bind {self._row.bind}: cannot be had ({error}); choose another address"
            raise ConfigError(taken) from None
        self.endpoint = str(endpoints.Tcp(bind.host, server.port)).replace("tcp://", "ws://")
        return server

    def message(self, message: Message) -> None:
        if isinstance(message, Frame):
            if self._looked_at(message.stream):
                self._pictures[message.stream] = message
                self._turn.append(_Newest(message.stream))
        elif self._wanted(STREAMS + message.stream):
            self._turn.append(message)

    def publish(self, item: Published) -> None:
        if isinstance(item.message, StatusMessage):
            if self._wanted(STATUS):
                self._turn.append(item)
        elif self._wanted(DECISION) or any(
            self._wanted(topic) for topic in self._channels if topic.startswith(ANNOTATIONS)
        ):
            self._turn.append(item)

    def serve(self) -> None:
        for item in self._turn:
            if self._waiting.qsize() < MAX_WAITING:
                self._waiting.put(item)
            elif not isinstance(item, _Newest):
                self._missed += 1
        self._turn.clear()

    @property
    def wants_whole(self) -> bool:
        return any(self._looked_at(name) for name in streams_of(self._streams, CameraStream))

    @property
    def missed(self) -> int:
        return self._missed

    @property
    def trouble(self) -> str | None:
        return self._trouble

    def close(self) -> None:
        if self._server is None:
            return
        self.serve()
        self._waiting.put(None)
        self._thread.join(CLOSE_S)
        self._server.stop()

    def _looked_at(self, camera: str) -> bool:
        return self._wanted(STREAMS + camera) or self._wanted(ANNOTATIONS + camera)

    def _wanted(self, topic: str) -> bool:
        channel = self._channels.get(topic)
        return channel is not None and channel.has_sinks()

    # The rest runs on the sink's thread, and `_begin` once before there is one.

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                self._pass_on(item)
                self._trouble = None
            except Exception as error:  # one message that cannot be shown must not end the rest
                self._missed += 1
                if self._trouble is None:
                    log.exception("foxglove: a message cannot be sent")
                self._trouble = f"{type(error).__name__}: {error}"

    def _pass_on(self, item: _Streams | Message | Published | _Newest) -> None:
        if isinstance(item, Message):
            self._send(item)
        elif isinstance(item, Published):
            topic = DECISION if isinstance(item.message, DecisionMessage) else STATUS
            self._log(topic, item.message.published_ns, item.payload)
            if isinstance(item.message, DecisionMessage):
                self._annotate(item.message)
        elif isinstance(item, _Newest):
            frame = self._pictures.pop(item.camera, None)
            if frame is not None:  # else it has been sent
                self._sizes[item.camera] = _size(frame)
                self._send(frame)
        else:
            self._begin(item)

    def _begin(self, streams: _Streams) -> None:
        """Announce the channels of `streams`; those that stay as they are go on."""
        import foxglove
        from foxglove import messages

        told = {DECISION: topic_schema(DecisionMessage), STATUS: topic_schema(StatusMessage)}
        schemas: dict[str, foxglove.Schema] = {}
        for name, spec in streams.items():
            if isinstance(spec, CameraStream):
                schemas[STREAMS + name] = messages.CompressedImage.get_schema()
                told[ANNOTATIONS + name] = topic_schema(ImageAnnotations)
            else:
                told[STREAMS + name] = stream_schema(spec, name)
        for topic, (name, schema) in told.items():
            schemas[topic] = foxglove.Schema(name=name, encoding=JSON, data=msgspec.json.encode(schema))
        same = {
            topic for topic, channel in self._channels.items() if _form(channel.schema()) == _form(schemas.get(topic))
        }
        for topic, channel in self._channels.items():
            if topic not in same:
                channel.close()
        channels = {topic: self._channels[topic] for topic in same}
        for topic, form in schemas.items():
            if topic not in same:
                encoding = "json" if form.encoding == JSON else form.encoding
                channels[topic] = foxglove.Channel(topic, message_encoding=encoding, schema=form, context=self._context)
        self._channels, self._streams = channels, streams

    def _annotate(self, decision: DecisionMessage) -> None:
        """What a decision's heads have seen, beside the picture."""
        found = marked(decision, self._streams)
        if found is None or (size := self._sizes.get(found.camera)) is None:
            return
        at = wall_time(self._wall_ns(found.captured_ns))
        self._log(ANNOTATIONS + found.camera, found.captured_ns, encode(drawn(found.things, size, at)))

    def _send(self, message: Message) -> None:
        topic = STREAMS + message.stream
        if self._wanted(topic):
            record = to_record(message, self._wall_ns(message.captured_ns), self._row.jpeg_quality)
            payload = _protobuf(record) if isinstance(record, CompressedImage) else encode(record)
            self._log(topic, message.captured_ns, payload)

    def _log(self, topic: str, at_ns: int, payload: bytes) -> None:
        channel = self._channels.get(topic)
        if channel is not None:
            channel.log(payload, log_time=self._wall_ns(at_ns))

    def _wall_ns(self, at_ns: int) -> int:
        return max(0, self._start_wall_ns + at_ns - self._start_ns)


def _form(schema: foxglove.Schema | None) -> tuple[str, bytes] | None:
    """By which schemas are the same."""
    return None if schema is None else (schema.name, schema.data)


def _protobuf(picture: CompressedImage) -> bytes:
    """As Foxglove's own message."""
    from foxglove import messages

    at = messages.Timestamp(sec=picture.timestamp.sec, nsec=picture.timestamp.nsec)
    message = messages.CompressedImage(
        timestamp=at, frame_id=picture.frame_id, data=bytes(picture.data), format=picture.format
    )
    return message.encode()


def _size(frame: Frame) -> tuple[int, int]:
    """Width and height of the whole picture."""
    picture: Any = frame.picture
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    header = read_header(picture)
    return header.width, header.height
