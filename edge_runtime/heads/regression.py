"""Named values, each with its unit, its range and a safe value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from edge_runtime.heads.kind import HeadKind
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step
from edge_runtime.messages import Verdict
from edge_runtime.streams import StreamSpec

VALUES, SAFE = "values", "safe"
"""The `label` of a decision whose answer is in its `values`: the model's, and the safe one."""


class Value(Struct, frozen=True, forbid_unknown_fields=True):
    """One value that a regression head gives, all numbers in its unit."""

    name: str
    """Under which it stands in the decision."""
    unit: str
    """For people, e.g. `m/s`."""
    minimum: float
    """The smallest that is said; below it by more than `tolerance`, the decision is the safe one."""
    maximum: float
    """The largest that is said, likewise."""
    safe: float
    """What is said where the model may not answer."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """How far beyond the range the model may come: so far the value is set to the range's end, and the reason says so;
    further, and nothing of the output is believed."""


class RegressionHead(HeadKind, frozen=True, tag="regression"):
    """`values`, in the order of `output` [1, values], which is in their units.

    They are said together or not at all: an output of which one value cannot be believed gives every safe value. The
    decision's `label` is `values` or `safe`; a confidence is not stated (0), so that nobody's limit on it passes.
    """

    values: tuple[Value, ...]
    output: str
    """`stage:<stage>:<output>`"""

    @property
    def summary(self) -> str:
        return ", ".join(
            f"{value.name} {value.minimum:g} to {value.maximum:g} {value.unit} (safe {value.safe:g})"
            for value in self.values
        )

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...]:
        return (1, len(self.values))

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        names = [value.name for value in self.values]
        if len(set(names)) != len(names) or not names:
            yield f"head.values must have distinct names and be at least one, got {names}"
        for spec in self.values:
            if not all(map(math.isfinite, (spec.minimum, spec.maximum, spec.safe, spec.tolerance))):
                yield f"head.values: {spec.name}: minimum, maximum, safe and tolerance must be finite"
            elif spec.minimum >= spec.maximum:
                yield f"head.values: {spec.name}: minimum {spec.minimum:g} is not below maximum {spec.maximum:g}"
            elif not spec.minimum <= spec.safe <= spec.maximum:
                yield f"head.values: {spec.name}: safe {spec.safe:g} is not within {spec.minimum:g} to {spec.maximum:g}"

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        values: dict[str, float] = {}
        set_back: list[str] = []
        for spec, raw in zip(self.values, output.tolist(), strict=True):
            beyond = max(spec.minimum - raw, raw - spec.maximum)
            if beyond > spec.tolerance:
                reason = f"{spec.name} {raw:.4g} {spec.unit} is outside {spec.minimum:g} to {spec.maximum:g}"
                return self.safe(policy, reason), PolicyState()
            values[spec.name] = min(max(raw, spec.minimum), spec.maximum)
            if beyond > 0:
                set_back.append(f"{spec.name} {raw:.4g} to {values[spec.name]:g} {spec.unit}")
        clipped = f"clipped: {', '.join(set_back)}" if set_back else None
        return Verdict(VALUES, 0.0, {}, "model", clipped, values=values), PolicyState()

    def safe(self, policy: DecisionPolicy, reason: str) -> Verdict:
        """The values' safe ones."""
        return Verdict(SAFE, 0.0, {}, "safe", reason, values={value.name: value.safe for value in self.values})
