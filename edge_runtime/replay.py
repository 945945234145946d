"""Decide a recording again: the same messages in the same order at the same times, through the same pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edge_runtime.align import RULES
from edge_runtime.bundles import PREFIX, bundle_path
from edge_runtime.config import EngineConfig
from edge_runtime.decision_fields import answer_fields
from edge_runtime.errors import UserError
from edge_runtime.machine_kind import MachineKind
from edge_runtime.messages import Detection, Message, Verdict
from edge_runtime.pipeline import Outcome, Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.recording.records import Session
from edge_runtime.streams import StreamSpec, kind_of
from edge_runtime.trusted_path import others_may_write, why_replaceable
from edge_runtime.wire import DecisionMessage, InputState

OTHER_MACHINE = 0.03
"""What another kind of machine may add to a probability, or to any number of a decision, relative to it beyond 1. JPEGs
that are decoded at a reduced scale may come out a level brighter or darker on arm64: 0.0102 was the most in 208
decisions of the built-in town (`make arm64`); other versions of OpenCV, numpy and ONNX Runtime on x86-64 made 5e-7.
"""
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Answer(Struct, frozen=True):
    """The part of a decision that must come out the same, bit for bit, where bundle and engines are the same."""

    seq: int
    captured_ns: int
    """Capture time of the message that called for it."""
    taken_ns: int
    """When the loop took that message up: the time at which ages are taken."""
    label: str
    confidence: float
    probabilities: dict[str, float]
    tags: list[str]
    source: str
    reason: str | None
    inputs: dict[str, InputState]
    values: dict[str, float] | UnsetType = UNSET
    heads: dict[str, Verdict] | UnsetType = UNSET
    detections: tuple[Detection, ...] | UnsetType = UNSET

    def differences(self, other: Answer, tolerance: float = 0.0) -> list[str]:
        """The fields that are not equal. With a `tolerance`, what a model says may differ in its numbers: by so much,
        or by that part of them where they are beyond 1; what it was asked, and its words, may not.
        """
        names = self.__struct_fields__
        if not tolerance:
            return [name for name in names if getattr(self, name) != getattr(other, name)]
        return [name for name in names if not _alike(name, getattr(self, name), getattr(other, name), tolerance)]


def _alike(name: str, one: Any, other: Any, tolerance: float) -> bool:
    if name == "inputs":
        return bool(one == other)
    if name == "reason" and isinstance(one, str) and isinstance(other, str):
        return _NUMBER.sub("#", one) == _NUMBER.sub("#", other)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(one))
    if isinstance(one, Struct) and type(one) is type(other):
        fields = one.__struct_fields__
        return all(_alike(field, getattr(one, field), getattr(other, field), tolerance) for field in fields)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike("", one[key], other[key], tolerance) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(
            _alike("", mine, its, tolerance) for mine, its in zip(one, other, strict=True)
        )
    return bool(one == other)


def tolerance_of(session: Session, here: MachineKind) -> float:
    """How far what a recorded bundle says here may be from what it said there: not at all on the same kind of machine,
    nor where the recording does not tell; else OTHER_MACHINE.
    """
    other = not isinstance(session.machine, UnsetType) and session.machine.differences(here)
    return OTHER_MACHINE if other else 0.0


def taken_ns(decision: DecisionMessage) -> int:
    """When the decision's message was taken up. Exact: dividing whole nanoseconds by 1e6 and multiplying again is off
    by less than half a nanosecond below 2**51 ns.
    """
    return decision.captured_ns + round(decision.latency_ms.queue * 1e6)


def recorded_answer(decision: DecisionMessage) -> Answer:
    """The part of `decision` that must come out the same."""
    return Answer(
        decision.seq, decision.captured_ns, taken_ns(decision), decision.label, decision.confidence,
        decision.probabilities, decision.tags, decision.source, decision.reason, decision.inputs,
        decision.values, decision.heads, decision.detections,
    )  # fmt: skip


def recorded_bundle(session: Session) -> Path:
    """Path of the bundle that the recording names. Its word alone opens nothing: the bundle must have come with the
    installation, or lie where only root and this user can put one. Raises UserError.
    """
    if session.bundle_path.startswith(PREFIX):
        return bundle_path(session.bundle_path)
    path = Path(session.bundle_path)
    try:
        reason = why_replaceable(path)
        if reason is None and others_may_write(path.stat()):
            reason = "other users may write it"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        raise UserError(
            f"the recording names the bundle {session.bundle_path!r:.200}, which is not opened on its word: {reason}; "
            "name the one to decide with: --bundle"
        )
    return path


def recorded_engine(session: Session, cache: Path | None) -> EngineConfig:
    """How the recorded engines ran, built ones kept in `cache`, or in this user's folder: no digest covers those, so
    the recording's word is not enough to load them.
    """
    return msgspec.structs.replace(session.engine, cache=None if cache is None else str(cache))


def replay(
    recording: Recording, open_pipeline: Callable[[Session], Pipeline], close: bool = True
) -> Generator[tuple[DecisionMessage, Answer], None, None]:
    """Every recorded decision, and what is said in its place: see `outcomes`."""
    with closing(outcomes(recording, open_pipeline, close)) as pairs:
        for event, outcome in pairs:
            yield event, recorded_answer(msgspec.structs.replace(event, **answer_fields(outcome)))


def outcomes(
    recording: Recording, open_pipeline: Callable[[Session], Pipeline], close: bool = True
) -> Generator[tuple[DecisionMessage, Outcome], None, None]:
    """Every recorded decision, and what comes out in its place of the pipeline that `open_pipeline` gives for its part.

    A part begins with a Session: at the start, and where a reload took another bundle or other engines. Pipelines are
    closed here, each before the next is opened; not where `close` is False, for whoever decides many recordings with
    one. An engine that failed in the live run need not fail here: such decisions may differ. With another bundle,
    messages of streams or channels that it lacks are left out.
    Raises UserError for a recording of later rules (`align.RULES`) than are known here.
    """
    pipeline: Pipeline | None = None
    decides: tuple[object, ...] = ()
    try:
        for event in recording.events():
            if isinstance(event, Session):
                if pipeline is None or decides != _what_decides(event):
                    if pipeline is not None and close:
                        pipeline.close()
                        pipeline = None
                    pipeline, decides = open_pipeline(event), _what_decides(event)
                if event.rules > RULES:
                    raise UserError(
                        f"recording {recording.path}: was decided by rules {event.rules}; this edge-runtime knows up "
                        f"to {RULES}: replay it with the {event.runtime_version} that made it, or a later one"
                    )
                pipeline.reset(event.rules)
            assert pipeline is not None  # a recording begins with a session
            if isinstance(event, Message):
                message = _fitting(pipeline.streams.get(event.stream), event)
                if message is not None:
                    pipeline.add(message)
            elif isinstance(event, DecisionMessage):
                # What waited for nothing answered no message: a heartbeat.
                heartbeat = event.latency_ms.queue == 0
                outcome = pipeline.decide(event.captured_ns, taken_ns(event), heartbeat=heartbeat)
                for part in outcome.aligned.slices.values():
                    pipeline.settle(part)
                yield event, outcome
    finally:
        if pipeline is not None and close:
            pipeline.close()


def _what_decides(session: Session) -> tuple[object, ...]:
    return session.bundle, session.bundle_path, session.engine, session.zones


def _fitting(spec: StreamSpec | None, message: Message) -> Message | None:
    """`message` as far as the stream can take it: its own kind, the channels it has."""
    if spec is None or not isinstance(message, kind_of(spec).message):
        return None
    try:
        return kind_of(spec).fitted(spec, message)
    except ValueError as error:
        raise UserError(f"recording: a message cannot be read ({error})") from None


def answer_line(answer: Answer) -> bytes:
    """One line of JSON Lines."""
    return msgspec.json.encode(answer) + b"\n"
