"""One label of n."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads.kind import HeadKind
from edge_runtime.heads.labels import label_problems
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step
from edge_runtime.messages import AlignedSet, Verdict
from edge_runtime.streams import StreamSpec


class SoftmaxHead(HeadKind, frozen=True, tag="softmax"):
    """One of `labels`, the most probable; `output` is [1, labels] logits."""

    settings: ClassVar[frozenset[str]] = frozenset(
        {"safe_label", "temperature", "threshold", "thresholds", "needs", "hold", "immediate"}
    )
    exclusive: ClassVar[bool] = True
    labels: tuple[str, ...]
    output: str
    """`stage:<stage>:<output>`"""

    @property
    def summary(self) -> str:
        return ", ".join(self.labels)

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...]:
        return (1, len(self.labels))

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        yield from label_problems(self.labels, policy)
        if policy.safe_label in policy.needs:
            yield f"decision.needs withholds the safe label {policy.safe_label!r}"
        if unknown := sorted(policy.needed_streams - set(streams)):
            yield f"decision.needs names {unknown}, which are no streams"

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        # In plain floats: for a handful of labels, NumPy's calls cost several times as much.
        logits: list[float] = output.tolist()
        top = max(logits)
        powers = [math.exp((value - top) / policy.temperature) for value in logits]
        total = sum(powers)
        table = {label: power / total for label, power in zip(self.labels, powers, strict=True)}
        label, state = held(policy, state, self.labels[logits.index(top)])
        confidence = table[label]
        if confidence < (limit := policy.thresholds.get(label, policy.threshold)):
            reason = f"abstained: {label} {confidence:.2f} < {limit:.2f}"
            return Verdict(policy.safe_label, confidence, table, "safe", reason), state
        verdict = Verdict(label, confidence, table, "model")
        return verdict if inputs is None else withheld(policy, verdict, inputs.aligned), state


def held(policy: DecisionPolicy, state: PolicyState, winner: str) -> tuple[str, PolicyState]:
    """The label after hysteresis, and the state for the next call."""
    if state.label is None or winner == state.label or winner in policy.immediate:
        return winner, PolicyState(winner)
    wins = state.wins + 1 if winner == state.candidate else 1
    if wins >= policy.hold:
        return winner, PolicyState(winner)
    return state.label, PolicyState(state.label, winner, wins)


def withheld(policy: DecisionPolicy, verdict: Verdict, aligned: AlignedSet) -> Verdict:
    """`verdict` (the model's), or the safe decision where its label needs a stream that is absent. E.g. `media needs
    sensors: stale`. The probabilities stay, as where it abstains.
    """
    for name in policy.needs.get(verdict.label, ()):
        part = aligned.slices[name]
        if not part.present:
            reason = f"{verdict.label} needs {name}: {part.reason}"
            return Verdict(policy.safe_label, verdict.confidence, verdict.probabilities, "safe", reason)
    return verdict
