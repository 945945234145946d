"""Scores against a small example worked out by hand."""

from __future__ import annotations

import pytest

from build_engines.heads.metrics import score


def test_scores_equal_those_worked_out_by_hand() -> None:
    truth = ["a", "a", "a", "b", "b", "c"]
    answer = ["a", "a", "b", "b", "c", "c"]
    found = score(truth, answer, ["a", "b", "c", "d"])
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.f1_micro == pytest.approx(4 / 6)
    # a: 2 of 2 answers right, 2 of 3 found; b: 1 of 2, 1 of 2; c: 1 of 2, 1 of 1.
    assert (found.classes["a"].precision, found.classes["a"].recall) == (1.0, pytest.approx(2 / 3))
    assert found.classes["a"].f1 == pytest.approx(0.8)
    assert found.classes["b"].f1 == pytest.approx(0.5)
    assert found.classes["c"].f1 == pytest.approx(2 / 3)
    assert found.f1_macro == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert found.f1_weighted == pytest.approx((3 * 0.8 + 2 * 0.5 + 2 / 3) / 6)
    assert found.confusion_labels == ("a", "b", "c")
    assert found.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_an_answer_outside_the_labels_counts_as_wrong() -> None:
    found = score(["a", "b"], ["a", "none"], ["a", "b"])
    assert found.accuracy == 0.5
    assert found.f1_macro == pytest.approx(1 / 3)
