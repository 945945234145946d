"""What the messages of a recording look like: the run flow's own messages as JSON, and the schemas of all topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import cv2
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from edge_runtime import pictures
from edge_runtime.config import EngineConfig
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec
from edge_runtime.wire import BundleId, DecisionMessage, StatusMessage

FORMAT = 1
STREAMS, DECISION, STATUS, SESSION = "/streams/", "/decision", "/status", "/session"
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
"""Camera noise has no repeats to look for: without the search PNG is a third faster to write, and smaller."""
NS_PER_S = 1_000_000_000


class Time(Struct, frozen=True):
    """Wall time since the Unix epoch."""

    sec: Annotated[int, Meta(ge=0)]
    nsec: Annotated[int, Meta(ge=0, lt=NS_PER_S)]


class CompressedImage(Struct, frozen=True):
    """A picture: the fields of Foxglove's message (https://docs.foxglove.dev/docs/sdk/schemas/compressed-image), and
    ours.
    """

    timestamp: Time
    frame_id: str
    data: bytes
    """Base64 in JSON: a camera's own JPEG as it came, else PNG (or JPEG, where the configuration says so)."""
    format: Literal["jpeg", "png"]
    captured_ns: int
    """Monotonic nanoseconds."""
    seq: int
    id: str | UnsetType = UNSET


class SensorSample(Struct, frozen=True):
    """Sensor values taken at one time."""

    timestamp: Time
    captured_ns: int
    seq: int
    values: dict[str, float]
    id: str | UnsetType = UNSET


class Sentence(Struct, frozen=True):
    """One sentence."""

    timestamp: Time
    captured_ns: int
    seq: int
    text: str
    truncated: bool
    lang: str | UnsetType = UNSET
    id: str | UnsetType = UNSET


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


Record = CompressedImage | SensorSample | Sentence
NAMES: dict[type, str] = {
    CompressedImage: "foxglove.CompressedImage",
    SensorSample: "edge_runtime.SensorSample",
    Sentence: "edge_runtime.Sentence",
    DecisionMessage: "edge_runtime.Decision",
    StatusMessage: "edge_runtime.Status",
    Session: "edge_runtime.Session",
}
"""Type to the name of its schema; a sensor stream's has the stream's name behind it."""


def wall_time(wall_ns: int) -> Time:
    """`wall_ns` since the epoch, in seconds and nanoseconds."""
    return Time(*divmod(max(0, wall_ns), NS_PER_S))


def to_record(message: Message, wall_ns: int, jpeg_quality: int | None = None) -> Record:
    """`message`, captured at `wall_ns` of wall time, as it is written: pictures that did not come as JPEG losslessly,
    unless `jpeg_quality` is given.
    """
    at, identity = wall_time(wall_ns), _unset(message.id)
    if isinstance(message, Sample):
        return SensorSample(at, message.captured_ns, message.seq, dict(message.values), identity)
    if isinstance(message, Utterance):
        lang = _unset(message.lang)
        return Sentence(at, message.captured_ns, message.seq, message.text, message.truncated, lang, identity)
    kind = "png" if message.encoded is None and jpeg_quality is None else "jpeg"
    if message.encoded is not None:
        data = message.encoded
    else:
        how = PNG if jpeg_quality is None else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        done, buffer = cv2.imencode(f".{kind}", message.image, how)
        assert done, "every admitted picture can be written"
        data = buffer.data
    # msgspec writes a memoryview as it writes bytes; copying a picture first would cost the more.
    return CompressedImage(at, message.stream, data, kind, message.captured_ns, message.seq, identity)  # type: ignore[arg-type]


def to_message(stream: str, record: Record) -> Message:
    """The message that was recorded. Raises ValueError where a picture cannot be decoded."""
    identity = _none(record.id)
    if isinstance(record, SensorSample):
        return Sample(stream, record.seq, record.captured_ns, record.values, identity)
    if isinstance(record, Sentence):
        lang = _none(record.lang)
        return Utterance(stream, record.seq, record.captured_ns, record.text, lang, record.truncated, identity)
    try:
        image = pictures.decode(record.data)
    except pictures.PictureError as error:
        raise ValueError(f"picture {record.seq} of {stream}: {error}") from None
    encoded = record.data if record.format == "jpeg" else None
    return Frame(stream, record.seq, record.captured_ns, image, identity, encoded)


def _unset(value: str | None) -> str | UnsetType:
    return UNSET if value is None else value


def _none(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


def encode(record: Struct) -> bytes:
    """JSON. Numbers of other libraries (NumPy's, say) are written as what they are."""
    return _encoder.encode(record)


_encoder = msgspec.json.Encoder(enc_hook=float)


def stream_schema(spec: StreamSpec, name: str) -> tuple[str, dict[str, Any]]:
    """Name and JSON Schema of a stream's messages; a sensor's lists its channels, so that viewers can plot them."""
    if isinstance(spec, CameraStream):
        return NAMES[CompressedImage], schema_of(CompressedImage)
    if not isinstance(spec, SensorStream):
        return NAMES[Sentence], schema_of(Sentence)
    schema = schema_of(SensorSample)
    channels = {channel.name: {"type": "number", "description": channel.unit} for channel in spec.channels}
    schema["properties"]["values"] = {"type": "object", "properties": channels}
    return f"{NAMES[SensorSample]}.{name}", schema


def schema_of(kind: type) -> dict[str, Any]:
    """JSON Schema of `kind` in the part of the language that Foxglove reads: nothing referred to, every property of
    one simple type, objects with `properties`. Properties that may be null have no such type and are not described.
    """
    schema = msgspec.json.schema(kind)
    simple = _simple(schema, schema.get("$defs", {}))
    assert simple is not None
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **simple, "title": NAMES[kind]}


def _simple(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any] | None:
    if "$ref" in schema:
        return _simple(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema and "type" not in schema:
        return {"type": "integer" if isinstance(schema["enum"][0], int) else "string", **schema}
    if "type" not in schema:
        return None
    simple = {key: value for key, value in schema.items() if key not in ("items", "prefixItems", "default", "$defs")}
    if schema["type"] == "array":
        items = _simple(schema["items"], definitions) if isinstance(schema.get("items"), dict) else None
        return None if items is None else {**simple, "items": items}
    if schema["type"] == "object":
        found = {name: _simple(part, definitions) for name, part in schema.get("properties", {}).items()}
        properties = {name: part for name, part in found.items() if part is not None}
        simple["properties"] = properties
        simple["required"] = [name for name in schema.get("required", ()) if name in properties]
        extra = simple.pop("additionalProperties", None)
        if isinstance(extra, dict) and (described := _simple(extra, definitions)) is not None:
            simple["additionalProperties"] = described
    return simple
