"""The table of kinds of streams: a row each, which `kind_of` gives.

A bundle declares its streams with the kinds' specs; capture, alignment, recording and health read the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from edge_runtime.kinds.audio import Audio, AudioStream
from edge_runtime.kinds.camera import Camera
from edge_runtime.kinds.kind import Kind, Preprocess, Read
from edge_runtime.kinds.sensors import Sensors
from edge_runtime.kinds.text import Text
from edge_runtime.messages import Message
from edge_runtime.specs import (
    NS_PER_MS,
    CameraStream,
    Channel,
    Count,
    Name,
    Positive,
    SensorStream,
    TextStream,
    max_age_ns,
)

__all__ = [
    "KINDS",
    "NS_PER_MS",
    "AudioStream",
    "CameraStream",
    "Channel",
    "Count",
    "Name",
    "Positive",
    "SensorStream",
    "StreamSpec",
    "TextStream",
    "kind",
    "kind_of",
    "kind_of_message",
    "max_age_ns",
    "preprocessors",
    "streams_of",
]

StreamSpec = CameraStream | SensorStream | TextStream | AudioStream
KINDS: tuple[Kind[Any, Any, Any], ...] = (Camera(), Sensors(), Text(), Audio())
"""To add a kind: its spec above, its row here."""

_by_spec = {row.spec: row for row in KINDS}
_by_message = {row.message: row for row in KINDS}
_Spec = TypeVar("_Spec")


def kind_of(spec: StreamSpec) -> Kind[Any, Any, Any]:
    """The row of a stream."""
    return _by_spec[type(spec)]


def kind_of_message(message: Message) -> Kind[Any, Any, Any]:
    """The row of a message."""
    return _by_message[type(message)]


def kind(spec: StreamSpec) -> str:
    """As a manifest and a recipe call it: `camera`, `sensors`..."""
    return str(spec.__struct_config__.tag)


def streams_of(streams: Mapping[str, StreamSpec], spec: type[_Spec]) -> dict[str, _Spec]:
    """Those of `streams` that are of the kind with this spec."""
    return {name: stream for name, stream in streams.items() if isinstance(stream, spec)}


def preprocessors(streams: Mapping[str, StreamSpec], read: Read) -> dict[str, Preprocess]:
    """For each stream how its present slices become tensors; `read` gives a bundle's files. Raises BundleError."""
    return {name: kind_of(spec).preprocessor(spec, read) for name, spec in streams.items()}
