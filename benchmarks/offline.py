"""Recordings without a runtime, faster than real time: messages through a bundle's pipeline at the times that they
carry, recorded with what was decided."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from edge_runtime.bundle import Bundle
from edge_runtime.clock import RealClock
from edge_runtime.config import Config, RecordingSink
from edge_runtime.decision_fields import answer_fields
from edge_runtime.messages import Message
from edge_runtime.pipeline import Pipeline
from edge_runtime.publish import SINKS
from edge_runtime.publish.sink import Records, published
from edge_runtime.wire import BundleId, DecisionMessage, Latency

QUEUE_NS = 1_000_000
"""The loop takes a message up so long after its capture."""
WALL_NS = 1_760_000_000_000_000_000
"""Wall time at monotonic 0."""


class _At(RealClock):
    """Stands at one moment."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def wall_ns(self) -> int:
        return WALL_NS + self._now_ns


def record(path: Path, pipeline: Pipeline, start_ns: int, messages: Iterable[Message]) -> int:
    """Write a recording that begins at `start_ns` (monotonic) into a fresh file; how many decisions there were.
    `messages` come in order of capture, the trigger's last of those of one time."""
    bundle = pipeline.bundle
    settings = RecordingSink(str(path))
    recorder, written = SINKS[RecordingSink].make(settings, _At(start_ns)), 1
    assert isinstance(recorder, Records)
    recorder.session(_config(bundle), _identity(bundle), bundle.manifest.streams)
    pipeline.reset()
    decisions = 0
    for message in messages:
        pipeline.add(message)
        recorder.message(message)
        written += 1
        if message.stream == bundle.manifest.trigger:
            recorder.publish(published(_decide(pipeline, decisions, message.captured_ns)))
            decisions, written = decisions + 1, written + 1
            recorder.serve()
    recorder.serve()
    while recorder.recording().messages < written and recorder.stopped is None:
        time.sleep(0.001)  # of its thread; closing waits for a second only
    recorder.close()
    assert recorder.stopped is None, recorder.stopped
    return decisions


def _config(bundle: Bundle) -> Config:
    return Config(name="fleet", bundle=str(bundle.path), source=())


def _identity(bundle: Bundle) -> BundleId:
    return BundleId(bundle.manifest.name, bundle.manifest.version, bundle.digest)


def _decide(pipeline: Pipeline, seq: int, at_ns: int) -> DecisionMessage:
    outcome = pipeline.decide(at_ns, at_ns + QUEUE_NS)
    for part in outcome.aligned.slices.values():
        pipeline.settle(part)
    latency = Latency(2 * QUEUE_NS / 1e6, QUEUE_NS / 1e6, 0.0, dict.fromkeys(outcome.inference.stage_ns, 0.0), 0.0)
    return DecisionMessage(
        schema=1, name="fleet", bundle=_identity(pipeline.bundle), seq=seq, captured_ns=at_ns,
        published_ns=at_ns + 2 * QUEUE_NS, wall_time="", latency_ms=latency, dropped={}, backend=pipeline.backends,
        precision=pipeline.precisions, **answer_fields(outcome),
    )  # fmt: skip
