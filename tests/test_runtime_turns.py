"""The runtime's loop turn by turn, by a clock that a test moves: what is decided, when, and what is due besides."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.config import Config, RealtimeConfig
from edge_runtime.infer.stages import StageGraph
from edge_runtime.messages import AlignedSet, Frame, Message, Sample, Utterance
from edge_runtime.notify import Notifier
from edge_runtime.publish.outlet import DirectOutlet
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.runtime import STATUS_INTERVAL_NS, TURN_NS, Runtime
from edge_runtime.streams import NS_PER_MS, StreamSpec
from edge_runtime.wire import BundleId, DecisionMessage, RecordingHealth, StatusMessage
from tests import tiny
from tests.conftest import tiny_config
from tests.test_reload import PATIENT
from tests.test_session import StillClock

HEARTBEAT_MS = 200


class Kept(Sink):
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.items: list[DecisionMessage | StatusMessage] = []
        self.sessions: list[str] = []
        self.messages: list[Message] = []
        self.served = 0

    def publish(self, item: Published) -> None:
        self.items.append(item.message)

    def session(self, config: Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:
        self.sessions.append(bundle.version)

    def message(self, message: Message) -> None:
        self.messages.append(message)

    def recording(self) -> RecordingHealth:
        return RecordingHealth("a.mcap", len(self.messages), 0.0, None)

    def serve(self) -> None:
        self.served += 1


class Told(Notifier):
    """What the service manager would be told."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "4000"})
        self.lines: list[str] = []

    def send(self, state: str) -> None:
        self.lines.append(state)


class Loop:
    """A runtime whose loop a test turns, with real engines and mailboxes, and no threads but its sources'."""

    def __init__(self, bundle: Path, realtime: RealtimeConfig | None = None, records: bool = False) -> None:
        self.clock = StillClock()
        self.runtime = Runtime(msgspec.structs.replace(tiny_config(bundle), realtime=realtime), self.clock)
        self.sink = Kept()
        self.told = self.runtime._notifier = Told()
        self.runtime._outlets = [DirectOutlet("1 kept", lambda: self.sink)]
        self.runtime._taps = self.runtime._outlets if records else []
        self.session = self.runtime._session = self.runtime._open_session(self.runtime._config)
        self.runtime._start()
        self.sink.items.clear()
        self.told.lines.clear()

    def put(self, make: Callable[[int], Message]) -> None:
        stream = make(0).stream
        self.session.mailboxes[stream].put(make)

    def frame(self, at_ms: float, brightness: int = 240) -> None:
        image = np.full((tiny.HEIGHT, tiny.WIDTH, 3), brightness, np.uint8)
        self.put(lambda seq: Frame("camera", seq, round(at_ms * NS_PER_MS), image))

    def text(self, at_ms: float, text: str = "stop") -> None:
        self.put(lambda seq: Utterance("text", seq, round(at_ms * NS_PER_MS), text))

    def turn(self, at_ms: float) -> list[DecisionMessage | StatusMessage]:
        """A turn at that time; what it published."""
        self.clock.at_ns = round(at_ms * NS_PER_MS)
        self.runtime._ring()
        self.runtime._turn()
        items, self.sink.items[:] = list(self.sink.items), []
        return items

    def decisions(self, at_ms: float) -> list[DecisionMessage]:
        return [item for item in self.turn(at_ms) if isinstance(item, DecisionMessage)]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    policy = tiny.DecisionPolicy("stop", heartbeat_ms=HEARTBEAT_MS)
    loop = Loop(tiny.write_bundle(tmp_path / "b", streams=PATIENT, policy=policy))
    yield loop
    loop.session.close()


def test_a_frame_is_decided_on_in_the_turn_that_finds_it(loop: Loop) -> None:
    loop.frame(10_010)
    (decision,) = loop.decisions(10_013)
    assert (decision.captured_ns, decision.published_ns) == (10_010 * NS_PER_MS, 10_013 * NS_PER_MS)
    assert (decision.latency_ms.queue, decision.latency_ms.capture_to_publish) == (3.0, 3.0)
    assert (decision.seq, decision.label, decision.source) == (0, "bright", "model")
    assert loop.told.lines == ["READY=1", "WATCHDOG=1"], "the first decision makes it ready, each feeds the watchdog"
    assert loop.decisions(10_014) == []
    loop.frame(10_015)
    (decision,) = loop.decisions(10_015)
    assert decision.seq == 1 and loop.told.lines == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    counts = loop.session.accounts()["camera"]
    assert (counts.captured, counts.decided, counts.in_flight) == (2, 2, 0)


def test_every_message_rings_and_one_turn_takes_all_that_rang(loop: Loop) -> None:
    for number in range(5):
        loop.frame(10_001 + number)
    loop.text(10_006)
    loop.clock.at_ns = 10_010 * NS_PER_MS
    loop.runtime._turn()  # woken by what came, without being rung for
    (decision,) = (item for item in loop.sink.items if isinstance(item, DecisionMessage))
    assert decision.captured_ns == 10_005 * NS_PER_MS and decision.dropped == {"replaced": 4}
    assert loop.runtime._wake.empty()


def test_the_heart_beats_when_nothing_was_decided_for_its_time_and_not_before(loop: Loop) -> None:
    assert loop.decisions(10_000 + HEARTBEAT_MS - 0.001) == []
    (beat,) = loop.decisions(10_000 + HEARTBEAT_MS)
    assert (beat.captured_ns, beat.latency_ms.queue) == ((10_000 + HEARTBEAT_MS) * NS_PER_MS, 0.0)
    assert (beat.source, beat.reason) == ("safe", "camera missing")
    assert loop.decisions(10_000 + HEARTBEAT_MS) == []
    loop.frame(10_300)
    assert len(loop.decisions(10_300)) == 1
    assert loop.decisions(10_300 + HEARTBEAT_MS - 1) == [], "counted from the last decision"
    assert len(loop.decisions(10_300 + HEARTBEAT_MS)) == 1


def test_what_the_next_decision_needs_is_computed_in_turns_that_decide_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: list[int] = []
    prefetch = StageGraph.prefetch

    def noted(graph: StageGraph, aligned: AlignedSet, streams: Mapping[str, StreamSpec]) -> None:
        ahead.append(aligned.reference_ns // NS_PER_MS)
        prefetch(graph, aligned, streams)

    monkeypatch.setattr(StageGraph, "prefetch", noted)
    loop.text(10_010)
    loop.put(lambda seq: Sample("sensors", seq, 10_010 * NS_PER_MS, {"a": 5.0}))
    assert loop.turn(10_012) == []
    assert ahead == [10_012]
    loop.frame(10_020)
    (decision,) = loop.decisions(10_021)
    assert ahead == [10_012], "a turn that decides is over at once"
    infer = decision.latency_ms.infer
    assert (infer["text"], infer["sensors"]) == (0, 0) and infer["vision"] > 0 and infer["fusion"] > 0
    assert decision.label == "stop"


def test_the_status_comes_once_a_second_right_after_a_decision_or_a_turn_later_without_one(loop: Loop) -> None:
    due_ms = 10_000 + STATUS_INTERVAL_NS / NS_PER_MS
    for at_ms in np.arange(10_100, due_ms, HEARTBEAT_MS / 2):
        assert not any(isinstance(item, StatusMessage) for item in loop.turn(float(at_ms)))
    loop.frame(due_ms - 1)
    assert [type(item) for item in loop.turn(due_ms - 0.001)] == [DecisionMessage]
    loop.frame(due_ms)
    decision, status = loop.turn(due_ms)
    assert isinstance(decision, DecisionMessage) and isinstance(status, StatusMessage)
    assert status.published_ns == due_ms * NS_PER_MS and status.decisions == decision.seq + 1
    assert loop.told.lines[-1].startswith("STATUS=")
    due_ms += STATUS_INTERVAL_NS / NS_PER_MS

    def statuses(at_ms: float) -> int:
        return sum(isinstance(item, StatusMessage) for item in loop.turn(at_ms))

    assert statuses(due_ms) == 0, "the time after a decision is the quietest: it is waited for"
    assert statuses(due_ms + TURN_NS / NS_PER_MS - 0.001) == 0
    assert statuses(due_ms + TURN_NS / NS_PER_MS) == 1


def test_sinks_are_served_in_every_turn_and_told_of_the_session_once(loop: Loop) -> None:
    before = loop.sink.served
    for number in range(3):
        loop.turn(10_001 + number)
    assert loop.sink.served == before + 3
    assert loop.sink.sessions == ["1.0.0"]


def test_after_sleep_sinks_are_told_that_the_memory_is_empty(loop: Loop) -> None:
    loop.text(10_010)
    loop.turn(10_011)
    loop.clock.asleep_ns += 3_600_000 * NS_PER_MS
    loop.turn(10_012)
    assert loop.sink.sessions == ["1.0.0", "1.0.0"]
    loop.frame(10_020)
    (decision,) = loop.decisions(10_020)
    assert decision.label == "bright" and decision.dropped == {"slept": 1}


@pytest.mark.parametrize("records", [True, False])
def test_a_recorder_is_shown_every_message_that_is_taken_and_other_sinks_none(tmp_path: Path, records: bool) -> None:
    loop = Loop(tiny.write_bundle(tmp_path / "b", streams=PATIENT), records=records)
    loop.frame(10_010)
    loop.text(10_009)
    loop.turn(10_011)
    loop.runtime._publish_status()
    status = loop.sink.items[-1]
    assert isinstance(status, StatusMessage)
    if records:
        assert [message.stream for message in loop.sink.messages] == ["text", "camera"]
        assert status.recording == RecordingHealth("a.mcap", 2, 0.0, None)
    else:
        assert loop.sink.messages == [] and status.recording is None
    assert list(status.sinks or {}) == ["1 kept"]
    loop.session.close()


class Bell:
    """A queue that notes how long it is waited for; rung after so many looks."""

    def __init__(self, quiet_for: int = 1 << 30) -> None:
        self.waited_s: list[float | None] = []
        self.quiet_for = quiet_for

    def get(self, timeout: float | None = None) -> None:
        self.waited_s.append(timeout)
        raise queue.Empty

    def put(self, item: None) -> None:
        pass

    def empty(self) -> bool:
        self.quiet_for -= 1
        return self.quiet_for > 0


def bell(loop: Loop, quiet_for: int = 1 << 30) -> Bell:
    loop.runtime._wake = rung = Bell(quiet_for)  # type: ignore[assignment]
    return rung


@pytest.mark.parametrize(("heartbeat_ms", "waits_s"), [(20.0, 0.02), (50.0, 0.05), (200.0, 0.05)])
def test_it_sleeps_for_a_turn_or_a_heartbeat_at_most(tmp_path: Path, heartbeat_ms: float, waits_s: float) -> None:
    policy = tiny.DecisionPolicy("stop", heartbeat_ms=heartbeat_ms)
    loop = Loop(tiny.write_bundle(tmp_path / "b", policy=policy))
    rung = bell(loop)
    loop.runtime._wait()
    assert rung.waited_s == [waits_s]
    loop.session.close()


class Ticking(StillClock):
    """Goes on by a tenth of a millisecond with every look, once told to."""

    ticks = False

    def now_ns(self) -> int:
        self.at_ns += self.ticks * NS_PER_MS // 10
        return self.at_ns


def test_it_stays_awake_around_the_time_that_a_frame_is_due(tmp_path: Path) -> None:
    loop = Loop(tiny.write_bundle(tmp_path / "b", streams=PATIENT), RealtimeConfig(busy_poll_ms=2.0))
    runtime, period_ms = loop.runtime, 1000 / 30
    clock = loop.clock = runtime._clock = Ticking()
    clock.at_ns = 10_000 * NS_PER_MS
    rung = bell(loop)
    runtime._wait()
    assert rung.waited_s == [0.05], "nothing is due yet"
    loop.frame(10_000)
    loop.turn(10_001)
    assert runtime._due_ns == 10_000 * NS_PER_MS + int(period_ms * NS_PER_MS), "a frame's time after the last one"
    rung = bell(loop)
    clock.at_ns = 10_001 * NS_PER_MS
    runtime._wait()
    assert rung.waited_s == [pytest.approx((period_ms - 2 - 1) / 1000)], "until two milliseconds before"
    assert runtime._due_ns
    clock.at_ns = runtime._due_ns - 2 * NS_PER_MS
    clock.ticks = True
    rung = bell(loop)
    due_ns = runtime._due_ns
    runtime._wait()
    assert due_ns + 2 * NS_PER_MS <= clock.at_ns <= due_ns + 2.2 * NS_PER_MS, "and until two after"
    assert (runtime._due_ns, rung.waited_s) == (0, [0.05])
    # What comes meanwhile ends it.
    runtime._due_ns = due_ns = clock.at_ns + NS_PER_MS
    bell(loop, quiet_for=3)
    runtime._wait()
    assert clock.at_ns < due_ns
    loop.session.close()


def test_without_busy_polling_the_loop_sleeps(loop: Loop) -> None:
    loop.frame(10_000)
    loop.turn(10_001)
    rung = bell(loop)
    loop.runtime._wait()
    assert rung.waited_s == [0.05]


def test_at_the_end_what_waits_is_decided_on_and_all_is_said(loop: Loop) -> None:
    loop.frame(10_100)
    loop.frame(10_110)
    loop.clock.at_ns = 10_120 * NS_PER_MS
    loop.runtime._drain()
    stopping, last, goodbye, stopped = loop.sink.items
    assert isinstance(stopping, StatusMessage) and isinstance(stopped, StatusMessage)
    assert isinstance(last, DecisionMessage) and isinstance(goodbye, DecisionMessage)
    assert (stopping.state, stopped.state, stopped.decisions) == ("stopping", "stopped", 2)
    assert (last.captured_ns, last.latency_ms.queue) == (10_110 * NS_PER_MS, 10.0)
    assert (goodbye.captured_ns, goodbye.latency_ms.queue) == (10_120 * NS_PER_MS, 0.0)
    assert stopped.conserved and stopped.streams["camera"].in_flight == 0
    assert loop.told.lines[0] == "STOPPING=1" and loop.told.lines[-1] == "STATUS=stopped"
    assert all(source.ended for source in loop.session.sources)
