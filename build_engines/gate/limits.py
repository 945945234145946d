"""The gate's limits: what a reduced precision may lose, what FP32 must reach, how near a GPU must come to the oracle.

Pure functions of figures; `judge` takes the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from build_engines.evaluation.evaluate import Evaluation
from build_engines.evaluation.intervals import Interval
from build_engines.evaluation.metrics import Scores
from build_engines.evaluation.tagging import judged_pairs
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

    @classmethod
    def of(cls, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Agreement:
        """Over pairs of tensors of equal shapes; a value that is not finite is infinitely far."""
        absolute, largest = 0.0, 0.0
        for one, other in zip(found, expected, strict=True):
            wide = other.astype(np.float64)
            apart = float(np.abs(one.astype(np.float64) - wide).max(initial=0.0))
            absolute = max(absolute, apart if np.isfinite(apart) else np.inf)
            largest = max(largest, float(np.abs(wide).max(initial=0.0)))
        return cls(absolute, absolute / max(largest, 1e-12))


class Judged(Struct, frozen=True):
    """One plan's standing against FP32: the model alone, and the decisions after the policy."""

    name: str
    plan: dict[str, str]
    bytes: int
    """Of the plan's graphs."""
    macro_f1: Interval
    difference: Interval
    """To FP32, on the same resamples."""
    decisions_macro_f1: float
    classes: dict[str, tuple[float, float, float]]
    """Precision, recall and F1 of the model alone."""
    failures: tuple[str, ...]
    backend: str = "onnxruntime"
    """What computed it, in words where it is a GPU."""
    agreement: dict[str, Agreement] = {}
    """On a GPU: each stage against the oracle, on the same inputs, and `logits`, the whole model's."""

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


def fallen(what: str, before: Scores, after: Scores, gate: GateRecipe) -> list[str]:
    """In words, what `after` lost against `before` beyond the gate's limits; empty = nothing."""
    found = []
    if not after.f1_macro >= gate.macro_f1_ratio * before.f1_macro:
        found.append(
            f"{what}: macro-F1 {before.f1_macro:.4f} -> {after.f1_macro:.4f}, below {gate.macro_f1_ratio:.0%} of FP32"
        )
    for name, one in before.classes.items():
        now = after.classes[name].f1 if name in after.classes else float("nan")
        if one.support and not one.f1 - now <= gate.class_drop:
            found.append(f"{what}: {name}: F1 {one.f1:.4f} -> {now:.4f}, more than {gate.class_drop:.2f} down")
    return found


def too_small_a_gain(size: int, full: int, gate: GateRecipe) -> list[str]:
    """In words, that graphs of `size` bytes save too little of FP32's `full` bytes; empty = they save enough."""
    if size <= (1 - gate.min_gain) * full:
        return []
    return [f"its graphs have {size} bytes, FP32's {full}: not {gate.min_gain:.0%} smaller"]


def disagreements(found: Mapping[str, Agreement], gate: GateRecipe) -> list[str]:
    """In words, which stages' engines, or the whole model's logits, are further from the oracle than allowed."""
    return [
        f"{name if name == LOGITS else f'engine of stage {name}'}: off by {one.relative:.2%} of the largest value "
        f"({one.absolute:.3g}) from ONNX Runtime, at most {gate.agreement:.2%} is allowed"
        for name, one in found.items()
        if not one.relative <= gate.agreement
    ]


def refuse_poor_reference(found: Evaluation, labels: Sequence[str], gate: GateRecipe) -> None:
    """FP32 itself must be worth comparing with: better than always saying the commonest label, and at its floors."""
    truth, _ = judged_pairs(found.predictions)
    commonest = max(truth.count(label) for label in set(truth)) / len(truth)
    swapped = _swapped(found, labels)
    if found.model.accuracy <= commonest:
        raise GateRefused(
            f"evaluate: FP32 itself is right in {found.model.accuracy:.4f} of {len(truth)} moments, always saying the "
            f"commonest label in {commonest:.4f}: check the labels and the scaling of inputs{swapped}"
        )
    if found.scores.accuracy < gate.accuracy or found.scores.f1_macro < gate.macro_f1:
        raise GateRefused(
            f"evaluate: FP32: accuracy {found.scores.accuracy:.4f} (at least {gate.accuracy}), "
            f"macro-F1 {found.scores.f1_macro:.4f} (at least {gate.macro_f1}){swapped}"
        )


def _swapped(found: Evaluation, labels: Sequence[str]) -> str:
    """A hint where exchanging labels one for one would mend most of it."""
    from scipy.optimize import linear_sum_assignment

    table = np.array(found.model.confusion)
    rows, columns = linear_sum_assignment(table, maximize=True)
    names = found.model.confusion_labels
    better = float(table[rows, columns].sum() / table.sum())
    wrong = [(names[c], names[r]) for r, c in zip(rows, columns, strict=True) if r != c and table[r, c]]
    if better < found.model.accuracy + 0.2 or not wrong:
        return ""
    pairs = ", ".join(f"{said!r} where the data says {true!r}" for said, true in wrong[:3])
    return f"; the labels look swapped: it says {pairs} (accuracy {better:.4f} if exchanged)"
