"""Moments of many recordings as one small recording: each by itself, with what it was decided from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec
from mcap.writer import CompressionType, Writer

from build_engines.fleet.recordings import Source
from calibration.moments import replay
from calibration.recordings import read_recording
from edge_runtime.errors import UserError
from edge_runtime.messages import Message
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.records import (
    DECISION,
    SESSION,
    STREAMS,
    Session,
    to_record,
)
from edge_runtime.recording.topics import Topics
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import DecisionMessage


class Extract(NamedTuple):
    """One moment."""

    session: Session
    messages: Sequence[Message]
    decision: DecisionMessage


def extracts(
    wanted: Iterable[tuple[str, int]], sources: Mapping[str, Source], streams: Mapping[str, StreamSpec]
) -> Iterator[Extract]:
    """The decisions `wanted` (recording and number), each with the messages that alignment takes for it. Raises
    UserError."""
    for name, some in groupby(sorted(wanted), key=lambda item: item[0]):
        yield from _of(Path(sources[name].path), {seq for _, seq in some}, streams)


def _of(path: Path, numbers: set[int], streams: Mapping[str, StreamSpec]) -> Iterator[Extract]:
    said: dict[int, tuple[Session, DecisionMessage]] = {}
    session: Session | None = None
    for event in Recording(path).events():
        if isinstance(event, Session):
            session = event
        elif isinstance(event, DecisionMessage) and event.seq in numbers and session is not None:
            said[event.seq] = session, event
    for moment, aligned in replay(streams, read_recording(path)):
        seq = int(moment.id.rpartition("/")[2])
        if seq in numbers:
            messages = [message for part in aligned.slices.values() if part.present for message in part.messages]
            yield Extract(said[seq][0], sorted(messages, key=lambda message: message.captured_ns), said[seq][1])


def write_recording(path: Path, moments: Iterable[Extract], streams: Mapping[str, StreamSpec]) -> None:
    """Write `moments` as a recording in which each is a session of its own: the same bytes for the same moments. Raises
    UserError where it cannot be written."""
    try:
        with path.open("wb") as file:
            writer = Writer(file, compression=CompressionType.ZSTD)
            writer.start("", f"edge-runtime {version('edge-runtime')}")
            topics = Topics(writer, streams)
            for session, messages, decision in moments:
                shift_ns = session.wall_ns - session.captured_ns
                # The runtime's memory begins with it: nothing of another moment is remembered.
                start_ns = min([message.captured_ns for message in messages], default=decision.captured_ns)
                begun = msgspec.structs.replace(session, captured_ns=start_ns, wall_ns=start_ns + shift_ns)
                topics.write(SESSION, begun, begun.wall_ns)
                for message in messages:
                    wall_ns = message.captured_ns + shift_ns
                    topics.write(STREAMS + message.stream, to_record(message, wall_ns), wall_ns)
                topics.write(DECISION, decision, decision.captured_ns + shift_ns)
            writer.finish()  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
