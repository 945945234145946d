"""What the long benchmarks make of what they hear: overload, soak, subscribers, cold."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks import overload, soak
from benchmarks.__main__ import benchmarks
from benchmarks.live import Heard
from benchmarks.subscribers import Crowd
from benchmarks.workload import Play, WorkloadSource, decode_play, encode_play, make_workload
from edge_runtime.capture.intake import Intake
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from tests.conftest import WAIT_S
from tests.publish.test_sinks import decision, status

MS = 1_000_000


def heard(latencies: list[float], period_ms: float = 10.0, reason: str | None = None) -> Heard:
    captured = [int(number * period_ms * MS) for number in range(len(latencies))]
    statuses = [
        msgspec.structs.replace(status(second), uptime_s=float(second), memory_mb=100.0 + (second > 400), reason=reason)
        for second in range(600)
    ]
    return Heard(
        frames=[(ms - 3.0, 1.0, 1.5, 0.25, 0.25) for ms in latencies],
        facts={"dropped": {"replaced": 7}, "captured": 100, "lost": 0},
        captured_ns=captured,
        received_ns=[at + int(ms * MS) for at, ms in zip(captured, latencies, strict=True)],
        statuses=statuses,
    )


def test_a_play_goes_to_another_process_and_back() -> None:
    play = Play("b", "ipc://e", 30, "1920x1080-raw", None, ("a", "b"), ((0, 30.0), (10, 5.0)))
    assert decode_play(encode_play(play)) == play


class SlowIntake(Intake):
    """Takes 10 ms for a picture, and keeps what it is given."""

    def __init__(self) -> None:
        self.pictures, self.gone, self.sensed, self.said = 0, 0, 0, 0

    def put(self, stream: str, content: Any, captured_ns: int | None = None, id: str | None = None) -> None:
        time.sleep(0.01)
        self.pictures += 1

    def replaced(self, stream: str) -> None:
        self.gone += 1

    def expected_hz(self, stream: str) -> float | None:
        return 30.0

    def text(self, *given: Any, **named: Any) -> None:
        self.said += 1

    def sample(self, *given: Any, **named: Any) -> None:
        self.sensed += 1


@pytest.mark.parametrize("newest", [True, False])
def test_a_flood_of_pictures_is_none_of_sensor_values(newest: bool) -> None:
    workload = make_workload()
    intake = SlowIntake()
    play = Play("b", "e", frames=100, paces=((0, 500.0),), newest=newest)
    WorkloadSource(intake, workload, play, "camera.front")._run()
    assert intake.pictures + intake.gone == 100
    assert (intake.gone > 50) is newest, "every frame comes, late, unless only the newest counts"
    # A fifth of a second of the drive, however many pictures there were in it.
    assert 1 <= intake.sensed <= sum(len(workload.sensed(index)) for index in range(7))
    assert intake.said == 1


def test_overload_is_judged_while_it_lasts_and_a_second_after() -> None:
    latencies = [20.0] * 400 + [5.0] * 400
    figures = overload._figures(
        heard(latencies, reason="backlog: 7 of 9 camera messages were replaced"), served_hz=50.0, seconds=4.0
    )
    assert figures["p99_ms"] == pytest.approx(20.0) and figures["after_p99_ms"] == pytest.approx(5.0)
    assert figures["bound_ms"] == pytest.approx(20.0 + 2.75)
    assert all(item.held for item in overload.judged(figures))
    slow = overload._figures(heard([40.0] * 400 + [30.0] * 400), served_hz=50.0, seconds=4.0)
    assert [item.held for item in overload.judged(slow)] == [False, False, True, False]
    unbalanced = heard(latencies, reason="backlog: 1")
    unbalanced.statuses[5] = msgspec.structs.replace(unbalanced.statuses[5], conserved=False)
    judged = overload.judged(overload._figures(unbalanced, 50.0, 4.0))
    assert [item.figure for item in judged if not item.held] == ["overload: accounts that do not balance"]


def test_growth_is_between_the_first_and_the_last_tenth_once_settled() -> None:
    figures = soak._figures(heard([5.0] * 1000))
    assert figures["growth_mb"] == pytest.approx(1.0) and figures["resident_mb"] == 101.0
    assert figures["p99_first_quarter_ms"] == figures["p99_last_quarter_ms"] == pytest.approx(5.0)
    assert figures["conserved"] and figures["lost"] == 0
    assert all(item.held for item in soak.judged(figures))
    worse = figures | {"growth_mb": 1.1, "resident_mb": 151.0, "lost": 1, "conserved": False}
    assert not any(item.held for item in soak.judged(worse))


def test_a_crowd_reads_and_its_stalled_one_does_not() -> None:
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 10)
    crowd = Crowd(publisher.endpoint, 3, stalled=True)
    deadline, number = time.monotonic() + WAIT_S, 0
    try:
        while crowd.received < 60:
            publisher.publish(published(decision(number)))
            publisher.serve()
            number += 1
            time.sleep(0.01)
            assert time.monotonic() < deadline
    finally:
        crowd.close()
        publisher.close()


def test_a_cold_start_is_measured_on_the_command_itself(tmp_path: Path) -> None:
    result = CliRunner().invoke(benchmarks, ["cold", "--rounds", "1", "--pause", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "cold.json").read_text())
    assert 0.1 < figures["first_decision_s"] < WAIT_S
    assert 0 < figures["usual_ms"] < 1000 and 0 < figures["after_1_s_of_silence_ms"] < 1000
    assert figures["machine"]["cores"] >= 1
