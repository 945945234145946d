"""The gate's limits: what a reduced precision may lose, what FP32 must reach, how near a GPU must come to the oracle.

Pure functions of figures; `judge` takes the figures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from build_engines.evaluation.evaluate import Evaluation
from build_engines.heads.intervals import Interval
from build_engines.heads.kind import HeadScores
from build_engines.heads.labelled import LabelPairs
from build_engines.recipe import GateRecipe
from edge_runtime.errors import GateRefused
from edge_runtime.messages import Tensor

VERDICT = "report/verdict.json"
LOGITS = "logits"
"""The whole model's output, beside stages' names."""


class Agreement(Struct, frozen=True):
    """How far one computation's values are from another's."""

    absolute: float
    """Largest difference."""
    relative: float
    """The same over the largest absolute value expected."""
    values: int
    """So many were compared; of none nothing is known."""

    @classmethod
    def of(cls, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Agreement:
        """Over pairs of tensors of equal shapes; a value that is not finite is infinitely far."""
        absolute, largest, values = 0.0, 0.0, 0
        for one, other in zip(found, expected, strict=True):
            wide = other.astype(np.float64)
            apart = float(np.abs(one.astype(np.float64) - wide).max(initial=0.0))
            absolute = max(absolute, apart if np.isfinite(apart) else np.inf)
            largest = max(largest, float(np.abs(wide).max(initial=0.0)))
            values += wide.size
        return cls(absolute, absolute / max(largest, 1e-12), values)


class Judged(Struct, frozen=True):
    """One plan's standing against FP32: the model alone, and the decisions after the policy."""

    name: str
    plan: dict[str, str]
    bytes: int
    """Of the plan's graphs."""
    figure: Interval
    """Of the first head: macro-F1, or what its kind is judged by."""
    difference: Interval
    """To FP32, on the same resamples."""
    decisions_figure: float
    parts: dict[str, Interval]
    """Each label's F1, or each value's mean absolute error, of the model alone; `head.part` of side heads."""
    failures: tuple[str, ...]
    backend: str = "onnxruntime"
    """What computed it, in words where it is a GPU."""
    agreement: dict[str, Agreement] = {}
    """On a GPU: each stage against the oracle, on the same inputs, and `logits`, the whole model's."""
    figure_name: str = "macro-F1"
    part_figure: str = "F1"
    """What the figure, and a part's own, are called."""

    @property
    def passed(self) -> bool:
        return not self.failures


class Verdict(Struct, frozen=True):
    """`verdict.json`."""

    passed: bool
    bundle_digest: str
    """Of the candidate bundle's manifest; empty where it was refused."""
    chosen: str
    judged: tuple[Judged, ...]
    notes: tuple[str, ...]


def fallen(what: str, before: HeadScores, after: HeadScores, gate: GateRecipe) -> list[str]:
    """In words, what `after` lost against `before` beyond the gate's limits; empty = nothing."""
    return [f"{what}: {line}" for line in before.lost(after, gate)]


def too_small_a_gain(size: int, full: int, gate: GateRecipe) -> list[str]:
    """In words, that graphs of `size` bytes save too little of FP32's `full` bytes; empty = they save enough."""
    if size <= (1 - gate.min_gain) * full:
        return []
    return [f"its graphs have {size} bytes, FP32's {full}: not {gate.min_gain:.0%} smaller"]


def without_evidence(plan: Mapping[str, str], ran: Collection[str]) -> list[str]:
    """In words, which stages `plan` (stage to precision) reduces though none of the moments that are judged made them
    run; `ran` names those that did."""
    return [
        f"{name} in {precision}: no moment that is evaluated feeds it, so nothing tells what it loses"
        for name, precision in plan.items()
        if precision != "fp32" and name not in ran
    ]


def disagreements(found: Mapping[str, Agreement], stages: Iterable[str], gate: GateRecipe) -> list[str]:
    """In words, which engines of `stages`, or the whole model's logits, were not compared with the oracle at all, or
    are further from it than allowed."""
    said = []
    for name in (*stages, LOGITS):
        what = name if name == LOGITS else f"engine of stage {name}"
        one = found.get(name)
        if one is None or not one.values:
            said.append(f"{what}: compared with ONNX Runtime on no samples; evaluate moments that feed it")
        elif not one.relative <= gate.agreement:
            said.append(
                f"{what}: off by {one.relative:.2%} of the largest value ({one.absolute:.3g}) from ONNX Runtime, at "
                f"most {gate.agreement:.2%} is allowed"
            )
    return said


def refuse_poor_reference(found: Evaluation, gate: GateRecipe) -> None:
    """FP32 itself must be worth comparing with: better than always saying the same, and at its floors. So must every
    head beside the first be, but for the floors."""
    for name, answer in found.everything.items():
        if (problem := answer.pairs(model=True).poor()) is not None:
            raise GateRefused(f"evaluate: FP32 itself{f' ({name})' if name else ''} {problem}")
    if (problem := found.scores.below(gate)) is not None:
        own = found.pairs(model=True)
        raise GateRefused(f"evaluate: FP32: {problem}{own.swapped() if isinstance(own, LabelPairs) else ''}")
