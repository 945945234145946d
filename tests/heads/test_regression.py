"""What a regression head says: in range, a little beyond it, and far beyond it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.decide import decide
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.heads.regression import RegressionHead, Value
from edge_runtime.messages import Inference, Verdict

HEAD = RegressionHead(
    (Value("steer", "rad", -0.5, 0.5, safe=0.0, tolerance=0.1), Value("speed", "m/s", 0.0, 12.0, safe=0.0)), "stage:a:b"
)
SAFE = {"steer": 0.0, "speed": 0.0}


def said(*raw: float, blocked: str | None = None) -> Verdict:
    return decide(HEAD, DecisionPolicy(), PolicyState(), blocked, Inference(np.array([raw], np.float32)))[0]


def test_values_in_range_are_said_as_they_are() -> None:
    verdict = said(0.25, 7.5)
    assert (verdict.label, verdict.source, verdict.reason) == ("values", "model", None)
    assert verdict.values == {"steer": 0.25, "speed": 7.5}
    assert verdict.confidence == 0.0, "nobody's limit on a confidence may pass where none is stated"


def test_a_little_beyond_the_range_is_set_to_its_end_and_said_so() -> None:
    verdict = said(0.5625, 7.5)
    assert (verdict.source, verdict.values) == ("model", {"steer": 0.5, "speed": 7.5})
    assert verdict.reason == "clipped: steer 0.5625 to 0.5 rad"


def test_one_value_further_beyond_makes_all_of_them_safe() -> None:
    verdict = said(0.75, 7.5)
    assert (verdict.label, verdict.source, verdict.values) == ("safe", "safe", SAFE)
    assert verdict.reason == "steer 0.75 rad is outside -0.5 to 0.5"
    assert said(0.25, 12.5).values == SAFE, "without a tolerance the range is the limit"
    assert said(0.25, -0.001).source == "safe"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_and_what_is_blocked_is_safe(bad: float) -> None:
    assert (said(bad, 1.0).values, said(bad, 1.0).reason) == (SAFE, "output not finite")
    assert (said(0.1, 1.0, blocked="camera stale").values) == SAFE


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32))
def test_nothing_outside_the_range_is_ever_said(steer: float, speed: float) -> None:
    values = said(steer, speed).values
    assert isinstance(values, dict)
    assert -0.5 <= values["steer"] <= 0.5 and 0.0 <= values["speed"] <= 12.0


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (Value("speed", "m/s", 0.0, 12.0, safe=13.0), "speed: safe 13 is not within 0 to 12"),
        (Value("speed", "m/s", 12.0, 12.0, safe=12.0), "speed: minimum 12 is not below maximum 12"),
        (Value("speed", "m/s", 0.0, math.inf, safe=0.0), "must be finite"),
        (Value("steer", "m/s", 0.0, 12.0, safe=0.0), "distinct names"),
    ],
)
def test_contradictions_are_named(changed: Value, expected: str) -> None:
    head = RegressionHead((HEAD.values[0], changed), "stage:a:b")
    assert expected in next(head.problems(DecisionPolicy(), {}))
    assert next(RegressionHead((), "stage:a:b").problems(DecisionPolicy(), {})).startswith("head.values must")
    assert list(HEAD.problems(DecisionPolicy(), {})) == []
    assert list(HEAD.ignored(DecisionPolicy("stop"))) == [
        "decision.safe_label is set, which a regression head does not read"
    ]


def test_the_edge_of_the_tolerance_is_within_it_at_both_ends() -> None:
    values = (Value("x", "m", -1.0, 1.0, safe=0.5, tolerance=0.5),)
    head = RegressionHead(values, "stage:a:b")

    def of(raw: float) -> Verdict:
        verdict, state = head.decide(DecisionPolicy(), PolicyState("x"), np.array([raw], np.float32), None)
        assert state == PolicyState()
        return verdict

    assert (of(1.5).values, of(1.5).reason) == ({"x": 1.0}, "clipped: x 1.5 to 1 m")
    assert (of(-1.5).values, of(-1.5).reason) == ({"x": -1.0}, "clipped: x -1.5 to -1 m")
    assert [of(end).reason for end in (-1.0, 1.0)] == [None, None]
    for far in (math.nextafter(1.5, 2) + 1e-6, -1.5 - 1e-6):
        assert (of(far).source, of(far).values, of(far).confidence) == ("safe", {"x": 0.5}, 0.0)
    assert head.safe(DecisionPolicy(), "why") == Verdict("safe", 0.0, {}, "safe", "why", values={"x": 0.5})


def test_every_value_that_was_set_back_is_named() -> None:
    values = (Value("x", "m", 0.0, 1.0, safe=0.0, tolerance=1.0), Value("y", "s", 0.0, 1.0, safe=0.0, tolerance=1.0))
    output = np.array([1.5, -0.5], np.float32)
    verdict, _ = RegressionHead(values, "stage:a:b").decide(DecisionPolicy(), PolicyState(), output, None)
    assert (verdict.reason, verdict.values) == ("clipped: x 1.5 to 1 m, y -0.5 to 0 s", {"x": 1.0, "y": 0.0})


def test_its_shape_and_its_summary_are_its_values() -> None:
    assert (HEAD.kind, HEAD.shape({})) == ("regression", (1, 2))
    assert HEAD.summary == "steer -0.5 to 0.5 rad (safe 0), speed 0 to 12 m/s (safe 0)"
    for end in (0.0, 12.0):
        assert (
            list(
                RegressionHead((Value("speed", "m/s", 0.0, 12.0, safe=end),), "stage:a:b").problems(
                    DecisionPolicy(), {}
                )
            )
            == []
        )
    assert Value("speed", "m/s", 0.0, 12.0, safe=0.0).tolerance == 0.0
