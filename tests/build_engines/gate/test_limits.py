"""The gate's limits by hand-made figures: no model, no data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from build_engines.evaluation.evaluate import Evaluation
from build_engines.gate.limits import (
    LOGITS,
    Agreement,
    Judged,
    disagreements,
    fallen,
    refuse_poor_reference,
    too_small_a_gain,
    without_evidence,
)
from build_engines.heads.intervals import Interval
from build_engines.heads.metrics import Scores, score
from build_engines.heads.prediction import Prediction
from build_engines.recipe import GateRecipe
from edge_runtime.errors import GateRefused
from edge_runtime.heads.softmax import SoftmaxHead

GOOD = Agreement(0.0, 0.0, 1)


def of(found: list[float], expected: list[float]) -> Agreement:
    return Agreement.of([np.array(found, np.float32)], [np.array(expected, np.float32)])


def test_agreement_is_the_largest_difference_and_its_share_of_the_largest_value() -> None:
    assert of([1, 2, -3.5], [1, 2, -4]) == Agreement(0.5, 0.125, 3)
    assert of([1, 2], [1, 2]) == Agreement(0, 0, 2)
    far, near = np.array([1.0, 9.0]), np.array([1.0, 10.0])
    assert Agreement.of([near, far], [near, near]) == Agreement.of([far, near], [near, near]) == Agreement(1.0, 0.1, 4)


def test_halves_are_compared_in_full() -> None:
    found, expected = np.array([65504], np.float16), np.array([-65504], np.float16)
    assert Agreement.of([found], [expected]).absolute == 131008


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_infinitely_far(value: float) -> None:
    assert of([1, value], [1, 2]).absolute == np.inf
    said = disagreements({"vision": of([1, value], [1, 2]), LOGITS: GOOD}, ["vision"], GateRecipe())
    assert len(said) == 1 and said[0].startswith("engine of stage vision: off by inf")


def test_values_that_are_all_zero_agree_with_themselves_and_with_nothing_else() -> None:
    assert of([0, 0], [0, 0]) == Agreement(0, 0, 2)
    assert len(disagreements({"vision": of([1e-9, 0], [0, 0]), LOGITS: GOOD}, ["vision"], GateRecipe())) == 1
    assert of([0.25], [0.5]) == Agreement(0.25, 0.5, 1)  # values below 1 are measured by their own size


def test_a_plan_passes_if_and_only_if_nothing_is_said_against_it() -> None:
    interval = Interval(0.9, 0.8, 1.0)
    good = Judged("plan", {}, 1, interval, interval, 0.9, {}, failures=())
    assert good.passed is True
    assert structs.replace(good, failures=("too large",)).passed is False


def test_other_lists_of_tensors_are_not_compared() -> None:
    with pytest.raises(ValueError):
        Agreement.of([np.zeros(1)], [])


def test_agreement_on_no_samples_is_none_and_is_refused_in_one_line() -> None:
    nothing = Agreement.of([], [])
    assert nothing == Agreement.of([np.zeros((0, 4))], [np.zeros((0, 4))]) == Agreement(0, 0, 0)
    line = "compared with ONNX Runtime on no samples; evaluate moments that feed it"
    found = {"vision": GOOD, "text": nothing, LOGITS: GOOD}
    assert disagreements(found, ["vision", "text"], GateRecipe()) == [f"engine of stage text: {line}"]
    found = {"vision": GOOD, LOGITS: nothing}
    assert disagreements(found, ["vision"], GateRecipe()) == [f"logits: {line}"]


def test_a_stage_that_was_not_compared_at_all_does_not_agree() -> None:
    assert [line.partition(":")[0] for line in disagreements({"vision": GOOD}, ["vision", "text"], GateRecipe())] == [
        "engine of stage text",
        "logits",
    ]
    assert disagreements({"vision": GOOD, LOGITS: GOOD}, ["vision"], GateRecipe()) == []


def test_a_stage_that_no_moment_made_run_may_not_be_reduced() -> None:
    plan = {"vision": "int8", "text": "fp16", "sensors": "fp32"}
    assert without_evidence(plan, {"vision", "text", "total"}) == []
    assert without_evidence(plan, {"vision", "total"}) == [
        "text in fp16: no moment that is evaluated feeds it, so nothing tells what it loses"
    ]
    assert [line.partition(" ")[0] for line in without_evidence(plan, ())] == ["vision", "text"]


def test_only_what_is_beyond_the_limit_disagrees_and_is_named() -> None:
    gate = GateRecipe(agreement=0.01)
    found = {"vision": Agreement(0.5, 0.01, 1), "text": Agreement(0.5, 0.0101, 1), LOGITS: Agreement(2, 0.5, 1)}
    text, logits = disagreements(found, ["vision", "text"], gate)
    assert text == (
        "engine of stage text: off by 1.01% of the largest value (0.5) from ONNX Runtime, at most 1.00% is allowed"
    )
    assert logits.startswith("logits: off by 50.00% of the largest value (2)")
    assert len(disagreements({"vision": Agreement(np.nan, np.nan, 1), LOGITS: GOOD}, ["vision"], gate)) == 1


@pytest.mark.parametrize(("size", "small_enough"), [(0, True), (749, True), (750, True), (751, False), (1001, False)])
def test_graphs_must_save_their_share_to_the_byte(size: int, small_enough: bool) -> None:
    said = too_small_a_gain(size, 1000, GateRecipe(min_gain=0.25))
    if small_enough:
        assert said == []
    else:
        assert said == [f"its graphs have {size} bytes, FP32's 1000: not 25% smaller"]


LABELS = ("stop", "go")


def scores(stop_right: int, go_right: int, of: int = 100) -> Scores:
    """Of as many moments of each label, so many right."""
    said = ["stop"] * stop_right + ["go"] * (of - stop_right) + ["go"] * go_right + ["stop"] * (of - go_right)
    return score(["stop"] * of + ["go"] * of, said, LABELS)


def test_nothing_has_fallen_against_itself_or_something_worse() -> None:
    for gate in (GateRecipe(), GateRecipe(macro_f1_ratio=1.0, class_drop=0.0)):
        assert fallen("plan", scores(90, 80), scores(90, 80), gate) == []
        assert fallen("plan", scores(90, 80), scores(95, 85), gate) == []


def test_macro_f1_may_fall_to_its_ratio_and_no_further() -> None:
    before, after = scores(100, 100), scores(99, 99)  # macro-F1 1 and 0.99
    assert after.f1_macro == pytest.approx(0.99)
    assert fallen("plan", before, after, GateRecipe(macro_f1_ratio=0.99 - 1e-9)) == []
    (line,) = fallen("plan", before, after, GateRecipe(macro_f1_ratio=0.991))
    assert line == "plan: macro-F1 1.0000 -> 0.9900, below 99% of FP32"


def test_every_label_may_fall_by_its_drop_and_no_further() -> None:
    before, after = scores(100, 100), scores(98, 98)
    loose = GateRecipe(macro_f1_ratio=0.5, class_drop=0.02 + 1e-9)
    assert fallen("plan", before, after, loose) == []
    found = fallen("plan", before, after, GateRecipe(macro_f1_ratio=0.5, class_drop=0.019))
    assert found == [f"plan: {label}: F1 1.0000 -> 0.9800, more than 0.02 down" for label in LABELS]


def test_a_label_that_is_not_said_any_more_has_fallen_and_one_that_never_was_has_not() -> None:
    gate = GateRecipe(macro_f1_ratio=0.1)
    without = ["stop"] * 4 + ["other"]
    gone = score(without, without, LABELS)  # `go` occurs no more: there is no F1 of it to compare
    assert any("go: F1" in line and "nan" in line for line in fallen("plan", scores(90, 90), gone, gate))
    never = score(["stop"] * 4, ["stop"] * 3 + ["go"], LABELS)  # `go` was said, and never right
    assert not any("go" in line for line in fallen("plan", never, gone, gate))


def evaluation(truth: list[str], said: list[str], decided: list[str] | None = None) -> Evaluation:
    """Of a softmax head whose model says `said`, and whose policy says `decided`."""
    predictions = [
        Prediction(
            id=str(number), group=str(number), truth=right, label=last, confidence=0.9, source="model", reason=None,
            probabilities={label: 0.9 if label == answer else 0.1 for label in LABELS},
        )
        for number, (right, answer, last) in enumerate(zip(truth, said, decided or said, strict=True))
    ]  # fmt: skip
    return Evaluation.of(SoftmaxHead(LABELS, "stage:fusion:logits"), predictions, Counter(), {}, {})


HALF = ["stop"] * 6 + ["go"] * 4


def test_a_reference_no_better_than_always_the_same_is_refused() -> None:
    refuse_poor_reference(evaluation(HALF, HALF), GateRecipe())
    with pytest.raises(GateRefused, match=r"FP32 itself is right in 0.6000 of 10 moments.*commonest label in 0.6000"):
        refuse_poor_reference(evaluation(HALF, ["stop"] * 10), GateRecipe())
    refuse_poor_reference(evaluation(HALF, ["stop"] * 9 + ["go"]), GateRecipe())


def test_a_reference_with_exchanged_labels_is_told_so() -> None:
    swapped = ["go" if label == "stop" else "stop" for label in HALF]
    with pytest.raises(GateRefused, match="the labels look swapped: it says 'go' where the data says 'stop'"):
        refuse_poor_reference(evaluation(HALF, swapped), GateRecipe())


def test_the_floors_are_for_the_decisions_and_a_head_beside_the_first_has_none() -> None:
    decided = [*HALF[:-1], "stop"]  # 9 of 10 right
    refuse_poor_reference(evaluation(HALF, HALF, decided), GateRecipe(accuracy=0.9))
    with pytest.raises(GateRefused, match=r"FP32: accuracy 0.9000 \(at least 0.95\)"):
        refuse_poor_reference(evaluation(HALF, HALF, decided), GateRecipe(accuracy=0.95))
    with pytest.raises(GateRefused, match=r"macro-F1 0.8901 \(at least 0.95\)"):
        refuse_poor_reference(evaluation(HALF, HALF, decided), GateRecipe(macro_f1=0.95))
    beside = {"side": evaluation(HALF, HALF, decided)}
    refuse_poor_reference(replace(evaluation(HALF, HALF), side=beside), GateRecipe(accuracy=0.95))
    beside = {"side": evaluation(HALF, ["stop"] * 10)}
    with pytest.raises(GateRefused, match=r"FP32 itself \(side\) is right in 0.6000"):
        refuse_poor_reference(replace(evaluation(HALF, HALF), side=beside), GateRecipe())


def test_it_is_the_model_itself_that_must_know_more_not_its_policy() -> None:
    with pytest.raises(GateRefused, match="FP32 itself is right in 0.6000"):
        refuse_poor_reference(evaluation(HALF, ["stop"] * 10, HALF), GateRecipe())
    refuse_poor_reference(evaluation(HALF, HALF, ["stop"] * 10), GateRecipe(accuracy=0.6, macro_f1=0.0))
    swapped = ["go" if label == "stop" else "stop" for label in HALF]
    with pytest.raises(GateRefused, match="accuracy 0.0000") as caught:  # the policy's mistake, not the model's
        refuse_poor_reference(evaluation(HALF, HALF, swapped), GateRecipe(accuracy=0.9))
    assert "swapped" not in str(caught.value)
