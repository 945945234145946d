"""Calibration, risk and coverage: worked examples, and what holds for any answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engines.evaluation.confidence import calibration, risk_coverage
from build_engines.heads import one_label_build
from edge_runtime.heads.labels import sigmoid, softmax
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead

answers = st.lists(st.tuples(st.booleans(), st.floats(0, 1, allow_subnormal=False)), min_size=1, max_size=60)


def test_calibration_error_of_a_worked_example() -> None:
    right = np.array([True, True, False, True])
    confidence = np.array([0.95, 0.95, 0.95, 0.5])
    found = calibration(right, confidence)
    # Three of four lie in one bin: |2/3 - 0.95|; one lies in another: |1 - 0.5|.
    assert found.ece == pytest.approx(0.75 * abs(2 / 3 - 0.95) + 0.25 * 0.5)
    assert found.brier == pytest.approx((2 * 0.05**2 + 0.95**2 + 0.5**2) / 4)
    assert sum(one.count for one in found.bins) == 4


@given(answers)
@settings(max_examples=60)
def test_calibration_stays_in_bounds(given_answers: list[tuple[bool, float]]) -> None:
    right = np.array([one for one, _ in given_answers])
    confidence = np.array([one for _, one in given_answers])
    found = calibration(right, confidence)
    assert 0 <= found.ece <= 1 and 0 <= found.brier <= 1
    assert sum(one.count for one in found.bins) == len(given_answers)


@given(answers)
@settings(max_examples=60)
def test_coverage_rises_to_all_and_ends_at_the_error_rate(given_answers: list[tuple[bool, float]]) -> None:
    right = np.array([one for one, _ in given_answers])
    found = risk_coverage(right, np.array([one for _, one in given_answers]))
    assert list(found.coverage) == sorted(set(found.coverage))
    assert found.coverage[-1] == 1.0
    assert found.risk[-1] == pytest.approx(1 - right.mean(), abs=1e-5)
    assert all(0 <= risk <= 1 for risk in found.risk) and 0 <= found.area <= 1


def test_equal_confidences_are_answered_together() -> None:
    found = risk_coverage(np.array([True, False, True]), np.array([0.9, 0.5, 0.5]))
    assert found.coverage == pytest.approx((1 / 3, 1.0), abs=1e-5)
    assert found.risk == pytest.approx((0.0, 1 / 3), abs=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_temperature_can_be_changed_afterwards(kind: str) -> None:
    head, chances = {"softmax": (SoftmaxHead, softmax), "sigmoid": (SigmoidHead, sigmoid)}[kind]
    logits = np.random.default_rng(0).normal(0, 3, (20, 3)).astype(np.float32)
    hot = chances(logits, 2.0)
    np.testing.assert_allclose(
        one_label_build(head(("a", "b", "c"), "stage:x:y")).at_temperature(hot, 2.0, 0.7),
        chances(logits, 0.7),
        atol=1e-6,
    )
