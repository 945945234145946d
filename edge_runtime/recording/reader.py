"""Read a recording in the order in which the loop took messages and made decisions."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk

from edge_runtime.errors import UserError
from edge_runtime.messages import Message
from edge_runtime.plain_file import BoundedReader, open_plain
from edge_runtime.recording.records import DECISION, FORMAT, SESSION, STATUS, STREAMS, Session
from edge_runtime.streams import KINDS
from edge_runtime.wire import DecisionMessage, StatusMessage

Event = Session | Message | DecisionMessage | StatusMessage
MAX_RECORD_BYTES = 192 << 20
"""Holds what the recorder writes at once: a chunk that a picture of `pictures.MAX_PIXELS`, as PNG in base64, ends."""

_BROKEN = (OSError, McapError, struct.error, zstandard.ZstdError, ValueError, RuntimeError, EOFError)
"""What the libraries raise on bytes that are not, or not all of, an MCAP file."""


class Recording:
    """A recording's file. One that was cut short (a power cut) is read up to the cut."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is no recording at `path`."""
        self.path = path
        self.cut = False
        """Whether the end of the file is missing; known once `events` has ended."""
        with self._open() as file:
            self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        """Bytes read so far."""
        first = next(self.events(), None)
        if not isinstance(first, Session):
            raise UserError(f"recording {path}: does not begin with a session; it was not made by edge-runtime record")
        self.session = first
        """The first bundle that decided."""

    def events(self) -> Iterator[Event]:
        """All that was recorded, pictures decoded. Raises UserError naming the place where the file is damaged."""
        channels: dict[int, Channel] = {}
        schemas: dict[int, str] = {}
        self.cut = False
        with self._open() as file:
            for record in self._records(file):
                if isinstance(record, Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, McapMessage) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    event = self._event(channel.topic, schemas.get(channel.schema_id, ""), record.data)
                    if event is not None:
                        yield event

    def _open(self) -> BoundedReader:
        try:
            return open_plain(self.path, MAX_RECORD_BYTES)
        except OSError as error:
            raise UserError(f"recording {self.path}: cannot be read ({error.strerror}); check the path") from None

    def _records(self, file: IO[bytes]) -> Iterator[object]:
        records = _unpacked(file)
        while True:
            try:
                record = next(records)
            except StopIteration:
                self.position = self.size
                return
            except _BROKEN as error:
                self.position = file.tell()
                if self.position < 8 or isinstance(error, _Refused) or self._is_damaged(file):
                    damage = f"is damaged or no MCAP file (byte {self.position} of {self.size}: {error})"
                    raise UserError(f"recording {self.path}: {damage}; check the path or copy it again") from None
                self.cut = True
                return
            self.position = file.tell()
            yield record

    def _is_damaged(self, file: IO[bytes]) -> bool:
        """Broken before the end; a file that merely ends too early was read to its last byte."""
        return file.tell() < os.fstat(file.fileno()).st_size

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


def _unpacked(file: IO[bytes]) -> Iterator[object]:
    """The file's records, those in its chunks too. Raises what `_BROKEN` names, a chunk before it is unpacked."""
    for record in StreamReader(file, emit_chunks=True, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES).records:
        if not isinstance(record, Chunk):
            yield record
            continue
        if record.compression not in ("", "zstd"):
            raise _Refused(f"a chunk is packed with {record.compression!r:.40}, not with zstd")
        # The frame's own word is what the library sets memory aside for, where it has one.
        announced = zstandard.frame_content_size(record.data) if record.compression else 0
        if (size := max(record.uncompressed_size, announced)) > MAX_RECORD_BYTES:
            raise _Refused(f"a chunk announces {size} bytes, at most {MAX_RECORD_BYTES} are allowed")
        yield from breakup_chunk(record, validate_crc=True)


class _Refused(ValueError):
    """What is whole and yet not taken."""


class _Format(msgspec.Struct, frozen=True):
    format: int


_decision = msgspec.json.Decoder(DecisionMessage)
_status = msgspec.json.Decoder(StatusMessage)
_session = msgspec.json.Decoder(Session)
_records: dict[type, msgspec.json.Decoder[Any]] = {row.record: msgspec.json.Decoder(row.record) for row in KINDS}
