"""What the messages of a recording look like: the run flow's own messages as JSON, and the schemas of all topics."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edge_runtime.config import EngineConfig
from edge_runtime.kinds.record import schema_of, wall_time
from edge_runtime.machine_kind import MachineKind
from edge_runtime.messages import Message
from edge_runtime.recording.annotations import ImageAnnotations
from edge_runtime.streams import StreamSpec, kind_of, kind_of_message
from edge_runtime.wire import BundleId, DecisionMessage, StatusMessage
from edge_runtime.zones import Zone

FORMAT = 1
STREAMS, DECISION, STATUS, SESSION = "/streams/", "/decision", "/status", "/session"
ANNOTATIONS = "/annotations/"
"""Followed by a camera's name: what was seen in its pictures, for viewers; a replay makes no use of it."""


class Session(Struct, frozen=True):
    """A bundle begins to decide, with an empty memory: at the start, and after a reload."""

    format: int
    name: str
    """The configuration's."""
    runtime_version: str
    bundle: BundleId
    bundle_path: str
    """As the configuration gave it, made absolute; or `shipped:NAME`."""
    engine: EngineConfig
    captured_ns: int
    """Monotonic nanoseconds..."""
    wall_ns: int
    """... and the wall time of the same moment, from which all log times follow."""
    jpeg_quality: int | UnsetType = UNSET
    """Where given, decoded pictures were not kept losslessly, and a replay need not decide the same."""
    rules: int = 1
    """By which rules it decided: see `align.RULES`."""
    zones: dict[str, Zone] = {}
    """Of the cameras' pictures, as the configuration draws them."""
    machine: MachineKind | UnsetType = UNSET
    """Where it ran; recordings of before do not tell."""


NAMES: dict[type, str] = {
    DecisionMessage: "edge_runtime.Decision",
    StatusMessage: "edge_runtime.Status",
    Session: "edge_runtime.Session",
    ImageAnnotations: "foxglove.ImageAnnotations",
}
"""Type to the name of its schema; a stream's records are named by their kind."""


def to_record(message: Message, wall_ns: int, jpeg_quality: int | None = None) -> Struct:
    """`message`, captured at `wall_ns` of wall time, as it is written: pictures that did not come as JPEG losslessly,
    unless `jpeg_quality` is given.
    """
    record: Struct = kind_of_message(message).to_record(message, wall_time(wall_ns), jpeg_quality)
    return record


def encode(record: Struct) -> bytes:
    """JSON. Numbers of other libraries (NumPy's, say) are written as what they are."""
    return _encoder.encode(record)


_encoder = msgspec.json.Encoder(enc_hook=float)


def stream_schema(spec: StreamSpec, name: str) -> tuple[str, dict[str, Any]]:
    """Name and JSON Schema of a stream's messages."""
    return kind_of(spec).record_schema(spec, name)


def topic_schema(kind: type) -> tuple[str, dict[str, Any]]:
    """Name and JSON Schema of what is written beside the streams: decisions, status, sessions."""
    return NAMES[kind], schema_of(kind, NAMES[kind])
