from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from edge_runtime.capture import slow_lane as module
from edge_runtime.capture.slow_lane import SlowLane
from tests.conftest import wait_for


class Load(NamedTuple):
    name: str
    size: int = 1


class Line:
    """A lane whose work goes on only as far as a test lets it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.refused: list[str] = []
        self.go = threading.Semaphore(0)
        self.lane = SlowLane[Load]("test", self.admit, lambda load: self.refused.append(load.name))

    def admit(self, load: Load) -> None:
        self.begun.append(load.name)
        self.go.acquire()

    def busy(self) -> None:
        """Until `close` something is in hand that takes its time."""
        self.lane.put("busy", "x", Load("busy"))
        wait_for(lambda: self.begun == ["busy"], "the first")

    def finish(self, count: int) -> list[str]:
        """What has been begun once `count` loads were."""
        for _ in range(count):
            self.go.release()
        wait_for(lambda: len(self.begun) == count, f"{count} loads")
        return self.begun

    def close(self) -> list[Load]:
        for _ in range(1000):
            self.go.release()
        return self.lane.close(20.0)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def test_the_newest_of_each_sender_and_stream_waits_and_they_take_turns(line: Line) -> None:
    line.busy()
    for name, earlier in (("a1", None), ("a2", "a1"), ("a3", "a2")):
        assert line.lane.put("a", "x", Load(name)) == (True, None if earlier is None else Load(earlier))
    assert line.lane.put("b", "x", Load("b1")) == (True, None)
    assert line.lane.put("a", "y", Load("y1")) == (True, None)
    assert line.lane.put("a", "x", Load("a4")) == (True, Load("a3"))
    assert line.finish(4) == ["busy", "a4", "b1", "y1"]
    line.lane.put("a", "x", Load("a5"))
    assert line.finish(5)[-1] == "a5"
    assert line.refused == []


def test_what_waits_is_bounded_and_a_newer_one_takes_its_place(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 10)
    line.busy()
    assert line.lane.put("a", "x", Load("a", 6)) == (True, None)
    assert line.lane.put("b", "x", Load("b", 5)) == (False, None)
    assert line.lane.put("c", "x", Load("c", 4)) == (True, None)
    assert line.lane.put("a", "x", Load("a2", 6)) == (True, Load("a", 6))
    assert line.lane.put("c", "x", Load("c2", 5)) == (False, None)
    assert line.finish(3) == ["busy", "a2", "c"]


def test_whose_part_is_used_up_is_refused_and_the_others_go_on(line: Line) -> None:
    line.busy()
    line.lane._shares.take("flood", time.monotonic_ns())
    line.lane._shares.spend("flood", 1e9)
    line.lane.put("flood", "x", Load("flood"))
    line.lane.put("honest", "x", Load("honest"))
    assert line.finish(2) == ["busy", "honest"]
    assert line.refused == ["flood"]


def test_at_its_end_it_gives_back_what_waits(line: Line) -> None:
    line.busy()
    line.lane.put("a", "x", Load("a"))
    line.lane.put("b", "x", Load("b"))
    assert line.lane.close(0.0) == [Load("a"), Load("b")]
    line.go.release()
    line.lane._thread.join(20.0)
    assert not line.lane._thread.is_alive() and line.begun == ["busy"]


def test_one_that_never_had_anything_ends_too() -> None:
    assert SlowLane[Load]("test", lambda load: None, lambda load: None).close() == []
