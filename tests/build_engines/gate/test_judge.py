"""How a plan that loses too much gives precision back, by a table made by hand; and what is said where it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from build_engines.gate import judge as gate
from build_engines.gate.limits import Judged
from build_engines.gate.on_tensorrt import Gpu
from build_engines.heads.intervals import Interval
from build_engines.quantisation.sensitivity import Sensitivity, SensitivityRow, StageChoice

SURE = Interval(0.9, 0.8, 1.0)
FILES = {
    "vision": {"fp32": "v32", "fp16": "v16", "int8": "v8"},
    "text": {"fp32": "t32", "int8": "t8"},
    "fusion": {"fp32": "f32", "fp16": "f16"},
}
MANIFEST: Any = SimpleNamespace(stages=[SimpleNamespace(name=name, files=files) for name, files in FILES.items()])


def row(stage: str, precision: str, loss: float, error: float = 0.0) -> SensitivityRow:
    return SensitivityRow(stage, "(whole stage)", precision, 0.9 - loss, loss, error, 1)


ROWS = (
    row("vision", "int8 minmax", 0.05, 0.2),
    row("vision", "int8 mse", 0.03),
    row("vision", "fp16", 0.001),
    row("text", "int8 minmax", 0.04, 0.3),
    row("fusion", "fp16", 0.001, 0.01),
)
PLAN = {"vision": "int8", "text": "int8", "fusion": "fp16"}


def evidence(plan: dict[str, str]) -> Sensitivity:
    return Sensitivity(8, 0.9, {name: StageChoice(precision) for name, precision in plan.items()}, ROWS, ())


class Passing:
    """Judges that a plan passes if it is among those; keeps what was asked."""

    def __init__(self, *passing: dict[str, str]) -> None:
        self.passing = passing
        self.asked: list[dict[str, str]] = []

    def add(self, name: str, plan: dict[str, str]) -> Judged:
        self.asked.append(dict(plan))
        failures = () if plan in self.passing else ("macro-F1 fell",)
        return Judged(name, dict(plan), 1, SURE, SURE, 0.9, {}, failures=failures)


def settle(judge: Passing, fallback: bool = True) -> tuple[dict[str, str], Judged, list[str]]:
    build: Any = SimpleNamespace(recipe=SimpleNamespace(gate=SimpleNamespace(fallback=fallback)))
    notes: list[str] = []
    plan, chosen = gate._settle(build, judge, MANIFEST, evidence(PLAN), notes)  # type: ignore[arg-type]
    return plan, chosen, notes


def test_a_plan_that_passes_is_the_one() -> None:
    plan, chosen, notes = settle(Passing(PLAN))
    assert (plan, chosen.passed, chosen.name, notes) == (PLAN, True, "plan", [])


def test_the_stage_that_costs_most_gives_its_precision_back_step_by_step() -> None:
    steps = [
        PLAN,
        PLAN | {"vision": "fp16"},
        PLAN | {"vision": "fp16", "text": "fp32"},  # there is no FP16 of it
    ]
    judge = Passing(steps[-1])
    plan, chosen, notes = settle(judge)
    assert (plan, chosen.passed, judge.asked) == (steps[-1], True, steps)
    assert notes == [
        "gate: macro-F1 fell; vision falls back to fp16",
        "gate: macro-F1 fell; text falls back to fp32",
    ]


def test_it_ends_where_nothing_is_reduced_any_more_or_nothing_may_be_given_back() -> None:
    plan, chosen, notes = settle(Passing())
    assert (set(plan.values()), chosen.passed) == ({"fp32"}, False)
    assert len(notes) == 4, "vision twice, text and fusion once"
    plan, chosen, notes = settle(Passing(), fallback=False)
    assert (plan, chosen.passed, notes) == (PLAN, False, [])


def test_what_costs_most_is_named_with_what_to_do() -> None:
    assert gate._blame(evidence(PLAN), PLAN) == (
        "\n  vision in int8 costs most: 0.0500 of the figure by itself, logits 20.0% off; "
        "take it out of quantise.stages, or let gate.fallback give its precision back"
    )
    assert "text in int8 costs most" in gate._blame(evidence(PLAN), PLAN | {"vision": "fp16"})
    assert gate._blame(evidence(PLAN), dict.fromkeys(PLAN, "fp32")) == ""
    assert gate._costliest(evidence(PLAN), {"fusion": "fp16", "vision": "fp16", "text": "fp32"}) == "fusion"
    assert gate._cost(evidence(PLAN), "nowhere", "int8") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("wanted", "stage", "given"),
    [("int8", "vision", "int8"), ("int8", "fusion", "fp16"), ("fp16", "text", "fp32"), ("fp16", "vision", "fp16")],
)
def test_a_whole_precision_takes_of_each_stage_what_is_nearest(wanted: str, stage: str, given: str) -> None:
    assert gate._nearest(wanted, FILES[stage]) == given


def test_where_it_was_judged_is_said() -> None:
    gpu = Gpu(description="tensorrt on X")
    assert gate._judged_on(Gpu(reason="no driver"), True) == "judged on ONNX Runtime (CPU) only: no driver"
    assert gate._judged_on(gpu, True) == "judged on ONNX Runtime (CPU) and on tensorrt on X"
    assert gate._judged_on(gpu, False).endswith("refused there, so not tried on tensorrt on X")
