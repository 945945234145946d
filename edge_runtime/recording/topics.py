"""The topics of a recording, each registered when something of it is first written."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from mcap.writer import Writer
from msgspec import Struct

from edge_runtime.recording.records import STREAMS, encode, stream_schema, topic_schema
from edge_runtime.streams import StreamSpec


class Topics:
    """Writes records to a started `writer`. One thread."""

    def __init__(self, writer: Writer, streams: Mapping[str, StreamSpec] | None = None) -> None:
        self._writer = writer
        self._streams: Mapping[str, StreamSpec] = streams or {}
        self._channels: dict[str, int] = {}

    def begin(self, streams: Mapping[str, StreamSpec]) -> None:
        """Messages from here on are of `streams`: what an earlier session called by the same name may be another."""
        for name, spec in self._streams.items():
            if streams.get(name) != spec:
                self._channels.pop(STREAMS + name, None)
        self._streams = streams

    def write(self, topic: str, record: Struct, wall_ns: int, payload: bytes | None = None) -> None:
        """`payload`: the record as JSON, where somebody has encoded it already. Raises OSError."""
        channel = self._channels.get(topic) or self._channel(topic, record)
        sequence = getattr(record, "seq", 0) & 0xFFFFFFFF
        self._writer.add_message(channel, wall_ns, payload or encode(record), wall_ns, sequence)

    def _channel(self, topic: str, record: Struct) -> int:
        if topic.startswith(STREAMS):
            stream = topic.removeprefix(STREAMS)
            name, schema = stream_schema(self._streams[stream], stream)
        else:
            name, schema = topic_schema(type(record))
        number = self._writer.register_schema(name, "jsonschema", msgspec.json.encode(schema))
        self._channels[topic] = self._writer.register_channel(topic, "json", number)
        return self._channels[topic]
