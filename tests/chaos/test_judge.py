"""Each promise of a run is broken by what it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.judge import CAMERA, Burst, Seen, judge, lives, silence_s
from tests.chaos.report import write

AGES = {CAMERA: 300.0, "position": 2000.0}
S = 1_000_000_000


def decision(at_s: float, seq: int, version: str = "1.0.1", **changes: Any) -> dict[str, Any]:
    at_ns = int(at_s * S)
    one = {"heard_ns": at_ns, "published_ns": at_ns, "captured_ns": at_ns, "seq": seq, "bundle": f"d{version}"}
    one |= {"version": version, "label": f"keep@{version}", "source": "model", "inputs": {CAMERA: [f"t{at_ns}", 0.0]}}
    return one | changes


def status(at_s: float, begin_s: float, frames: int, **changes: Any) -> dict[str, Any]:
    stream = {"captured": frames, "decided": frames - 1, "dropped": {"replaced": 1}, "in_flight": 0}
    told = {"published_ns": int(at_s * S), "uptime_s": at_s - begin_s, "seq": int(at_s), "conserved": True}
    told |= {"state": "ready", "streams": {CAMERA: stream | changes}}
    return {"heard_ns": int(at_s * S), "status": told}


def run() -> Seen:
    """Ten frames a second for twenty seconds; killed at 10.0, back at 11.5, 3 frames of the last half second lost."""
    seen = Seen()
    seen.current = [(0, "d1.0.1", "1.0.1", "good")]
    seen.sent = {CAMERA: [int(at * S / 10) for at in range(200) if not 100 <= at < 115]}
    seen.decisions = [decision(at / 10, at) for at in range(100)]
    seen.decisions += [decision(11.5 + at / 10, at) for at in range(85)]
    seen.statuses = [status(at + 0.05, 0, at * 10 + 1) for at in range(1, 10)]
    seen.statuses += [status(at + 0.55, 11.5, 10 * (at - 11) + 1) for at in range(11, 19)]
    seen.statuses.append(status(21, 11.5, 85))
    return seen


KILLED = Burst(("killed",), int(10 * S), int(11 * S), int(12 * S))


def broken(seen: Seen, *bursts: Burst, log: str = "") -> list[str]:
    return list(judge(seen, bursts or (KILLED,), AGES, log).broken)


def test_a_run_with_a_kill_in_it_holds() -> None:
    verdict = judge(run(), [KILLED], AGES)
    assert verdict.broken == []
    assert (verdict.lives, verdict.decisions, verdict.longest_silence_s) == (2, 185, 1.6)
    (row,) = verdict.rows
    assert (row.fault, row.tried, row.lost, row.alone, row.silence_s, row.recovery_s) == ("killed", 1, 0, 1, 1.6, 1.0)


def test_more_than_ends_explain_is_missing_and_more_than_was_sent_is_too_much() -> None:
    seen = run()
    seen.sent[CAMERA] = sorted([*seen.sent[CAMERA], *(15 * S + at for at in range(40))])
    assert broken(seen) == [f"accounts: 49 of 225 messages of {CAMERA} are missing; ends explain 15"]
    seen.sent[CAMERA] = seen.sent[CAMERA][:150]
    assert broken(seen)[0].startswith(f"accounts: 176 messages of {CAMERA} were counted, 150 sent")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_flight": 2}, f"-2 messages of {CAMERA} are in no account"),
        ({"decided": 3}, f"87 messages of {CAMERA} are in no account"),
    ],
)
def test_each_status_adds_up(changes: dict[str, int], words: str) -> None:
    seen = run()
    seen.statuses[8] = status(9.05, 0, 91, **changes)
    assert broken(seen) == [f"accounts: {words}"]


def test_a_status_that_says_so_and_accounts_that_go_back_are_told() -> None:
    seen = run()
    seen.statuses[8]["status"]["conserved"] = False
    assert broken(seen) == ["accounts: status 9 says that its accounts do not balance"]
    seen = run()
    seen.statuses[4] = status(5.05, 0, 100)
    assert broken(seen) == [f"accounts: {CAMERA}: 61 captured, 100 a second before"]


def test_decisions_between_two_of_a_process_were_heard() -> None:
    seen = run()
    del seen.decisions[50:53]
    assert broken(seen) == ["accounts: decisions 50 to 52 were not heard"]
    seen = run()
    del seen.decisions[100:103]  # the subscriber was not connected yet
    assert broken(seen) == []


@pytest.mark.parametrize(
    ("at", "mark", "words"),
    [
        (5.0, "t4500000000", f"stale: {CAMERA} is 500 ms older than said or allowed"),
        (5.0, "f40t5000000000", f"stale: {CAMERA} shows the same for the 40th time"),
    ],
)
def test_no_decision_on_what_is_old(at: float, mark: str, words: str) -> None:
    seen = run()
    seen.decisions[50] = decision(at, 50, inputs={CAMERA: [mark, 0.0]})
    assert broken(seen) == [words]
    (row,) = judge(seen, [Burst(("camera frozen",), 4 * S, 6 * S, 7 * S)], AGES).rows
    assert row.lost == 1, "it counts for the fault that went on"
    seen.decisions[50]["source"] = "safe"
    assert broken(seen) == []


def test_a_bundle_decides_while_it_is_current_and_a_little_longer() -> None:
    seen = run()
    seen.current.append((3 * S, "d1.0.2", "1.0.2", "good"))
    assert broken(seen)[0] == "wrong version: 1.0.1 decides, and was not current"
    assert len(broken(seen)) == sum(one["published_ns"] >= 8 * S for one in seen.decisions)
    seen.decisions[4:] = [decision(one["published_ns"] / S, one["seq"], "1.0.2") for one in seen.decisions[4:]]
    assert [words for words in broken(seen) if "1.0.2 decides" in words] != [], "before it was installed"
    seen.decisions[4:31] = run().decisions[4:31]
    assert broken(seen) == []


def test_a_bundle_answers_with_its_own_labels() -> None:
    seen = run()
    seen.decisions[50]["label"] = "keep@1.0.0"
    assert broken(seen) == ["wrong version: 1.0.1 says 'keep@1.0.0'"]


def test_late_health_and_broken_promises_of_faults_are_told_with_their_fault() -> None:
    late = Burst(("killed", "flooded"), 10 * S, 11 * S, 17 * S, "no input")
    never = Burst(("torn bundle",), 18 * S, 19 * S, None, broken=("the slots have changed",))
    assert broken(run(), late, never) == [
        "1, killed and flooded: healthy after 6.0 s (no input)",
        "2, torn bundle: the slots have changed",
        "2, torn bundle: healthy after inf s (silent)",
    ]
    rows = {row.fault: row for row in judge(run(), [late, never], AGES).rows}
    assert [(rows[name].tried, rows[name].lost, rows[name].alone) for name in ("killed", "torn bundle")] == [
        (1, 1, 0),
        (1, 1, 1),
    ]


def test_a_trace_in_the_log_is_told() -> None:
    assert broken(run(), log="ERROR x\nTraceback (most recent call last)") == ["1 traces in the log"]


def test_lives_and_silences() -> None:
    assert [(life.begin_ns, life.captured(CAMERA)) for life in lives(run().statuses)] == [(0, 91), (11.5 * S, 85)]
    heard = run().decisions
    assert silence_s(heard, 2 * S, 3 * S) == 0.1
    assert silence_s(heard, int(10.5 * S), 11 * S) == 1.6, "it lies in it in part"
    assert silence_s([], 0, 4 * S) == 4.0


def test_the_report_holds_every_fault(tmp_path: Path) -> None:
    bursts = [KILLED, Burst(("flooded",), 12 * S, 13 * S, None)]
    write(tmp_path, judge(run(), bursts, AGES), bursts, {"seed": 3})
    text = (tmp_path / "chaos.md").read_text(encoding="utf-8")
    assert "| killed | 1 | 0 | 1 | 1.6 | 1.0 |" in text and "| flooded | 1 | 1 | 1 |" in text
    assert "- seed: 3" in text and "- BROKEN: 2, flooded" in text
    assert json.loads((tmp_path / "chaos.json").read_text())["verdict"]["lives"] == 2
