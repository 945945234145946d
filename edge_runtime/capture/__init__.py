"""Where messages come from. `open_sources` picks each source from the visible table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime import config
from edge_runtime.capture.cameras import CameraSource, ImagesSource, VideoSource
from edge_runtime.capture.files import FileSource, StdinSource, Timeline
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.recording_source import RecordingSource
from edge_runtime.capture.source import Source
from edge_runtime.capture.world_source import WorldSource
from edge_runtime.capture.zmq_source import ZmqSource
from edge_runtime.errors import ConfigError
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream


@dataclass(frozen=True)
class _Setting:
    """What sources may need besides their own settings."""

    intake: Intake
    streams: Mapping[str, StreamSpec]
    decisions: str
    timeline: Timeline = field(default_factory=Timeline)


_Maker = tuple[tuple[type, ...], Callable[[Any, _Setting], Source]]
_ANY = (CameraStream, SensorStream, TextStream)

SOURCES: dict[type, _Maker] = {
    config.ZmqSource: (_ANY, lambda item, at: ZmqSource(at.intake, item.bind)),
    config.WorldSource: (_ANY, lambda item, at: WorldSource(at.intake, item, at.decisions)),
    config.RecordingSource: (_ANY, lambda item, at: RecordingSource(at.intake, item, at.streams)),
    config.CameraSource: ((CameraStream,), lambda item, at: CameraSource(at.intake, item)),
    config.VideoSource: ((CameraStream,), lambda item, at: VideoSource(at.intake, item)),
    config.ImagesSource: ((CameraStream,), lambda item, at: ImagesSource(at.intake, item)),
    config.StdinSource: ((TextStream,), lambda item, at: StdinSource(at.intake, item.stream)),
    config.FileSource: (
        (SensorStream, TextStream),
        lambda item, at: FileSource(at.intake, item, at.streams[item.stream], at.timeline),
    ),
}
"""Kind of source to the kinds of stream it can feed, and how it is made."""


OpenSources = Callable[[Sequence[config.SourceConfig], Mapping[str, StreamSpec], Intake, str], list[Source]]


def open_sources(
    settings: Sequence[config.SourceConfig], streams: Mapping[str, StreamSpec], intake: Intake, decisions: str
) -> list[Source]:
    """Open every source of the configuration; `decisions` is the endpoint that decisions are published at.

    Raises ConfigError, with nothing left open, if one names a stream that the bundle lacks or cannot be opened.
    """
    setting = _Setting(intake, streams, decisions)
    opened: list[Source] = []
    try:
        for item in settings:
            kinds, make = SOURCES[type(item)]
            stream = getattr(item, "stream", None)
            if stream is not None and not isinstance(streams.get(stream), kinds):
                fitting = sorted(name for name, spec in streams.items() if isinstance(spec, kinds))
                raise ConfigError(
                    f"source {item.__struct_config__.tag}: the bundle has no fitting stream {stream!r}; "
                    f"there are {fitting}"
                )
            opened.append(make(item, setting))
    except BaseException:
        for source in opened:
            source.stop()
        raise
    return opened
