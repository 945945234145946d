"""From the model's output to what is said. Pure: a verdict and the next state from the old state and the inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_runtime.bundle import NEGATIVE, DecisionPolicy, Head
from edge_runtime.messages import AlignedSet, Inference, Verdict
from edge_runtime.streams import StreamSpec


class PolicyState(Struct, frozen=True):
    """What hysteresis remembers from one decision to the next."""

    label: str | None = None
    candidate: str | None = None
    wins: int = 0


def blocking_input(streams: dict[str, StreamSpec], aligned: AlignedSet) -> str | None:
    """Why these inputs forbid a decision by the model, or None. E.g. `camera.front missing`."""
    for name, spec in streams.items():
        part = aligned.slices[name]
        if spec.required and not part.present:
            return f"{name} {part.reason}"
        if part.missing_channels:
            return f"{name}.{part.missing_channels[0]} {'stale' if part.present else part.reason}"
    if streams and not any(part.present for part in aligned.slices.values()):
        return "no input"
    return None


def probabilities(head: Head, temperature: float, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the last axis, or the sigmoid of each value, of `logits / temperature`."""
    scaled = logits.astype(np.float64) / temperature
    if head.kind == "sigmoid":
        return 1.0 / (1.0 + np.exp(-scaled))
    shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def model_answer(head: Head, policy: DecisionPolicy, logits: NDArray[np.float32]) -> str:
    """The model's own answer to one moment's `logits` [labels]: without abstention and hysteresis."""
    if head.kind == "sigmoid":
        return _sigmoid(head, policy, probabilities(head, policy.temperature, logits)).label
    return head.labels[int(logits.argmax())]


def finite(logits: NDArray[np.float32]) -> bool:
    """Whether all values are numbers and none is infinite; quick for the few that a head gives."""
    return all(map(math.isfinite, logits.ravel().tolist()))


def safe(policy: DecisionPolicy, reason: str) -> Verdict:
    """The safe decision and its reason."""
    return Verdict(policy.safe_label, 0.0, {}, "safe", reason)


def decide(
    head: Head, policy: DecisionPolicy, state: PolicyState, blocked: str | None, inference: Inference
) -> tuple[Verdict, PolicyState]:
    """What to say, and the state for the next call.

    `blocked` is `blocking_input`'s answer. A missing or non-finite output gives the safe decision, which also
    forgets the hysteresis: after an outage the model's first answer stands on its own.
    """
    if blocked is not None:
        return safe(policy, blocked), PolicyState()
    if inference.output is None:
        return safe(policy, inference.error or "no output"), PolicyState()
    if not finite(inference.output):
        return safe(policy, "output not finite"), PolicyState()
    if head.kind == "softmax":
        return _softmax(head, policy, state, inference.output[0].tolist())
    chances = probabilities(head, policy.temperature, inference.output[0])
    if head.kind == "sigmoid":
        return _sigmoid(head, policy, chances), PolicyState()
    return _tagging(head, chances, inference.words), PolicyState()


def withheld(policy: DecisionPolicy, verdict: Verdict, aligned: AlignedSet) -> Verdict:
    """`verdict`, or the safe decision where the model's label needs a stream that is absent. E.g. `media needs
    sensors: stale`. The probabilities stay, as where it abstains.
    """
    if verdict.source != "model":
        return verdict
    for name in policy.needs.get(verdict.label, ()):
        part = aligned.slices[name]
        if not part.present:
            reason = f"{verdict.label} needs {name}: {part.reason}"
            return Verdict(policy.safe_label, verdict.confidence, verdict.probabilities, "safe", reason)
    return verdict


def _softmax(
    head: Head, policy: DecisionPolicy, state: PolicyState, logits: list[float]
) -> tuple[Verdict, PolicyState]:
    """As `probabilities`, in plain floats: for a handful of labels, NumPy's calls cost several times as much."""
    top = max(logits)
    powers = [math.exp((value - top) / policy.temperature) for value in logits]
    total = sum(powers)
    table = {label: power / total for label, power in zip(head.labels, powers, strict=True)}
    winner = head.labels[logits.index(top)]
    label, state = _hold(policy, state, winner)
    confidence = table[label]
    if confidence < (limit := policy.thresholds.get(label, policy.threshold)):
        reason = f"abstained: {label} {confidence:.2f} < {limit:.2f}"
        return Verdict(policy.safe_label, confidence, table, "safe", reason), state
    return Verdict(label, confidence, table, "model"), state


def _hold(policy: DecisionPolicy, state: PolicyState, winner: str) -> tuple[str, PolicyState]:
    if state.label is None or winner == state.label or winner in policy.immediate:
        return winner, PolicyState(winner)
    wins = state.wins + 1 if winner == state.candidate else 1
    if wins >= policy.hold:
        return winner, PolicyState(winner)
    return state.label, PolicyState(state.label, winner, wins)


def _sigmoid(head: Head, policy: DecisionPolicy, chances: NDArray[np.float64]) -> Verdict:
    table = dict(zip(head.labels, chances.tolist(), strict=True))
    limits = {label: policy.thresholds.get(label, policy.threshold or 0.5) for label in head.labels}
    positive = [label for label in head.labels if table[label] >= limits[label]]
    if not positive:
        return Verdict(NEGATIVE, 1.0 - max(table.values()), table, "model")
    strongest = max(positive, key=lambda label: table[label])
    return Verdict(strongest, table[strongest], table, "model", tags=tuple(positive))


def _tagging(head: Head, chances: NDArray[np.float64], words: int) -> Verdict:
    """`chances` [W, K]: exactly one tag for each of the sentence's `words`, of which the model reads the first W.

    What it does not read is outside (the first label), and the reason says so. The label is the most frequent tag but
    the outside one; the confidence is the mean over the words read of their tag's probability.
    """
    read = chances[:words]
    outside = head.labels[0]
    best = [head.labels[index] for index in read.argmax(axis=-1)]
    tags = iob2([*best, *[outside] * (words - len(best))], outside, frozenset(head.labels))
    named = [tag for tag in tags if tag != outside]
    label = max(sorted(set(named)), key=named.count) if named else outside
    reason = f"only the first {len(best)} of {words} words were read" if len(best) < words else None
    return Verdict(label, float(read.max(axis=-1).mean()) if best else 0.0, {}, "model", reason, tags)


def iob2(tags: Sequence[str], outside: str = "O", known: Collection[str] = ()) -> tuple[str, ...]:
    """`tags` in IOB2: an inside tag that continues no span of its kind begins one (`I-x` becomes `B-x`).

    This also turns IOB1, which writes B- only between touching spans, into IOB2 (Tjong Kim Sang and Veenstra 1999).
    Where `known` is given, a tag is left alone if its beginning form is not among them.
    """
    fixed: list[str] = []
    before = outside
    for tag in tags:
        opens = tag.startswith("I-") and before not in (f"B-{tag[2:]}", tag)
        beginning = f"B-{tag[2:]}"
        fixed.append(beginning if opens and (not known or beginning in known) else tag)
        before = tag
    return tuple(fixed)
