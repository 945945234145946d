"""Sensors: a window of named values, resampled to a fixed step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from edge_runtime.admit import Refusal, admit_sample
from edge_runtime.choose import window
from edge_runtime.kinds.kind import Admit, Field, Kind, Make, Partly, Preprocess, Read
from edge_runtime.kinds.record import Time, none, unset
from edge_runtime.messages import Message, Sample, Slice, Tensors
from edge_runtime.preprocess import window_tensors
from edge_runtime.specs import NS_PER_MS, SensorStream, max_age_ns


class SensorSample(Struct, frozen=True):
    """Sensor values taken at one time."""

    timestamp: Time
    captured_ns: int
    seq: int
    values: dict[str, float]
    id: str | UnsetType = UNSET


class Sensors(Kind[SensorStream, Sample, SensorSample]):
    """Channel name to value, in the channel's unit."""

    spec = SensorStream
    message = Sample
    content = (Mapping,)
    record = SensorSample
    schema = "edge_runtime.SensorSample"
    keep = 4096
    surplus = "late"

    def problems(self, spec: SensorStream) -> Iterator[str]:
        names = [channel.name for channel in spec.channels]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"there are two channels called {name!r}"
        if not names:
            yield "it has no channel"
        for channel in spec.channels:
            if channel.minimum >= channel.maximum:
                yield f"{channel.name}: minimum {channel.minimum:g} is not below maximum {channel.maximum:g}"

    def admission(self, spec: SensorStream) -> Admit:
        """Refuses readings that are no finite numbers, out of physical range or of no channel, each by itself."""

        def admit(content: Any) -> Make | Partly | Refusal:
            readings = admit_sample(spec, content.values if isinstance(content, Sample) else content)
            if isinstance(readings, Refusal):
                return readings
            values, refused = readings

            def make(stream: str, seq: int, captured_ns: int, id: str | None) -> Sample:
                return Sample(stream, seq, captured_ns, values, id=id)

            return Partly(make, refused) if refused else make

        return admit

    def choose(
        self, name: str, spec: SensorStream, messages: Sequence[Message], reference_ns: int, now_ns: int
    ) -> Slice:
        """The samples behind the window, and which required channels have no fresh value."""
        span_ns = int((spec.window - 1) * spec.step_ms * NS_PER_MS) + max_age_ns(spec)
        part = window(name, spec, messages, reference_ns, now_ns, span_ns)
        required = tuple(channel.name for channel in spec.channels if channel.required)
        if not part.present:
            return replace(part, missing_channels=required)
        missing = set(required)
        oldest_ns = now_ns - max_age_ns(spec) - int(spec.hop_ms * NS_PER_MS)
        for sample in reversed(part.messages):
            if not missing or sample.captured_ns < oldest_ns:
                break
            assert isinstance(sample, Sample)
            missing.difference_update(sample.values)
        return replace(part, missing_channels=tuple(sorted(missing))) if missing else part

    def reach_ns(self, spec: SensorStream) -> int:
        return int((spec.window * spec.step_ms + 2 * spec.hop_ms + spec.max_age_ms) * NS_PER_MS)

    def fields(self, spec: SensorStream) -> dict[str, Field]:
        shape = (1, spec.window, len(spec.channels))
        return {"window": Field("float32", shape, "readings"), "mask": Field("float32", shape)}

    def preprocessor(self, spec: SensorStream, read: Read) -> Preprocess:
        def tensors(part: Slice) -> Tensors:
            return window_tensors(spec, tuple(sample for sample in part.messages if isinstance(sample, Sample)))

        return tensors

    def to_record(self, message: Sample, at: Time, jpeg_quality: int | None) -> SensorSample:
        return SensorSample(at, message.captured_ns, message.seq, dict(message.values), unset(message.id))

    def to_message(self, stream: str, record: SensorSample) -> Sample:
        return Sample(stream, record.seq, record.captured_ns, record.values, id=none(record.id))

    def record_schema(self, spec: SensorStream, name: str) -> tuple[str, dict[str, Any]]:
        """Lists the channels, so that viewers can plot them; so every stream has a schema of its own."""
        _, schema = super().record_schema(spec, name)
        channels = {channel.name: {"type": "number", "description": channel.unit} for channel in spec.channels}
        schema["properties"]["values"] = {"type": "object", "properties": channels}
        return f"{self.schema}.{name}", schema

    def fitted(self, spec: SensorStream, message: Sample) -> Sample | None:
        """The channels that the stream has."""
        channels = {channel.name for channel in spec.channels}
        values = {name: value for name, value in message.values.items() if name in channels}
        if not values:
            return None
        return replace(message, values=values) if len(values) < len(message.values) else message

    def detail(self, spec: SensorStream) -> str:
        steps = f"window {spec.window} x {spec.step_ms:g} ms: " if spec.window > 1 else ""
        return steps + ", ".join(f"{channel.name} ({channel.unit})" for channel in spec.channels)
