from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.decide import blocking_input, decide, finite
from edge_runtime.heads.labels import softmax
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead, withheld
from edge_runtime.heads.tagging import TaggingHead, iob2
from edge_runtime.messages import AlignedSet, Inference, Slice, Utterance, Verdict
from edge_runtime.streams import CameraStream, Channel, SensorStream, StreamSpec, TextStream

LABELS = ("go", "slow", "stop")
HEAD = SoftmaxHead(LABELS, "stage:fusion:logits")
POLICY = DecisionPolicy("stop")


def inference(*logits: float) -> Inference:
    return Inference(np.array([logits], np.float32))


def labels(policy: DecisionPolicy, *winners: str) -> list[str]:
    state, said = PolicyState(), []
    for winner in winners:
        logits = [5.0 if label == winner else 0.0 for label in LABELS]
        verdict, state = decide(HEAD, policy, state, None, inference(*logits))
        said.append(verdict.label)
    return said


def test_a_heartbeat_counts_for_no_hold() -> None:
    """Frames say go, stop, stop, with heartbeats that see what the frame before them showed."""
    policy, state, said = DecisionPolicy("stop", hold=2), PolicyState(), []
    for winner, counts in (("go", True), ("slow", True), ("slow", False), ("slow", False), ("slow", True)):
        logits = [5.0 if label == winner else 0.0 for label in LABELS]
        verdict, state = decide(HEAD, policy, state, None, inference(*logits), counts=counts)
        said.append(verdict.label)
    assert said == ["go", "go", "go", "go", "slow"]
    # After an outage that a heartbeat met, the first answer stands on its own.
    _, state = decide(HEAD, policy, state, "camera stale", Inference(None), counts=False)
    assert decide(HEAD, policy, state, None, inference(5.0, 0.0, 0.0))[0].label == "go"
    # Without a hold a heartbeat says what the model says.
    assert decide(HEAD, POLICY, PolicyState("slow"), None, inference(5.0, 0.0, 0.0), counts=False)[0].label == "go"


def test_the_most_likely_label_wins_with_its_softmax_probability() -> None:
    verdict, _ = decide(HEAD, POLICY, PolicyState(), None, inference(1.0, 2.0, 0.5))
    total = sum(math.exp(value) for value in (1.0, 2.0, 0.5))
    assert (verdict.label, verdict.source) == ("slow", "model")
    assert verdict.confidence == pytest.approx(math.exp(2.0) / total)
    assert sum(verdict.probabilities.values()) == pytest.approx(1.0)


def test_temperature_softens_without_changing_the_winner() -> None:
    cold = softmax(np.array([[1.0, 3.0, 0.0]], np.float32), 1.0)[0]
    warm = softmax(np.array([[1.0, 3.0, 0.0]], np.float32), 4.0)[0]
    assert warm.argmax() == cold.argmax()
    assert warm.max() < cold.max()


def test_a_blocked_decision_is_safe_and_says_why() -> None:
    verdict, state = decide(HEAD, POLICY, PolicyState("go"), "camera stale", inference(9, 0, 0))
    assert (verdict.label, verdict.source, verdict.reason) == ("stop", "safe", "camera stale")
    assert state == PolicyState()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_numbers_are_safe(bad: float) -> None:
    verdict, _ = decide(HEAD, POLICY, PolicyState(), None, inference(9, bad, 0))
    assert (verdict.label, verdict.source, verdict.reason) == ("stop", "safe", "output not finite")


def test_below_the_threshold_it_abstains() -> None:
    verdict, _ = decide(HEAD, DecisionPolicy("stop", threshold=0.9), PolicyState(), None, inference(1, 0, 0))
    assert (verdict.label, verdict.source) == ("stop", "safe")
    assert verdict.reason is not None and verdict.reason.startswith("abstained: go 0.58 < 0.90")


def test_a_label_s_own_threshold_replaces_the_general_one() -> None:
    policy = DecisionPolicy("stop", threshold=0.9, thresholds={"go": 0.5})
    assert decide(HEAD, policy, PolicyState(), None, inference(1, 0, 0))[0].label == "go"


def test_a_label_is_withheld_while_a_stream_it_needs_is_absent() -> None:
    policy = DecisionPolicy("stop", needs={"go": ("radar", "camera")})
    there, gone = Slice("camera", True), Slice("radar", False, reason="stale")

    def said(verdict: Verdict, *slices: Slice) -> Verdict:
        return withheld(policy, verdict, AlignedSet(0, {part.stream: part for part in slices}))

    go = decide(HEAD, policy, PolicyState(), None, inference(3, 0, 0))[0]
    verdict = said(go, there, gone)
    assert (verdict.label, verdict.source, verdict.reason) == ("stop", "safe", "go needs radar: stale")
    assert verdict.probabilities == go.probabilities
    assert said(go, there, Slice("radar", True)) is go
    slow = decide(HEAD, policy, PolicyState(), None, inference(0, 3, 0))[0]
    assert said(slow, there, gone) is slow, "other labels need nothing"


def test_hysteresis_holds_the_old_label_until_the_new_one_has_won_in_a_row() -> None:
    policy = DecisionPolicy("stop", hold=3)
    assert labels(policy, "go", "slow", "slow", "go", "slow", "slow", "slow") == ["go"] * 6 + ["slow"]


def test_an_immediate_label_does_not_wait() -> None:
    policy = DecisionPolicy("stop", hold=3, immediate=("stop",))
    assert labels(policy, "go", "stop", "go", "go", "go") == ["go", "stop", "stop", "stop", "go"]


@given(st.lists(st.sampled_from(LABELS), max_size=30), st.integers(1, 5))
def test_hysteresis_only_says_labels_that_won(winners: list[str], hold: int) -> None:
    said = labels(DecisionPolicy("stop", hold=hold), *winners)
    for index, label in enumerate(said):
        assert label in winners[: index + 1]
        changed = index > 0 and label != said[index - 1]
        assert not changed or winners[index - hold + 1 : index + 1] == [label] * hold


@given(
    st.lists(st.floats(-60, 60, width=32, allow_subnormal=False), min_size=3, max_size=3),
    st.floats(0.1, 10, allow_subnormal=False),
)
def test_probabilities_are_a_distribution(logits: list[float], temperature: float) -> None:
    chances = softmax(np.array([logits], np.float32), temperature)[0]
    assert chances.sum() == pytest.approx(1.0)
    assert (chances >= 0).all()
    policy = DecisionPolicy("stop", temperature=temperature)
    verdict, _ = decide(HEAD, policy, PolicyState(), None, inference(*logits))
    assert list(verdict.probabilities.values()) == pytest.approx(chances.tolist(), abs=1e-12)


def test_a_sigmoid_head_gives_every_label_over_its_threshold_as_tags() -> None:
    head = SigmoidHead(LABELS, "x")
    verdict, _ = decide(head, DecisionPolicy("none"), PolicyState(), None, inference(2.0, -1.0, 1.0))
    assert (verdict.label, verdict.tags) == ("go", ("go", "stop"))
    nothing, _ = decide(head, DecisionPolicy("none"), PolicyState(), None, inference(-2.0, -1.0, -3.0))
    assert (nothing.label, nothing.tags) == ("none", ())


TAGGING = TaggingHead(("O", "B-room", "I-room", "B-thing", "I-thing"), "x")


def tagged(words: int, *best: int, rows: int = 6) -> Verdict:
    """The verdict where word after word these labels win; the rows behind them say `I-thing` with all their weight."""
    logits = np.full((1, rows, 5), -5, np.float32)
    logits[0, :, 4] = 50
    for row, label in enumerate(best):
        logits[0, row] = -5
        logits[0, row, label] = 5
    sentence = Utterance("text", 0, 0, " ".join(["word"] * words))
    inputs = Inputs(
        {"text": TextStream(rows, 1000, word_pieces=2)}, AlignedSet(0, {"text": Slice("text", True, (sentence,))})
    )
    return decide(TAGGING, DecisionPolicy("O"), PolicyState(), None, Inference(logits), inputs)[0]


def test_a_tagging_head_gives_a_tag_per_word_and_none_for_what_is_no_word() -> None:
    verdict = tagged(4, 0, 1, 3, 4)
    assert (verdict.label, verdict.tags) == ("B-room", ("O", "B-room", "B-thing", "I-thing"))
    assert verdict.confidence == pytest.approx(math.exp(5) / (math.exp(5) + 4 * math.exp(-5)))
    assert tagged(2, 0, 0).label == "O"
    nothing = tagged(0)
    assert (nothing.label, nothing.tags, nothing.confidence) == ("O", (), 0.0)


def test_words_that_the_model_does_not_read_are_outside_and_the_reason_says_so() -> None:
    verdict = tagged(8, 1, 0, 0, 0, 0, 3)
    assert verdict.tags == ("B-room", "O", "O", "O", "O", "B-thing", "O", "O")
    assert verdict.reason == "only the first 6 of 8 words were read"
    assert (tagged(6, 1, 0, 0, 0, 0, 3).reason, verdict.source) == (None, "model")


@given(st.integers(0, 20), st.lists(st.integers(0, 4), max_size=6))
def test_there_is_one_valid_tag_for_every_word(words: int, best: list[int]) -> None:
    tags = tagged(words, *best).tags
    assert len(tags) == words
    assert set(tags) <= set(TAGGING.labels)
    for before, tag in zip(("O", *tags), tags, strict=False):
        assert not tag.startswith("I-") or before in (tag, "B-" + tag[2:])


def test_iob1_becomes_iob2_and_iob2_stays() -> None:
    assert iob2(["I-a", "I-a", "B-a", "O", "I-b", "I-a"]) == ("B-a", "I-a", "B-a", "O", "B-b", "B-a")
    good = ("B-a", "I-a", "O", "B-b", "B-b")
    assert iob2(good) == good


def test_a_required_stream_or_channel_that_is_missing_blocks() -> None:
    streams: dict[str, StreamSpec] = {
        "camera": CameraStream(8, 8, 30, 100, required=True),
        "sensors": SensorStream((Channel("speed", "m/s", 0, 9, required=True),), 10, 100),
    }
    good = Slice("sensors", True)
    there = Slice("camera", True)
    assert blocking_input(streams, AlignedSet(0, {"camera": there, "sensors": good})) is None
    stale = Slice("camera", False, reason="stale")
    assert blocking_input(streams, AlignedSet(0, {"camera": stale, "sensors": good})) == "camera stale"
    partial = Slice("sensors", True, missing_channels=("speed",))
    assert blocking_input(streams, AlignedSet(0, {"camera": there, "sensors": partial})) == "sensors.speed stale"


def test_with_no_input_at_all_nothing_is_asked_of_the_model() -> None:
    streams: dict[str, StreamSpec] = {"camera": CameraStream(8, 8, 30, 100)}
    assert blocking_input(streams, AlignedSet(0, {"camera": Slice("camera", False, reason="missing")})) == "no input"


def test_no_output_is_safe_and_says_what_the_engine_said() -> None:
    verdict, state = decide(HEAD, POLICY, PolicyState("go"), None, Inference(None, error="engine: gone"))
    assert (verdict.label, verdict.source, verdict.reason, state) == ("stop", "safe", "engine: gone", PolicyState())
    assert decide(HEAD, POLICY, PolicyState("go"), None, Inference(None))[0].reason == "no output"
    assert decide(HEAD, POLICY, PolicyState("go"), None, inference(1, math.nan, 0))[1] == PolicyState()


def test_a_blocked_input_comes_before_whatever_the_output_is() -> None:
    assert (
        decide(HEAD, POLICY, PolicyState(), "camera stale", Inference(None, error="down"))[0].reason == "camera stale"
    )


def test_what_is_not_required_blocks_nothing_while_anything_is_there() -> None:
    camera, sensors = CameraStream(8, 8, 30, 100), SensorStream((Channel("speed", "m/s", 0, 9),), 10, 100)
    streams: dict[str, StreamSpec] = {"camera": camera, "sensors": sensors}
    gone, there = Slice("camera", False, reason="stale"), Slice("sensors", True)
    assert blocking_input(streams, AlignedSet(0, {"camera": gone, "sensors": there})) is None
    nothing = {"camera": gone, "sensors": Slice("sensors", False, reason="stale")}
    assert blocking_input(streams, AlignedSet(0, nothing)) == "no input"
    assert blocking_input({}, AlignedSet(0, {})) is None, "a bundle without streams has nothing to wait for"


def test_a_required_channel_of_an_absent_stream_has_the_stream_s_reason() -> None:
    streams: dict[str, StreamSpec] = {"sensors": SensorStream((Channel("speed", "m/s", 0, 9, required=True),), 10, 100)}
    gone = Slice("sensors", False, reason="missing", missing_channels=("speed", "turn"))
    assert blocking_input(streams, AlignedSet(0, {"sensors": gone})) == "sensors.speed missing"


def test_the_head_is_given_the_first_row_and_the_inputs() -> None:
    policy = DecisionPolicy("stop", needs={"go": ("camera",)})
    gone = Inputs(
        {"camera": CameraStream(8, 8, 30, 100)}, AlignedSet(0, {"camera": Slice("camera", False, reason="x")})
    )
    assert decide(HEAD, policy, PolicyState(), None, inference(9, 0, 0), gone)[0].reason == "go needs camera: x"
    assert finite(np.array([[1.0, -3e38]], np.float32)) and finite(np.empty((1, 0), np.float32))
    assert not finite(np.array([[1.0, 2.0], [np.inf, 0.0]], np.float32))


def test_a_decision_that_does_not_count_is_on_the_same_row() -> None:
    state = PolicyState("go")
    verdict, after = decide(HEAD, DecisionPolicy("stop", hold=3), state, None, inference(0, 9, 0), counts=False)
    assert after is state
    assert verdict.probabilities == decide(HEAD, POLICY, PolicyState(), None, inference(0, 9, 0))[0].probabilities
