"""An MCAP file that somebody else may have written: its records in their order, whole ones only, and no more of them in
memory than a limit."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Header, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk

from edge_runtime.errors import UserError
from edge_runtime.plain_file import BoundedReader, open_plain

MAX_RECORD_BYTES = 192 << 20
"""Holds what the recorder writes at once: a chunk that a picture of `pictures.MAX_PIXELS`, as PNG in base64, ends."""

_BROKEN = (OSError, McapError, struct.error, zstandard.ZstdError, ValueError, RuntimeError, EOFError)
"""What the libraries raise on bytes that are not, or not all of, an MCAP file."""


class McapFile:
    """One that was cut short (a power cut) is read up to the cut."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is no file at `path`."""
        self.path = path
        self.cut = False
        """Whether the end of the file is missing; known once `messages` has ended."""
        self.profile = ""
        """What kind of file it says that it is; known with the first message."""
        with self._open() as file:
            self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        """Bytes read so far."""

    def messages(self) -> Iterator[tuple[Channel, Schema | None, McapMessage]]:
        """Every message with its channel and schema. Raises UserError naming the place where the file is damaged."""
        channels: dict[int, Channel] = {}
        schemas: dict[int, Schema] = {}
        self.cut = False
        with self._open() as file:
            for record in self._records(file):
                if isinstance(record, Header):
                    self.profile = record.profile
                elif isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, McapMessage) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    yield channel, schemas.get(channel.schema_id), record

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
