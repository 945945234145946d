"""One label of n: the sums by hand, each setting at its edge, and what a manifest may not say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace

from edge_runtime.decide import decide
from edge_runtime.heads.labels import sigmoid, softmax
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.messages import AlignedSet, Inference, Slice, Verdict
from edge_runtime.streams import CameraStream, StreamSpec

LABELS = ("go", "slow", "stop")
HEAD = SoftmaxHead(LABELS, "stage:fusion:logits")
STREAMS: dict[str, StreamSpec] = {"camera": CameraStream(8, 8, 30, 100), "radar": CameraStream(8, 8, 30, 100)}


def asked(
    policy: DecisionPolicy, *logits: float, state: PolicyState | None = None, inputs: Inputs | None = None
) -> tuple[Verdict, PolicyState]:
    return decide(HEAD, policy, state or PolicyState(), None, Inference(np.array([logits], np.float32)), inputs)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probabilities_are_the_softmax_of_logits_over_temperature(temperature: float) -> None:
    logits = (2.0, -1.0, 0.5)
    powers = [math.exp(value / temperature) for value in logits]
    expected = [power / sum(powers) for power in powers]
    verdict, _ = asked(DecisionPolicy("stop", temperature=temperature), *logits)
    assert verdict.probabilities == pytest.approx(dict(zip(LABELS, expected, strict=True)))
    assert (verdict.label, verdict.confidence) == ("go", pytest.approx(expected[0]))
    assert softmax(np.array([logits], np.float32), temperature)[0] == pytest.approx(expected)
    both = softmax(np.array([logits, logits[::-1]], np.float32), temperature)
    assert both[1] == pytest.approx(expected[::-1]), "row by row"
    assert softmax(np.array([[logits, logits[::-1]]], np.float32), temperature)[0, 1] == pytest.approx(expected[::-1])
    by_itself = [1 / (1 + math.exp(-value / temperature)) for value in logits]
    assert sigmoid(np.array(logits, np.float32), temperature) == pytest.approx(by_itself)


def test_logits_however_large_give_probabilities() -> None:
    verdict, _ = asked(DecisionPolicy("stop"), 3e38, -3e38, 0.0)
    assert verdict.probabilities == {"go": 1.0, "slow": 0.0, "stop": 0.0}
    assert softmax(np.array([[3e38, -3e38, 0.0]], np.float32), 1.0)[0].tolist() == [1.0, 0.0, 0.0]


def test_of_equals_the_first_label_wins() -> None:
    assert asked(DecisionPolicy("stop"), 1.0, 2.0, 2.0)[0].label == "slow"


def test_a_confidence_that_reaches_its_threshold_is_said_and_one_below_is_not() -> None:
    confidence = asked(DecisionPolicy("stop"), 1.0, 0.0, 0.0)[0].confidence
    at = asked(DecisionPolicy("stop", threshold=confidence), 1.0, 0.0, 0.0)[0]
    assert (at.label, at.source, at.reason) == ("go", "model", None)
    above = math.nextafter(confidence, 1)
    below, state = asked(DecisionPolicy("stop", threshold=above), 1.0, 0.0, 0.0)
    assert (below.label, below.source, below.confidence) == ("stop", "safe", confidence)
    assert below.probabilities == at.probabilities
    assert state == PolicyState("go"), "what won is remembered though it was not said"
    own = DecisionPolicy("stop", threshold=0.0, thresholds={"go": above})
    assert asked(own, 1.0, 0.0, 0.0)[0].source == "safe"
    assert asked(own, 0.0, 1.0, 0.0)[0].label == "slow", "another label's threshold is none of its business"


def test_what_has_won_so_far_is_counted_from_decision_to_decision() -> None:
    policy = DecisionPolicy("stop", hold=3)
    _, state = asked(policy, 9, 0, 0)
    assert state == PolicyState("go")
    verdict, state = asked(policy, 0, 9, 0, state=state)
    assert (verdict.label, state) == ("go", PolicyState("go", "slow", 1))
    assert verdict.confidence == verdict.probabilities["go"], "the confidence is of the label that is said"
    assert asked(policy, 0, 0, 9, state=state)[1] == PolicyState("go", "stop", 1), "another winner begins at one"
    verdict, state = asked(policy, 0, 9, 0, state=state)
    assert (verdict.label, state) == ("go", PolicyState("go", "slow", 2))
    assert asked(policy, 9, 0, 0, state=state)[1] == PolicyState("go"), "the old label's win forgets the count"
    verdict, state = asked(policy, 0, 9, 0, state=state)
    assert (verdict.label, state) == ("slow", PolicyState("slow"))


def test_a_needed_stream_is_asked_for_by_the_head_itself() -> None:
    policy = DecisionPolicy("stop", needs={"go": ("radar",)})

    def inputs(radar: bool) -> Inputs:
        slices = {"camera": Slice("camera", False), "radar": Slice("radar", radar, reason=None if radar else "missing")}
        return Inputs(STREAMS, AlignedSet(0, slices))

    gone = asked(policy, 9, 0, 0, inputs=inputs(radar=False))[0]
    assert (gone.label, gone.source, gone.reason) == ("stop", "safe", "go needs radar: missing")
    assert gone.confidence > 0.9
    assert asked(policy, 9, 0, 0, inputs=inputs(radar=True))[0].label == "go"
    assert asked(policy, 9, 0, 0)[0].label == "go", "without inputs nothing is withheld"
    assert policy.needed_streams == {"radar"}


@pytest.mark.parametrize(
    ("labels", "policy", "expected"),
    [
        (LABELS, DecisionPolicy("stop"), []),
        (("go", "go"), DecisionPolicy("go"), ["head.labels must be distinct and at least one, got ['go', 'go']"]),
        ((), DecisionPolicy(""), ["head.labels must be distinct and at least one", "safe_label '' is none of"]),
        (LABELS, DecisionPolicy("halt"), ["decision.safe_label 'halt' is none of go, slow, stop"]),
        (LABELS, DecisionPolicy("stop", thresholds={"og": 0.5}), ["names the label 'og', which is none of"]),
        (LABELS, DecisionPolicy("stop", immediate=("og",)), ["names the label 'og'"]),
        (
            LABELS,
            DecisionPolicy("stop", needs={"og": ("sonar", "camera", "lidar")}),
            ["names the label 'og'", "decision.needs names ['lidar', 'sonar'], which are no streams"],
        ),
        (LABELS, DecisionPolicy("stop", needs={"stop": ("radar",)}), ["needs withholds the safe label 'stop'"]),
        (LABELS, DecisionPolicy("stop", needs={"go": ("radar", "camera")}), []),
    ],
)
def test_what_contradicts_itself_is_said(labels: tuple[str, ...], policy: DecisionPolicy, expected: list[str]) -> None:
    found = list(replace(HEAD, labels=labels).problems(policy, STREAMS))
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text


def test_a_softmax_head_reads_every_setting_and_one_row_of_its_labels() -> None:
    everything = DecisionPolicy("stop", 2.0, 0.5, {"go": 0.5}, {"go": ("radar",)}, 2, ("stop",), 100.0)
    assert list(HEAD.ignored(everything)) == []
    assert list(HEAD.ignored(everything, acts=False)) == [
        "decision.heartbeat_ms is set, which a softmax head beside the first does not read"
    ]
    assert (HEAD.kind, HEAD.shape(STREAMS), HEAD.summary) == ("softmax", (1, 3), "go, slow, stop")
    assert (HEAD.source.name, HEAD.source.field) == ("fusion", "logits")
