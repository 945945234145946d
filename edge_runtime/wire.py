"""The messages that cross a process border: inputs, decisions, status. `schema` makes JSON Schemas of them.

Inputs are checked here as to form only; `admit` judges their content.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from edge_runtime.messages import Detection, Verdict

SCHEMA = 1
MAX_INPUT_BYTES = 64 << 10
MAX_NAME = 128
"""Characters of a name, a mark or a stamp in an input."""
State = Literal["starting", "ready", "degraded", "stopping", "stopped"]


class InputMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One message to the runtime: sensor values, a sentence, or the header of the bytes that follow it: a camera's JPEG
    (at most 8 MiB), or 16 kHz mono PCM, int16 little-endian (at most 4 s)."""

    schema: Literal[1]
    stream: Annotated[str, Meta(max_length=MAX_NAME)]
    values: dict[Annotated[str, Meta(max_length=MAX_NAME)], float | str | bool | None] | None = None
    """Channel to value, in the channel's unit. A number may come as text, and true and false as 1 and 0; null and words
    ("unavailable") say that there is no value, and cost that channel only."""
    text: str | None = None
    lang: Annotated[str, Meta(max_length=MAX_NAME)] | None = None
    captured_ns: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    """Monotonic nanoseconds (CLOCK_MONOTONIC of this host); without it, arrival counts."""
    captured_wall: Annotated[str, Meta(max_length=MAX_NAME)] | None = None
    """RFC 3339; kept for people, never used for ordering."""
    id: Annotated[str, Meta(max_length=MAX_NAME)] | None = None
    """Comes back in the decision's `inputs`."""


class BundleId(Struct, frozen=True):
    """Which bundle decided."""

    name: str
    version: str
    digest: str


class InputState(Struct, frozen=True, omit_defaults=False):
    """One stream's part in a decision."""

    present: bool
    age_ms: float | None
    seq: int | None
    id: str | None = None
    reason: str | None = None
    """Why it is absent: `missing`, `stale`, `expired`."""


class Latency(Struct, frozen=True):
    """Milliseconds from capture to publish, and its parts."""

    capture_to_publish: float
    queue: float
    """Until the loop took the message up; 0 for a heartbeat, which answers no message."""
    preprocess: float
    infer: dict[str, float]
    """Per stage; 0 = its cached features were still valid."""
    decide: float


class DecisionMessage(Struct, frozen=True):
    """Topic `decision.<name>`: what the runtime decided, from what, and how long it took.

    Schema 2 adds fields that may be missing to schema 1. What every reader of schema 1 knows is all there and means
    the same, so the number in messages stays 1: such readers go on.
    """

    schema: Literal[1]
    name: str
    bundle: BundleId
    seq: int
    """Counts up by one; a gap is a lost message, a repeat is the last value sent again for a new subscriber."""
    captured_ns: int
    published_ns: int
    wall_time: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    tags: list[str]
    source: Literal["model", "safe"]
    reason: str | None
    inputs: dict[str, InputState]
    latency_ms: Latency
    dropped: dict[str, int]
    """Input messages dropped since the decision before, by reason."""
    backend: dict[str, str]
    precision: dict[str, str]
    values: dict[str, float] | UnsetType = UNSET
    """Since schema 2, and of a regression head only: each value by name, in its unit."""
    heads: dict[str, Verdict] | UnsetType = UNSET
    """Since schema 2: what the heads beside the first say, by name. Nothing is meant to act on it."""
    detections: tuple[Detection, ...] | UnsetType = UNSET
    """Since schema 2, and of a detection head only: what was seen, the surest first, at most 64. Empty: it looked and
    saw nothing; missing: it could not look."""


class StreamHealth(Struct, frozen=True):
    """One stream's account: captured = decided + sum(dropped) + in_flight."""

    captured: int
    decided: int
    dropped: dict[str, int]
    in_flight: int
    rate_hz: float
    expected_hz: float
    alive: bool
    """Seen within its maximum age."""
    refused_values: dict[str, int] = {}
    """Single readings of admitted samples that were left out, by reason: null, no number, out of range, no channel."""
    max_age_ms: float | None = None
    """What is older is absent, as the bundle says."""

    @property
    def balanced(self) -> bool:
        """Whether every captured message is accounted for."""
        return self.captured == self.decided + sum(self.dropped.values()) + self.in_flight


class Percentiles(Struct, frozen=True):
    """Milliseconds over `count` decisions."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None
    p999: float | None = None


class Timings(Struct, frozen=True):
    """Where the time of decisions went, by measure: `latency` (capture to publish), `queue`, `preprocess`, `decide`,
    `stage NAME`, `jitter` (differences of neighbouring latencies), `age STREAM` (of the inputs that were present)."""

    since_start: dict[str, Percentiles]
    last_minute: dict[str, Percentiles]
    deadline_ms: float
    """One period of the stream that calls for decisions."""
    deadline_misses: int
    """Decisions whose latency was beyond it."""


class RecordingHealth(Struct, frozen=True):
    """What the recording holds so far."""

    path: str
    messages: int
    """Written, decisions and status included."""
    megabytes: float
    stopped: str | None
    """Why it ended before the run did (disk full, say), if it did."""


class SinkHealth(Struct, frozen=True):
    """How a sink does, and what it was given."""

    state: Literal["open", "retrying", "blocked", "stopped"]
    published: int
    dropped: int
    """Decisions and status that it could not take."""
    failures: int
    reason: str | None
    """Why it is not open, if so."""


class SourceHealth(Struct, frozen=True):
    """How a source does."""

    name: str
    state: str
    """`running`, `ended`, `failed`; of a process also `waiting` (to be started, perhaps again)."""
    reason: str | None
    """Why it does not run as it should, if so."""
    restarts: int | None = None
    """Of a process."""
    exit_code: int | None = None
    """Of a process, how it ended last; -N means signal N."""


class RealtimeHealth(Struct, frozen=True):
    """How the kernel runs the loop, as it says itself."""

    policy: str
    priority: int
    cores: list[int]
    locked_mb: float
    """Memory that is never paged out."""
    busy_poll_ms: float


class ReloadHealth(Struct, frozen=True):
    """What became of the requests to reload."""

    succeeded: int
    refused: int
    opening: bool
    """Whether a new session is being opened beside the running one."""
    reason: str | None
    """Why the last one was refused; None if it was not."""


class StatusMessage(Struct, frozen=True):
    """Topic `status.<name>`: once a second."""

    schema: Literal[1]
    name: str
    bundle: BundleId
    seq: int
    published_ns: int
    wall_time: str
    state: State
    reason: str | None
    uptime_s: float
    decisions: int
    safe_decisions: int
    streams: dict[str, StreamHealth]
    unrouted: dict[str, int]
    """Messages refused before they had a stream, by reason."""
    conserved: bool
    """Whether every stream's account balances."""
    latency_ms: Percentiles
    """Capture to publish, over the last minute."""
    wall_clock_jumps: int
    engine_restarts: int
    memory_mb: float
    temperature_c: float | None
    backend: dict[str, str]
    precision: dict[str, str]
    signed_by: str | None
    recording: RecordingHealth | None = None
    """None where nothing is recorded."""
    reload: ReloadHealth | None = None
    sinks: dict[str, SinkHealth] = {}
    """By number and kind of the configuration's row."""
    sources: list[SourceHealth] = []
    """In the configuration's order."""
    timings: Timings | None = None
    realtime: RealtimeHealth | None = None
    """None where the configuration asks for nothing."""


def decode_input(data: bytes | memoryview) -> InputMessage:
    """Parse one input message of at most 64 KiB. Raises msgspec.DecodeError, whatever the bytes are.

    Numbers that are none or too large for one (NaN and Infinity, which some senders write though JSON has no such
    numbers, and 1e999) are read as what they are: their channel is refused, not the message.
    """
    try:
        return _input_decoder.decode(data)
    except msgspec.DecodeError as error:
        text = bytes(data)
        if b"NaN" not in text and b"Infinity" not in text and "out of range" not in str(error):
            raise
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from None
    try:
        return msgspec.convert(json.loads(text, parse_int=_whole), InputMessage)
    except (ValueError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


_input_decoder = msgspec.json.Decoder(InputMessage)
