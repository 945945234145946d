"""An outcome as the fields of a decision message."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edge_runtime.messages import Detection, Slice, Verdict
from edge_runtime.pipeline import Outcome, Pipeline
from edge_runtime.wire import BundleId, InputState, Latency


class Times(Struct, frozen=True):
    """Moments of one decision, monotonic nanoseconds."""

    reference_ns: int
    """Capture time of the message that called for the decision (now, for a heartbeat)."""
    taken_ns: int
    decided_ns: int
    published_ns: int


class Prediction(Struct, frozen=True):
    """A decision on given inputs: the fields of `DecisionMessage` that have nothing to do with time."""

    schema: int
    bundle: BundleId
    label: str
    confidence: float
    probabilities: dict[str, float]
    tags: list[str]
    source: str
    reason: str | None
    inputs: dict[str, InputState]
    backend: dict[str, str]
    precision: dict[str, str]
    values: dict[str, float] | UnsetType = UNSET
    heads: dict[str, Verdict] | UnsetType = UNSET
    detections: tuple[Detection, ...] | UnsetType = UNSET


def answer_fields(outcome: Outcome) -> dict[str, Any]:
    """What was decided and on which inputs: these fields of `DecisionMessage`, of `Prediction` and of replay's answer
    have one name and one meaning."""
    verdict = outcome.verdict
    return {
        "label": verdict.label,
        "confidence": verdict.confidence,
        "probabilities": dict(verdict.probabilities),
        "tags": list(verdict.tags),
        "source": verdict.source,
        "reason": verdict.reason,
        "inputs": {name: input_state(part) for name, part in outcome.aligned.slices.items()},
        "values": verdict.values if isinstance(verdict.values, UnsetType) else dict(verdict.values),
        "heads": dict(outcome.side) if outcome.side else UNSET,
        "detections": verdict.detections,
    }


def prediction(pipeline: Pipeline, outcome: Outcome) -> Prediction:
    """What `pipeline.predict` gave, to be printed."""
    manifest = pipeline.bundle.manifest
    return Prediction(
        schema=1,
        bundle=BundleId(manifest.name, manifest.version, pipeline.bundle.digest),
        backend=pipeline.backends,
        precision=pipeline.precisions,
        **answer_fields(outcome),
    )


def input_state(part: Slice) -> InputState:
    """One stream's part in a decision."""
    newest = part.newest
    return InputState(
        present=part.present,
        age_ms=None if part.age_ns is None else part.age_ns / 1e6,
        seq=None if newest is None else newest.seq,
        id=None if newest is None else newest.id,
        reason=part.reason,
    )


def latency(times: Times, outcome: Outcome) -> Latency:
    """How long each part took, in milliseconds."""
    inference = outcome.inference
    infer_ns = sum(inference.stage_ns.values())
    return Latency(
        capture_to_publish=(times.published_ns - times.reference_ns) / 1e6,
        queue=(times.taken_ns - times.reference_ns) / 1e6,
        preprocess=inference.preprocess_ns / 1e6,
        infer={stage: spent_ns / 1e6 for stage, spent_ns in inference.stage_ns.items()},
        decide=(times.decided_ns - times.taken_ns - inference.preprocess_ns - infer_ns) / 1e6,
    )
