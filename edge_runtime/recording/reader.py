"""Read a recording in the order in which the loop took messages and made decisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import UserError
from edge_runtime.messages import Message
from edge_runtime.recording.mcap_file import McapFile
from edge_runtime.recording.records import DECISION, FORMAT, SESSION, STATUS, STREAMS, Session
from edge_runtime.streams import KINDS
from edge_runtime.wire import DecisionMessage, StatusMessage

Event = Session | Message | DecisionMessage | StatusMessage


class Recording:
    """A recording's file. One that was cut short (a power cut) is read up to the cut."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is no recording at `path`."""
        self.path = path
        self._file = McapFile(path)
        first = next(self.events(), None)
        if not isinstance(first, Session):
            raise UserError(f"recording {path}: {_WHAT.get(self._file.profile, _OTHER)}")
        self.session = first
        """The first bundle that decided."""

    @property
    def cut(self) -> bool:
        """Whether the end of the file is missing; known once `events` has ended."""
        return self._file.cut

    @property
    def size(self) -> int:
        """Of the file, in bytes..."""
        return self._file.size

    @property
    def position(self) -> int:
        """... and those read so far."""
        return self._file.position

    def events(self) -> Iterator[Event]:
        """All that was recorded, pictures decoded. Raises UserError naming the place where the file is damaged."""
        for channel, schema, message in self._file.messages():
            event = self._event(channel.topic, "" if schema is None else schema.name, message.data)
            if event is not None:
                yield event

    def _event(self, topic: str, schema: str, data: bytes) -> Event | None:
        try:
            if topic == DECISION:
                return _decision.decode(data)
            if topic == STATUS:
                return _status.decode(data)
            if topic == SESSION:
                return self._session(data)
            row = next((row for row in KINDS if schema.startswith(row.schema)), None)
            if row is None or not topic.startswith(STREAMS):
                return None  # somebody else's channel
            message: Message = row.to_message(topic.removeprefix(STREAMS), _records[row.record].decode(data))
            return message
        except (msgspec.DecodeError, ValueError) as error:
            raise UserError(f"recording {self.path}: {topic}: a message cannot be read ({error})") from None

    def _session(self, data: bytes) -> Session:
        if (number := msgspec.json.decode(data, type=_Format).format) > FORMAT:
            raise UserError(f"recording {self.path}: has format {number}; this edge-runtime reads up to {FORMAT}")
        return _session.decode(data)


_OTHER = "does not begin with a session; it was not made by edge-runtime record"
_WHAT = {
    "ros2": 'is a recording of ROS 2, which holds no decisions; a [[source]] of kind "rosbag" plays it into the streams'
}
"""What a file without a session is, by its profile."""


class _Format(msgspec.Struct, frozen=True):
    format: int


_decision = msgspec.json.Decoder(DecisionMessage)
_status = msgspec.json.Decoder(StatusMessage)
_session = msgspec.json.Decoder(Session)
_records: dict[type, msgspec.json.Decoder[Any]] = {row.record: msgspec.json.Decoder(row.record) for row in KINDS}
