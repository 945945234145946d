from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tests.hostile.bombs import FORGED
from tests.hostile.drive import judged
from tests.hostile.judge import Figures, Heard, Sample, broken, cores, figures, stale_inputs
from tests.hostile.report import table, write

AGES = {"camera.front": 300.0, "text": 12_000.0}
SECOND = 1_000_000_000


def decision(at_s: float, latency_ms: float = 5.0, **changes: Any) -> dict[str, Any]:
    at_ns = int(at_s * SECOND)
    inputs = {"camera.front": [f"t{at_ns}", 0.0]}
    one = {"heard_ns": at_ns, "captured_ns": at_ns, "source": "model", "triggered": True, "inputs": inputs}
    return {**one, "latency_ms": latency_ms, **changes}


def heard(decisions: list[dict[str, Any]], **changes: Any) -> Heard:
    status = {"status": {"conserved": True, "sources": [{"name": "zmq", "state": "running"}]}}
    samples = [Sample(0, 100.0, 1.0), Sample(10 * SECOND, 110.0, 3.0)]
    return dataclasses.replace(Heard(10.0, decisions, samples, status=status, frames=300), **changes)


CALM = heard([decision(at / 30) for at in range(300)])


def judge(during: Heard, alive: bool = True, **changes: Any) -> tuple[str, ...]:
    return broken(dataclasses.replace(figures("garbage", during, CALM, AGES, alive), **changes), quiet=True)


def test_what_is_undisturbed_holds() -> None:
    assert judge(CALM) == ()


@pytest.mark.parametrize(
    ("during", "verdict"),
    [
        (heard([decision(at / 30) for at in range(250)]), "25.0 decisions a second"),
        (heard([decision(at / 30, latency_ms=16.0) for at in range(300)]), "p99 16.0 ms, at most 15.0"),
        (
            heard([decision(at / 30, source="safe", reason="camera stale") for at in range(300)]),
            "safe decisions: 300 camera stale",
        ),
        (heard(list(CALM.decisions), lost=2), "2 decisions did not reach the subscriber"),
        (heard(list(CALM.decisions), repeated=3), "3 decisions came twice"),
        (heard(list(CALM.decisions), samples=[Sample(0, 623.0, 0)]), "memory 623 MiB"),
        (heard(list(CALM.decisions), log=["x"] * 51), "5.1 log lines a second"),
        (heard(list(CALM.decisions), log=["x" * 1001]), "a log line of 1001 characters"),
        (heard(list(CALM.decisions), log=[f"{FORGED} all is well"]), "1 log lines were forged"),
        (heard(list(CALM.decisions), log=["\x1b[2J"]), "1 log lines were forged"),
        (
            heard(list(CALM.decisions), samples=[Sample(0, 1, 0), Sample(SECOND, 1, 0.8)]),
            "0.80 cores, 0.20 undisturbed",
        ),
        (heard(list(CALM.decisions), status=None), "the accounts do not balance"),
    ],
)
def test_each_rule_is_broken_by_what_it_is_for(during: Heard, verdict: str) -> None:
    (found,) = judge(during)
    assert found.startswith(verdict)


def test_sources_that_are_down_and_what_attackers_found_are_told() -> None:
    status = {"status": {"conserved": False, "sources": [{"name": "zmq", "state": "failed"}]}}
    found = judge(heard(list(CALM.decisions), status=status), faults=("nothing heard",))
    assert found == ("the accounts do not balance", "sources are down: zmq", "nothing heard")


def test_a_service_that_ended_breaks_a_rule() -> None:
    assert judge(CALM, alive=False) == ("the service ended",)


def test_without_a_decision_nothing_holds() -> None:
    assert any(rule.startswith("p99 inf") for rule in judge(heard([])))


def test_time_is_left_out_where_it_says_nothing() -> None:
    slow = figures("standstill", heard([decision(1.0, latency_ms=900.0)]), CALM, AGES, True)
    assert judged(slow, timed=True).broken == judged(slow, timed=False).broken == ()
    assert judged(dataclasses.replace(slow, part="garbage"), timed=True).broken != ()


@pytest.mark.parametrize(
    ("sent_s", "age_ms", "stale"),
    [
        (10.0, 0.0, 0),
        (9.8, 0.0, 0),  # on its way
        (9.5, 0.0, 1),  # said to be fresh
        (9.5, 500.0, 0),  # said as it is, and within what the text allows
        (-3.0, 13_000.0, 1),  # said as it is, and expired
    ],
)
def test_what_is_stale(sent_s: float, age_ms: float, stale: int) -> None:
    one = decision(10.0, inputs={"text": [f"t{int(sent_s * SECOND)}", age_ms]})
    if sent_s < 0:
        one = decision(10.0 - sent_s, inputs={"text": ["t0", age_ms]})
    assert len(stale_inputs([one], AGES).get("text", [])) == stale


def test_stale_inputs_are_told_with_their_stream() -> None:
    late = [decision(10.0, inputs={"text": [f"t{int(sent_s * SECOND)}", 0.0]}) for sent_s in (9.5, 8.0)]
    (found,) = judge(heard([*CALM.decisions, *late]))
    assert found == "older than said: 2 of text by up to 2.0 s"


def test_inputs_without_a_mark_cannot_be_told() -> None:
    unmarked = [decision(10.0, inputs={"text": [mark, 1e9]}) for mark in (None, "x", "t", "t-1", "m12")]
    assert stale_inputs(unmarked, AGES) == {}


def test_latencies_are_those_of_honest_frames() -> None:
    others = [decision(1.0, 99.0, inputs={"camera.front": [None, 0.0]}), decision(1.0, 99.0, triggered=False)]
    found = figures("garbage", heard([*CALM.decisions, *others, decision(2.0, 99.0, inputs={})]), CALM, AGES, True)
    assert found.p99 == pytest.approx(5.0)
    assert (found.honest_hz, found.decisions_hz) == (30.0, 30.2)


def test_cpu_of_too_few_samples_is_nothing() -> None:
    assert cores([Sample(0, 1.0, 5.0)]) == 0.0


def test_the_report_holds_every_part(tmp_path: Any) -> None:
    safe = decision(1.0, source="safe", reason="camera stale")
    good: Figures = figures("garbage", heard([*CALM.decisions, safe]), CALM, AGES, True)
    bad = dataclasses.replace(good, part="poison", p99=float("inf"), broken=("the service ended",))
    write(tmp_path, [good, bad], {"processor": "two cores"})
    text = (tmp_path / "hostile.md").read_text(encoding="utf-8")
    assert "- processor: two cores" in text and table([good, bad]) in text
    assert [line.rstrip(" |").split(" | ")[-1] for line in text.splitlines()[-2:]] == ["holds", "the service ended"]
    assert json.loads((tmp_path / "hostile.json").read_text())["parts"][0]["safe"] == {"camera stale": 1}
    assert (tmp_path / "hostile.png").stat().st_size > 0
