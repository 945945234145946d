"""Independent labels: any number of them, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.heads.kind import HeadKind
from edge_runtime.heads.labels import label_problems, sigmoid
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step
from edge_runtime.messages import Verdict
from edge_runtime.streams import StreamSpec

NEGATIVE = "none"
"""What a sigmoid head says when no label reaches its threshold."""
UNDECIDED = "undecided"
"""A safe label for a sigmoid head, whose `none` is a finding and no way to say nothing."""


class SigmoidHead(HeadKind, frozen=True, tag="sigmoid"):
    """Every one of `labels` that reaches its threshold (0.5 where none is set), as tags; the label is the strongest.
    `output` is [1, labels] logits.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"safe_label", "temperature", "threshold", "thresholds"})
    labels: tuple[str, ...]
    output: str
    """`stage:<stage>:<output>`"""

    @property
    def summary(self) -> str:
        return ", ".join((*self.labels, NEGATIVE))

    def limits(self, policy: DecisionPolicy) -> dict[str, float]:
        """Label to the probability from which it is said."""
        return {label: policy.thresholds.get(label, policy.threshold or 0.5) for label in self.labels}

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...]:
        return (1, len(self.labels))

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        if NEGATIVE in self.labels:
            yield f"head.labels holds {NEGATIVE!r}, which a sigmoid head says when it finds no label"
        yield from label_problems(self.labels, policy, (*self.labels, NEGATIVE, UNDECIDED))

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        chances = sigmoid(output, policy.temperature)
        table = dict(zip(self.labels, chances.tolist(), strict=True))
        limits = self.limits(policy)
        positive = [label for label in self.labels if table[label] >= limits[label]]
        if not positive:
            return Verdict(NEGATIVE, 1.0 - max(table.values()), table, "model"), PolicyState()
        strongest = max(positive, key=lambda label: table[label])
        return Verdict(strongest, table[strongest], table, "model", tags=tuple(positive)), PolicyState()
