"""The task of `index`: what is in one recording, and the moments of it that tell something."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from build_engines.artefacts import key_of
from build_engines.code import code_digest
from build_engines.fleet.looking import Pipelines
from build_engines.fleet.tally import Counting, Counts, Histogram, Tally, count, into
from calibration.near import Fingerprint, dhash, mean_colours
from edge_runtime.bundle import Bundle, Manifest
from edge_runtime.decision_fields import answer_fields
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Utterance
from edge_runtime.pipeline import Outcome
from edge_runtime.recording.reader import Event, Recording
from edge_runtime.recording.records import Session
from edge_runtime.replay import outcomes, recorded_answer, replay
from edge_runtime.specs import NS_PER_MS, CameraStream, SensorStream, max_age_ns
from edge_runtime.streams import StreamSpec, streams_of
from edge_runtime.wire import BundleId, DecisionMessage

EVERY_MS = 500.0
"""At most one moment in so long, unless the decision changes or is another than recorded."""
GAP_PERIODS = 3.0
"""Periods of a stream without a message that make a gap."""
SIGMA_EDGES = tuple(np.arange(-4.0, 4.5, 0.5).tolist())
"""Of a channel's histogram, in deviations from the mean of what the bundle was trained on."""
LOOKS: dict[str, tuple[float, ...]] = {
    "brightness": tuple(np.arange(16.0, 256.0, 16.0).tolist()),
    "contrast": tuple(np.arange(8.0, 128.0, 8.0).tolist()),
    "sharpness": tuple(np.arange(1.0, 16.0, 0.5).tolist()),
}
"""What is measured of a picture, as of a channel, and the edges of its histogram: mean and deviation of its grey (0 to
255), and the variance of its Laplacian as a power of two."""


class StreamSeen(Struct, frozen=True):
    """What came of one stream."""

    messages: int = 0
    first_ns: int = 0
    last_ns: int = 0
    gaps: int = 0
    longest_gap_ns: int = 0


class ChannelSeen(Struct, frozen=True):
    """What one channel read, or one measure of a camera's pictures was."""

    readings: int
    missing: int
    """Decisions for which it had no fresh value."""
    low: float
    high: float
    bins: Histogram


class Moment(Struct, frozen=True):
    """One decision."""

    seq: int
    captured_ns: int
    wall_ns: int
    recorded: str
    """What was decided live."""
    label: str
    other: str
    """What the second bundle decides; as `label` where there is none."""
    confidence: float
    margin: float
    """Between the two most probable labels."""
    source: str
    reason: str
    features: dict[str, bytes]
    """What each stage gave that other stages read: float32."""
    fingerprint: Fingerprint


class Sight(Struct, frozen=True):
    """The partial of one recording."""

    bundle: BundleId
    """That decided live, at the beginning."""
    runtime_version: str
    wall_ns: int
    duration_ns: int
    size: int
    cut: bool
    sessions: int
    tally: Tally
    apart: Counts
    streams: dict[str, StreamSeen]
    channels: dict[str, dict[str, ChannelSeen]]
    """Stream to channel."""
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class Sighting:
    """`bundles`: one, or two to say where they disagree."""

    bundles: tuple[Bundle, ...]
    every_ms: float = EVERY_MS
    code: str = ""

    @classmethod
    def of(cls, bundles: tuple[Bundle, ...], every_ms: float = EVERY_MS) -> Sighting:
        """By the code that is installed."""
        return cls(bundles, every_ms, code_digest(("build_engines.fleet.sight",)))

    @property
    def key(self) -> str:
        digests = {str(number): bundle.digest for number, bundle in enumerate(self.bundles)}
        return key_of(["sight", self.every_ms, self.code], digests)

    def open(self) -> Callable[[Path], Sight]:
        pipelines = [Pipelines(bundle) for bundle in self.bundles]
        return lambda path: _sight(path, self.bundles[0].manifest, pipelines, int(self.every_ms * NS_PER_MS))


def _sight(path: Path, manifest: Manifest, pipelines: list[Pipelines], every_ns: int) -> Sight:
    recording = _Watched(path)
    session = recording.session
    looker = _Looker(manifest, session, every_ns)
    first, *second = pipelines
    others = []
    for one in second:
        with closing(replay(recording, one.of, close=False)) as pairs:
            others = [now.label for _, now in pairs]
        one.settle()
    recording.saw = looker.saw
    with closing(outcomes(recording, first.of, close=False)) as found:
        for number, (live, outcome) in enumerate(found):
            looker.decided(live, outcome, others[number] if others else outcome.verdict.label)
    first.settle()
    return Sight(
        session.bundle, session.runtime_version, session.wall_ns, looker.duration_ns, recording.size, recording.cut,
        looker.sessions, looker.counting.tally({}, {}, {}), looker.apart, looker.streams(), looker.channels(),
        tuple(looker.moments),
    )  # fmt: skip


class _Watched(Recording):
    """A recording whose events somebody else sees too."""

    saw: Callable[[Event], None] | None = None

    def events(self) -> Iterator[Event]:
        for event in super().events():
            if self.saw is not None:
                self.saw(event)
            yield event


@dataclass
class _Readings:
    """Of one channel, or one measure."""

    edges: tuple[float, ...]
    count: int = 0
    missing: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    bins: list[int] = field(default_factory=list)

    def add(self, value: float, placed: float) -> None:
        """`placed`: the value as the histogram's edges mean it."""
        self.count += 1
        into(self.bins, bisect_right(self.edges, placed))
        self.low, self.high = min(self.low, value), max(self.high, value)


class _Looker:
    """Looks at one recording. One thread."""

    def __init__(self, manifest: Manifest, session: Session, every_ns: int) -> None:
        self._manifest, self._session, self._every_ns = manifest, session, every_ns
        self.counting = Counting()
        self.moments: list[Moment] = []
        self.apart: Counts = {}
        self.sessions = 0
        self._seen: dict[str, list[int]] = {}
        """Stream to messages, first, last, gaps, longest gap."""
        self._channels: dict[str, dict[str, _Readings]] = {}
        for name, spec in manifest.streams.items():
            if isinstance(spec, SensorStream):
                self._channels[name] = {channel.name: _Readings(SIGMA_EDGES) for channel in spec.channels}
            elif isinstance(spec, CameraStream):
                self._channels[name] = {look: _Readings(edges) for look, edges in LOOKS.items()}
        self._scales = {
            name: {channel.name: (channel.mean, channel.std) for channel in spec.channels}
            for name, spec in streams_of(manifest.streams, SensorStream).items()
        }
        self._inner = inner_stages(manifest)
        self._last_ns = session.captured_ns
        self._kept: Moment | None = None

    @property
    def duration_ns(self) -> int:
        return max(0, self._last_ns - self._session.captured_ns)

    def saw(self, event: Event) -> None:
        """What the recording holds next."""
        if isinstance(event, Session):
            self.sessions += 1
        if isinstance(event, DecisionMessage):
            self._last_ns = max(self._last_ns, event.captured_ns)
        if not isinstance(event, Message):
            return
        self._last_ns = max(self._last_ns, event.captured_ns)
        spec = self._manifest.streams.get(event.stream)
        if spec is None:
            return
        self._count(event, spec)
        if isinstance(event, Sample) and event.stream in self._scales:
            for name, value in event.values.items():
                if name in self._scales[event.stream] and np.isfinite(value):
                    mean, std = self._scales[event.stream][name]
                    self._channels[event.stream][name].add(value, (value - mean) / std)

    def _count(self, event: Message, spec: StreamSpec) -> None:
        seen = self._seen.get(event.stream)
        if seen is None:
            self._seen[event.stream] = [1, event.captured_ns, event.captured_ns, 0, 0]
            return
        pause_ns = event.captured_ns - seen[2]
        seen[0] += 1
        seen[2] = max(seen[2], event.captured_ns)
        seen[3] += pause_ns > GAP_PERIODS * 1e9 / spec.rate_hz
        seen[4] = max(seen[4], pause_ns)

    def decided(self, live: DecisionMessage, outcome: Outcome, other: str) -> None:
        """A recorded decision, what comes out now, and what the second bundle says."""
        now = recorded_answer(msgspec.structs.replace(live, **answer_fields(outcome)))
        self.counting.add(recorded_answer(live), now)
        if now.label != other:
            count(self.apart, f"{now.label} -> {other}")
        self._missing(outcome.aligned, now.taken_ns)
        last = self._kept
        due = last is None or live.captured_ns - last.captured_ns >= self._every_ns
        odd = now.label not in (live.label, other) or (last is not None and last.label != now.label)
        if not (due or odd):
            return
        for name, part in outcome.aligned.slices.items():
            if part.present and isinstance(part.newest, Frame):
                self._measure(name, part.newest)
        chances = sorted(now.probabilities.values(), reverse=True)
        self._kept = Moment(
            live.seq, live.captured_ns, self._session.wall_ns + live.captured_ns - self._session.captured_ns,
            live.label, now.label, other, now.confidence, chances[0] - chances[1] if len(chances) > 1 else 0.0,
            now.source, now.reason or "", self._features(outcome), self._fingerprint(outcome.aligned),
        )  # fmt: skip
        self.moments.append(self._kept)

    def _missing(self, aligned: AlignedSet, now_ns: int) -> None:
        for name in self._scales:
            oldest_ns = now_ns - max_age_ns(self._manifest.streams[name])
            fresh = {
                channel
                for message in aligned.slices[name].messages
                if isinstance(message, Sample) and message.captured_ns >= oldest_ns
                for channel in message.values
            }
            for channel, readings in self._channels[name].items():
                readings.missing += channel not in fresh

    def _measure(self, name: str, frame: Frame) -> None:
        pixels = frame.pixels
        if pixels is None:
            return
        grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2GRAY)
        laplacian = float(cv2.Laplacian(grey, cv2.CV_64F).var())
        measures = {"brightness": grey.mean(), "contrast": grey.std(), "sharpness": np.log2(1 + laplacian)}
        for look, value in measures.items():
            self._channels[name][look].add(float(value), float(value))

    def _features(self, outcome: Outcome) -> dict[str, bytes]:
        given = outcome.inference.outputs
        return {
            name: b"".join(
                np.asarray(value, np.float32).tobytes() for _, value in sorted(given[name].items())
            )
            for name in self._inner
            if name in given
        }  # fmt: skip

    def _fingerprint(self, aligned: AlignedSet) -> Fingerprint:
        """By which moments are nearly the same: see `calibration.near`."""
        hashes, colours, readings, exact = [], b"", b"", []
        for name, part in aligned.slices.items():
            newest = part.newest if part.present else None
            exact.append(f"{name} {newest is not None}")
            if isinstance(newest, Frame) and newest.pixels is not None:
                hashes.append(dhash(newest.pixels))
                colours += mean_colours(newest.pixels)
            elif isinstance(newest, Utterance):
                exact.append(newest.text)
            elif isinstance(newest, Sample):
                readings += self._standardised(name, part.messages).tobytes()
        return Fingerprint("\n".join(exact), tuple(hashes), colours, readings)

    def _standardised(self, name: str, messages: tuple[Message, ...]) -> NDArray[np.float32]:
        """The last reading of each channel, in deviations; those that there are none of at the mean."""
        last: dict[str, float] = {}
        for message in messages:
            assert isinstance(message, Sample)
            last |= message.values
        scales = self._scales[name]
        return np.array(
            [(last.get(channel, mean) - mean) / std for channel, (mean, std) in scales.items()], np.float32
        )  # fmt: skip

    def streams(self) -> dict[str, StreamSeen]:
        return {name: StreamSeen(*self._seen.get(name, ())) for name in self._manifest.streams}

    def channels(self) -> dict[str, dict[str, ChannelSeen]]:
        return {
            stream: {
                name: ChannelSeen(one.count, one.missing, one.low, one.high, tuple(one.bins))
                for name, one in channels.items()
            }
            for stream, channels in self._channels.items()
        }


def inner_stages(manifest: Manifest) -> tuple[str, ...]:
    """Stages that other stages read: what they give are features."""
    read = {source for stage in manifest.stages for source in stage.stages}
    return tuple(stage.name for stage in manifest.stages if stage.name in read)
