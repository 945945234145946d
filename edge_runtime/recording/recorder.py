"""Write a recording while the runtime runs, without holding it up."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

import msgspec
from mcap.writer import CompressionType, Writer
from msgspec import Struct

from edge_runtime.align import RULES
from edge_runtime.clock import Clock
from edge_runtime.config import Config
from edge_runtime.errors import ConfigError
from edge_runtime.kinds.camera import CompressedImage
from edge_runtime.kinds.record import wall_time
from edge_runtime.machine_kind import machine_kind
from edge_runtime.messages import Message
from edge_runtime.pictures import read_header
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.recording.annotations import drawn, marked
from edge_runtime.recording.records import (
    ANNOTATIONS,
    DECISION,
    FORMAT,
    SESSION,
    STATUS,
    STREAMS,
    Session,
    to_record,
)
from edge_runtime.recording.topics import Topics
from edge_runtime.streams import StreamSpec, kind_of_message
from edge_runtime.wire import BundleId, DecisionMessage, RecordingHealth

log = logging.getLogger("edge_runtime.recording")

MAX_WAITING_BYTES = 64 << 20
"""Beyond this the disk is too slow for what comes in, and recording stops."""
SMALL_MESSAGE_BYTES = 500
"""What a message without a picture counts for."""
FLUSH_INTERVAL_NS = 1_000_000_000
"""A power cut loses about this much."""
CHUNK_BYTES = 1 << 16
"""Written at once, before it is packed: of a disk that fills up, what was written before stays readable."""
CLOSE_TIMEOUT_S = 1.0


class _Begin(Struct, frozen=True):
    """A session's record, and the streams of the messages after it."""

    record: Session
    streams: Mapping[str, StreamSpec]


_Item = tuple[int, str, "Message | Struct", int]
"""When, on the monotonic clock; the topic, what, and the bytes that it holds."""


def free_name(path: Path) -> Path:
    """`path`, or where that is taken `stem-2`, `stem-3`..."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def _create(path: Path) -> IO[bytes]:
    """A fresh file for this user alone: what cameras and microphones took in is nobody else's business."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError:
        raise ConfigError(f"record {path}: is there already; choose another name or remove it") from None
    except OSError as error:
        raise ConfigError(f"record {path}: cannot be written ({error.strerror}); check the path") from None


class Recorder(Sink):
    """A sink of the run flow that also takes its messages. The loop thread calls it; a thread of its own writes.

    Nothing here blocks or raises into the loop. Where the disk is full or too slow, or the size limit is reached,
    recording stops and says so, in the log and in `recording`; what was written up to there is whole and replays.
    """

    def __init__(self, path: Path, clock: Clock, max_gb: float | None = None, jpeg_quality: int | None = None) -> None:
        """Opens a fresh file at `path`. Raises ConfigError if that cannot be."""
        self._jpeg_quality = jpeg_quality
        self.path = path
        self._clock = clock
        self._machine = machine_kind()  # it takes its time, which the loop does not have
        self._max_bytes = None if max_gb is None else int(max_gb * 1e9)
        # Wall time is read once: log times keep the monotonic clock's order whatever happens to the wall clock.
        self._start_ns, self._start_wall_ns = clock.now_ns(), clock.wall_ns()
        self._file = _create(path)
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._topics = Topics(self._writer)
        self._streams: Mapping[str, StreamSpec] = {}
        self._pictures: dict[str, bytes | memoryview] = {}
        """The last one of each camera, as it was written."""
        self._batch: list[_Item] = []
        self._batches: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        # Each counter is written by one thread only: put by the loop, done by the writer.
        self._put_bytes = 0
        self._done_bytes = 0
        self._written = 0
        self._size = 0
        self._last_flush_ns = 0
        self._stopped: str | None = None
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def session(self, config: Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:
        """A bundle with these streams begins to decide, its memory empty."""
        start = Session(
            FORMAT, config.name, version("edge-runtime"), bundle, config.bundle, config.engine,
            self._start_ns, self._start_wall_ns, msgspec.UNSET if self._jpeg_quality is None else self._jpeg_quality,
            RULES, config.zones, self._machine,
        )  # fmt: skip
        self._add(self._clock.now_ns(), SESSION, _Begin(start, dict(streams)))

    def message(self, message: Message) -> None:
        """The loop took `message` into its memory."""
        row = kind_of_message(message)
        item: Message | Struct = message
        if row.encoded(message):  # what it was decoded to need not wait in memory
            item = to_record(message, self._wall_ns(message.captured_ns))
        self._add(message.captured_ns, STREAMS + message.stream, item, SMALL_MESSAGE_BYTES + row.weight(message))

    def publish(self, item: Published) -> None:
        topic = DECISION if isinstance(item.message, DecisionMessage) else STATUS
        self._add(item.message.published_ns, topic, item)

    @property
    def wants_whole(self) -> bool:
        return True

    @property
    def stopped(self) -> str | None:
        return self._stopped

    def serve(self) -> None:
        """Hand over what the turn brought. Only now, so that the writer does not compete with a decision."""
        if self._batch and self._stopped is None:
            if self._put_bytes - self._done_bytes > MAX_WAITING_BYTES:
                self._stop(f"the disk is too slow: {MAX_WAITING_BYTES >> 20} MiB wait to be written")
                self._batches.put(None)
            else:
                self._batches.put(self._batch)
        if self._batch:
            self._batch = []

    def recording(self) -> RecordingHealth:
        """How far it is. Any thread."""
        return RecordingHealth(str(self.path), self._written, round(self._size / 1e6, 3), self._stopped)

    def close(self) -> None:
        self.serve()
        self._batches.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("record: %s is left without its index: the disk did not keep up; it can be read", self.path)

    def _add(self, at_ns: int, topic: str, item: Message | Struct, size: int = SMALL_MESSAGE_BYTES) -> None:
        if self._stopped is None:
            self._put_bytes += size
            self._batch.append((at_ns, topic, item, size))

    def _wall_ns(self, at_ns: int) -> int:
        return max(0, self._start_wall_ns + at_ns - self._start_ns)

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        log.error("record: stopped, decisions go on: %s (%s)", reason, self.path)

    # The rest runs on the writer's thread.

    def _write(self) -> None:
        try:
            self._writer.start("", f"edge-runtime {version('edge-runtime')}")
            while (batch := self._batches.get()) is not None:
                self._write_batch(batch)
                if self._max_bytes is not None and self._size > self._max_bytes:
                    self._stop(f"the file has reached max_gb = {self._max_bytes / 1e9:g}")
                    break
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._sync()
            self._file.close()
        except OSError as error:
            self._stop(f"{error.strerror or error}")
            self._close_broken()
        except Exception as error:  # a recording that breaks must not take the runtime with it
            log.exception("record: failed")
            self._stop(f"internal error: {error}")
            self._close_broken()
        finally:
            while not self._batches.empty():  # what will not be written need not fill the memory
                self._batches.get_nowait()

    def _write_batch(self, batch: Sequence[_Item]) -> None:
        for at_ns, topic, item, size in batch:
            wall_ns = self._wall_ns(at_ns)
            record: Struct
            payload: bytes | None = None
            if isinstance(item, Published):
                record, payload = item.message, item.payload
            elif isinstance(item, _Begin):
                self._streams = item.streams
                self._topics.begin(item.streams)
                record = item.record
            else:
                record = to_record(item, wall_ns, self._jpeg_quality) if isinstance(item, Message) else item
            self._topics.write(topic, record, wall_ns, payload)
            if isinstance(record, CompressedImage):
                self._pictures[topic.removeprefix(STREAMS)] = record.data
            elif isinstance(record, DecisionMessage):
                self._annotate(record)
            self._done_bytes += size
            self._written += 1
        now_ns = self._clock.now_ns()
        if now_ns - self._last_flush_ns >= FLUSH_INTERVAL_NS:
            self._writer.flush()  # type: ignore[no-untyped-call]
            self._sync()
            self._last_flush_ns = now_ns
        self._size = self._file.tell()

    def _annotate(self, decision: DecisionMessage) -> None:
        """What a decision's heads have seen, beside the picture."""
        found = marked(decision, self._streams)
        if found is None or (picture := self._pictures.get(found.camera)) is None:
            return
        wall_ns = self._wall_ns(found.captured_ns)
        header = read_header(picture)
        picture_marks = drawn(found.things, (header.width, header.height), wall_time(wall_ns))
        self._topics.write(ANNOTATIONS + found.camera, picture_marks, wall_ns)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _close_broken(self) -> None:
        """What is written stays; what still lies in Python's buffer cannot be."""
        try:
            self._file.close()
        except OSError:
            pass
