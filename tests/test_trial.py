"""A trial's verdict, from what is published: the model decides, often enough, soon enough, and no engine fails."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.slots import Slot, Trial
from edge_runtime.trial import Proof
from edge_runtime.wire import BundleId, DecisionMessage, Latency, StatusMessage, StreamHealth
from tests.publish import test_sinks as made

S = 1_000_000_000
BEGIN_NS, END_NS, LATEST_NS = 7 * S, 17 * S, 37 * S
SLOT = Slot("0-0123456789ab", "tiny", "2", "new", None, "pending", "t")
NEW, OLD = BundleId("tiny", "2", "new"), BundleId("tiny", "1", "old")
PERIOD_MS = 40.0


def proof(latency_ms: float | None = None) -> Proof:
    return Proof(Trial(10.0, latency_ms), SLOT, "camera", PERIOD_MS, BEGIN_NS)


def decision(latency_ms: float = 5.0, queue_ms: float = 0.5, bundle: BundleId = NEW) -> DecisionMessage:
    """By the model."""
    return made.decision(1, bundle=bundle, latency_ms=Latency(latency_ms, queue_ms, 0.1, {"fusion": 0.1}, 0.1))


def safe(reason: str, bundle: BundleId = NEW) -> DecisionMessage:
    latency = Latency(5.0, 0.5, 0.1, {}, 0.1)
    return made.decision(1, bundle=bundle, source="safe", reason=reason, latency_ms=latency)


def status(captured: int, bundle: BundleId = NEW, **dropped: int) -> StatusMessage:
    stream = StreamHealth(captured, captured - sum(dropped.values()), dropped, 0, 25.0, 25.0, True)
    return msgspec.structs.replace(made.status(1), bundle=bundle, streams={"camera": stream})


def judged(*messages: DecisionMessage | StatusMessage, latency_ms: float | None = None) -> str | None:
    """Why it is bad at the end of the trial; None if it is good, then or when it has gone on for as long as it may."""
    one = proof(latency_ms)
    for message in messages:
        one.hear(message)
    verdict = one.verdict(END_NS) or one.verdict(LATEST_NS)
    assert verdict is not None
    assert verdict[0] == (verdict[1] == "")
    return verdict[1] or None


def test_it_is_open_until_the_time_is_over() -> None:
    one = proof()
    for _ in range(5):
        one.hear(decision())
    assert one.verdict(END_NS - 1) is None
    assert one.verdict(END_NS) == (True, "")


def test_few_decisions_on_messages_prolong_it_unless_something_speaks_against_it() -> None:
    one = proof()
    for _ in range(4):
        one.hear(decision(queue_ms=0.0))
        one.hear(decision(PERIOD_MS * 9))
    assert one.verdict(END_NS) is None and one.verdict(LATEST_NS - 1) is None
    assert one.verdict(LATEST_NS) == (True, ""), "nothing more was called for"
    one.hear(decision(PERIOD_MS * 9))
    assert one.verdict(END_NS) == (False, "half of its decisions take 360.0 ms or more; a message comes each 40.0 ms")
    silent = proof()
    silent.hear(safe("camera missing"))
    assert silent.verdict(END_NS) == (False, "it decided nothing by the model in 10 s: camera missing")


def test_one_decision_by_the_model_is_enough_where_nothing_more_was_called_for() -> None:
    assert judged(decision()) is None
    assert judged(decision(queue_ms=0.0)) is None, "a heartbeat's too"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "no decision was made"),
        ([safe("camera missing")], "camera missing"),
        ([safe("no input"), safe("camera stale")], "camera stale"),
        ([decision(bundle=OLD)], "no decision was made"),
    ],
)
def test_without_a_decision_by_the_model_it_is_bad(messages: list[DecisionMessage], why: str) -> None:
    assert judged(*messages) == f"it decided nothing by the model in 10 s: {why}"


def test_a_model_that_abstains_has_answered() -> None:
    assert judged(msgspec.structs.replace(decision(), source="safe", reason="confidence 0.2 below 0.4")) is None


def test_an_engine_that_fails_ends_it_at_once_but_not_another_one_s() -> None:
    one = proof()
    one.hear(decision())
    one.hear(safe("engine: the GPU is gone", bundle=OLD))
    assert one.verdict(BEGIN_NS) is None
    one.hear(safe("engine: out of memory"))
    assert one.verdict(BEGIN_NS) == (False, "engine: out of memory")


@pytest.mark.parametrize(("answered", "good"), [(0, False), (49, False), (50, True), (100, True)])
def test_half_of_what_called_for_a_decision_must_be_answered(answered: int, good: bool) -> None:
    first = [decision(), status(10)]
    said = judged(*first, *[decision() for _ in range(answered)], status(110))
    assert said == (None if good else f"it answered {answered} of 100 messages of camera, 50% are asked for")


@pytest.mark.parametrize(("rate", "good"), [(0.0, True), (0.6, True), (0.61, False), (1.0, False)])
def test_as_many_must_be_answered_as_the_trial_says(rate: float, good: bool) -> None:
    one = Proof(Trial(10.0, rate=rate), SLOT, "camera", PERIOD_MS, BEGIN_NS)
    for message in (decision(), status(10), *[decision() for _ in range(60)], status(110)):
        one.hear(message)
    why = "" if good else f"it answered 60 of 100 messages of camera, {rate:.0%} are asked for"
    assert one.verdict(END_NS) == (good, why)


def test_messages_that_were_refused_call_for_nothing_and_those_replaced_do() -> None:
    assert judged(decision(), status(0), decision(), status(100, corrupt=96)) is None
    assert judged(decision(), status(0), decision(), status(100, superseded=50, replaced=46)) is not None
    assert judged(decision(), status(0), status(4)) is None, "four say nothing"
    assert judged(decision(), status(0), status(5)) is not None


def test_heartbeats_answer_no_message() -> None:
    beats = [decision(queue_ms=0.0) for _ in range(100)]
    assert (
        judged(decision(), status(0), *beats, status(100))
        == "it answered 0 of 100 messages of camera, 50% are asked for"
    )


def test_status_of_another_bundle_says_nothing() -> None:
    assert judged(decision(), status(0, OLD), status(500, OLD), status(500), status(500)) is None


def test_half_of_the_decisions_come_within_a_period() -> None:
    assert judged(*[decision(39.0)] * 6, *[decision(400.0)] * 4) is None
    said = judged(*[decision(39.0)] * 4, *[decision(400.0)] * 6)
    assert said == "half of its decisions take 400.0 ms or more; a message comes each 40.0 ms"
    assert judged(*[decision(400.0)] * 4) is None, "four say nothing"


def test_a_limit_counts_for_99_of_100() -> None:
    assert judged(*[decision(8.0)] * 99, decision(900.0), latency_ms=8.0) is None
    said = judged(*[decision(8.0)] * 98, *[decision(9.0)] * 2, latency_ms=8.0)
    assert said == "its latency is 9.0 ms at p99, 8 ms are allowed"
    assert judged(*[decision(400.0)] * 9, latency_ms=500.0) is None, "the limit that was given counts, no other"
