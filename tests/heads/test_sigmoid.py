"""Independent labels: thresholds at their edge, and what is said where none holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.decide import decide
from edge_runtime.heads.policy import DecisionPolicy, PolicyState
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.messages import Inference, Verdict

LABELS = ("cough", "fever", "rash")
HEAD = SigmoidHead(LABELS, "stage:fusion:logits")


def said(policy: DecisionPolicy, *logits: float) -> Verdict:
    verdict, state = decide(HEAD, policy, PolicyState("cough"), None, Inference(np.array([logits], np.float32)))
    assert state == PolicyState(), "nothing is held"
    return verdict


def chance(logit: float, temperature: float = 1.0) -> float:
    return 1 / (1 + math.exp(-logit / temperature))


def test_every_label_that_reaches_one_half_holds_where_no_threshold_is_set() -> None:
    verdict = said(DecisionPolicy("undecided"), 0.0, 2.0, -0.001)
    assert (verdict.label, verdict.tags, verdict.source, verdict.reason) == ("fever", ("cough", "fever"), "model", None)
    assert verdict.confidence == pytest.approx(chance(2.0))
    assert verdict.probabilities == pytest.approx({"cough": 0.5, "fever": chance(2.0), "rash": chance(-0.001)})


def test_where_none_holds_the_confidence_is_what_the_strongest_leaves() -> None:
    verdict = said(DecisionPolicy("undecided"), -2.0, -1.0, -3.0)
    assert (verdict.label, verdict.tags, verdict.source) == ("none", (), "model")
    assert verdict.confidence == pytest.approx(1 - chance(-1.0))
    assert verdict.probabilities == pytest.approx(dict(zip(LABELS, map(chance, (-2.0, -1.0, -3.0)), strict=True)))


def test_a_label_s_own_threshold_comes_before_the_general_one_and_that_before_one_half() -> None:
    policy = DecisionPolicy("undecided", threshold=0.8, thresholds={"rash": 0.2})
    assert HEAD.limits(policy) == {"cough": 0.8, "fever": 0.8, "rash": 0.2}
    assert HEAD.limits(DecisionPolicy("undecided")) == dict.fromkeys(LABELS, 0.5)
    assert said(policy, 1.0, 2.0, -1.0).tags == ("fever", "rash")
    warm = DecisionPolicy("undecided", temperature=2.0, threshold=0.6)
    assert said(warm, 1.0, 0.8, -5.0).probabilities["cough"] == pytest.approx(chance(1.0, 2.0))
    assert said(warm, 1.0, 0.8, -5.0).tags == ("cough",)


@pytest.mark.parametrize(
    ("labels", "policy", "expected"),
    [
        (LABELS, DecisionPolicy("undecided"), []),
        (LABELS, DecisionPolicy("none"), []),
        (LABELS, DecisionPolicy("rash"), []),
        (LABELS, DecisionPolicy("flu"), ["decision.safe_label 'flu' is none of cough, fever, rash, none, undecided"]),
        (("none", "rash"), DecisionPolicy("rash"), ["head.labels holds 'none'"]),
        (LABELS, DecisionPolicy("none", thresholds={"none": 0.5}), ["names the label 'none', which is none of"]),
    ],
)
def test_what_contradicts_itself_is_said(labels: tuple[str, ...], policy: DecisionPolicy, expected: list[str]) -> None:
    found = list(SigmoidHead(labels, "stage:a:b").problems(policy, {}))
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text


def test_settings_that_hold_a_label_are_none_of_a_sigmoid_head_s() -> None:
    policy = DecisionPolicy("none", hold=2, immediate=("rash",), needs={"rash": ("camera",)}, heartbeat_ms=1.0)
    assert [text.split()[0] for text in HEAD.ignored(policy)] == [
        "decision.hold",
        "decision.immediate",
        "decision.needs",
    ]
    assert list(HEAD.ignored(DecisionPolicy("none", temperature=2.0, threshold=0.5, thresholds={"rash": 0.1}))) == []
    assert (HEAD.kind, HEAD.shape({}), HEAD.summary) == ("sigmoid", (1, 3), "cough, fever, rash, none")


def test_the_safe_answer_is_the_policy_s_with_no_confidence() -> None:
    verdict = HEAD.safe(DecisionPolicy("undecided"), "camera stale")
    assert verdict == Verdict("undecided", 0.0, {}, "safe", "camera stale")
