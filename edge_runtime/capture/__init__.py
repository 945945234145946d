"""Where messages come from. `open_sources` picks each source from the visible table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime import config, plugins
from edge_runtime.bundle import Bundle
from edge_runtime.capture.cameras import CameraSource, ImagesSource, VideoSource
from edge_runtime.capture.files import FileSource, StdinSource, Timeline
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.process_source import ProcessSource
from edge_runtime.capture.row_readers import ROW_READERS
from edge_runtime.capture.source import Source
from edge_runtime.capture.wav_source import WavSource
from edge_runtime.capture.zmq_source import ZmqSource
from edge_runtime.errors import ConfigError
from edge_runtime.streams import KINDS, AudioStream, CameraStream, SensorStream, StreamSpec, TextStream, kind


@dataclass
class _Setting:
    """What sources may need besides their own settings."""

    intake: Intake
    streams: Mapping[str, StreamSpec]
    decisions: str
    inputs: str = ""
    """Endpoint of the nearest socket above."""
    timeline: Timeline = field(default_factory=Timeline)
    bundle: Bundle | None = None


def _recording(item: config.RecordingSource, at: _Setting) -> Source:
    from edge_runtime.capture.recording_source import RecordingSource

    return RecordingSource(at.intake, item, at.streams)


def _rosbag(item: config.RosbagSource, at: _Setting) -> Source:
    from edge_runtime.capture.rosbag_source import RosbagSource

    return RosbagSource(at.intake, item, at.streams)


def _detections(item: config.DetectionsSource, at: _Setting) -> Source:
    from edge_runtime.capture.detections_source import DetectionsSource

    return DetectionsSource(at.intake, item, _sensors(item, at), at.decisions)


def _mqtt(item: config.MqttSource, at: _Setting) -> Source:
    from edge_runtime.capture.mqtt_source import MqttSource

    return MqttSource(at.intake, item, at.streams)


def _sensors(item: Any, at: _Setting) -> SensorStream:
    spec = at.streams[item.stream]
    assert isinstance(spec, SensorStream), "the table says so"
    return spec


def _can(item: config.CanSource, at: _Setting) -> Source:
    from edge_runtime.capture.can_source import CanSource

    return CanSource(at.intake, item, _sensors(item, at))


def _gpsd(item: config.GpsdSource, at: _Setting) -> Source:
    from edge_runtime.capture.gpsd_source import GpsdSource

    return GpsdSource(at.intake, item, _sensors(item, at))


def _sysfs(item: config.SysfsSource, at: _Setting) -> Source:
    from edge_runtime.capture.sysfs_source import SysfsSource

    return SysfsSource(at.intake, item, _sensors(item, at))


def _voice(item: config.VoiceSource, at: _Setting) -> Source:
    from edge_runtime.capture.voice_source import MicrophoneSource, VoiceFileSource

    return (VoiceFileSource if item.path else MicrophoneSource)(at.intake, item, at.bundle)


def _wyoming(item: config.WyomingSource, at: _Setting) -> Source:
    from edge_runtime.capture.wyoming_source import WyomingSource

    return WyomingSource(at.intake, item)


_Maker = tuple[tuple[type, ...], Callable[[Any, _Setting], Source]]
_ANY = tuple(row.spec for row in KINDS)

SOURCES: dict[type, _Maker] = {
    config.ZmqSource: (
        _ANY,
        lambda item, at: ZmqSource(
            at.intake,
            item.bind,
            item.rate_limit,
            int(item.mode, 8),
            item.group,
            item.agreement_ns,
            Path(item.keys) if item.keys else None,
        ),
    ),
    config.ProcessSource: (_ANY, lambda item, at: ProcessSource(at.intake, item, at.inputs, at.decisions)),
    config.RecordingSource: (_ANY, _recording),
    config.RosbagSource: ((CameraStream, SensorStream, TextStream), _rosbag),
    config.CameraSource: ((CameraStream,), lambda item, at: CameraSource(at.intake, item)),
    config.VideoSource: ((CameraStream,), lambda item, at: VideoSource(at.intake, item)),
    config.ImagesSource: ((CameraStream,), lambda item, at: ImagesSource(at.intake, item)),
    config.WavSource: ((AudioStream,), lambda item, at: WavSource(at.intake, item)),
    config.DetectionsSource: ((SensorStream,), _detections),
    config.MqttSource: ((SensorStream, TextStream), _mqtt),
    config.CanSource: ((SensorStream,), _can),
    config.GpsdSource: ((SensorStream,), _gpsd),
    config.SysfsSource: ((SensorStream,), _sysfs),
    config.VoiceSource: ((TextStream,), _voice),
    config.WyomingSource: ((TextStream,), _wyoming),
    config.StdinSource: ((TextStream,), lambda item, at: StdinSource(at.intake, item.stream)),
    config.FileSource: (
        tuple(ROW_READERS),
        lambda item, at: FileSource(at.intake, item, at.streams[item.stream], at.timeline),
    ),
}
"""Kind of source to the kinds of stream it can feed, and how it is made."""


OpenSources = Callable[
    [Sequence[config.SourceConfig], Mapping[str, StreamSpec], Intake, str, Sequence[Source], Bundle], list[Source]
]


def open_sources(
    settings: Sequence[config.SourceConfig],
    streams: Mapping[str, StreamSpec],
    intake: Intake,
    decisions: str,
    running: Sequence[Source] = (),
    bundle: Bundle | None = None,
) -> list[Source]:
    """Open every source of the configuration; `decisions` is the endpoint that decisions are published at, `bundle`
    the one whose `streams` they feed.

    A source among `running` that is what a row asks for stands for that row, untouched: it delivers to whom it did
    until it is handed over. Raises ConfigError, with nothing newly opened left open, if a row names a stream that the
    bundle lacks or cannot be opened.
    """
    setting = _Setting(intake, streams, decisions, bundle=bundle)
    sources: list[Source] = []
    left = list(running)
    try:
        for item in settings:
            kinds, make = SOURCES.get(type(item)) or _brought(item)
            stream = getattr(item, "stream", None)
            if stream is not None and not isinstance(streams.get(stream), kinds):
                fitting = sorted(name for name, spec in streams.items() if isinstance(spec, kinds))
                raise ConfigError(
                    f"source {item.__struct_config__.tag}: the bundle has no fitting stream {stream!r}; "
                    f"there are {fitting}"
                )
            reads = _reads(item, setting)
            source = next((candidate for candidate in left if candidate.serves(item, reads)), None)
            if source is None:
                source = make(item, setting)
                source.settings, source.reads = item, reads
            else:
                left.remove(source)
                source.claimed = item
            sources.append(source)
            setting.inputs = getattr(source, "endpoint", setting.inputs)
    except BaseException:
        for source in sources:
            if source not in running:
                source.stop()
        raise
    return sources


def _brought(item: Any) -> Any:
    """As a row of the table, for a kind that an installed package brings."""
    cls = plugins.class_of(item)
    assert cls is not None, f"{type(item)} is no source's settings"
    return _ANY, lambda item, at: cls(item, at.intake, at.streams)


def _reads(item: config.SourceConfig, setting: _Setting) -> object:
    """What a source may have read at its opening besides its settings: of streams kinds and channels, not ranges."""
    if isinstance(item, config.ProcessSource):
        return setting.inputs, setting.decisions
    streams = setting.streams

    def outline(spec: StreamSpec) -> object:
        return kind(spec), [channel.name for channel in getattr(spec, "channels", ())]

    stream = getattr(item, "stream", None)
    if isinstance(item, config.VoiceSource) and setting.bundle is not None:
        from edge_runtime.voice.grammar import GRAMMAR

        return outline(streams[item.stream]), setting.bundle.manifest.files.get(GRAMMAR)
    if stream is not None:
        return outline(streams[stream])
    return {name: outline(spec) for name, spec in streams.items()}
