"""Engines that fail are opened again beside the loop; where they cannot be had, the process says so and ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime import recovery
from edge_runtime.attempt import Attempt
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, EnginesLost
from edge_runtime.infer.stages import StageGraph
from edge_runtime.pipeline import Pipeline
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests import tiny
from tests.conftest import WAIT_S, run_beside, tiny_config, wait_for
from tests.test_reload import PATIENT
from tests.test_runtime import Vehicle, driving

S = 1_000_000_000
GRAPH: Any = "engines"


class Engines:
    """A pipeline's word on its engines, and attempts to open them that end when they are told to."""

    def __init__(self, falls_back: bool = False, device_lost: bool = False) -> None:
        self.down: str | None = "engine: broken"
        self.device_lost, self.falls_back, self.answered = device_lost, falls_back, 0
        self.begun: list[tuple[float, bool]] = []
        """When, in seconds, and whether on the CPU."""
        self.gone: list[str] = []
        self.now_s = 0.0
        self.may_open = threading.Event()
        self.error: Exception | None = EngineError("no memory")
        self.recovery = recovery.Recovery(self._begin)
        self.attempt: Attempt[StageGraph] | None = None

    def _begin(self, pipeline: Any, on_cpu: bool) -> Attempt[StageGraph]:
        assert pipeline is self
        self.begun.append((self.now_s, on_cpu))

        def opens() -> StageGraph:
            assert self.may_open.wait(WAIT_S)
            if self.error is not None:
                raise self.error
            return GRAPH  # type: ignore[no-any-return]

        self.attempt = Attempt("engines", opens, lambda _: self.gone.append("taken over"),
                               lambda _: self.gone.append("abandoned"), lambda: None)  # fmt: skip
        return self.attempt

    def turn(self, at_s: float) -> Attempt[StageGraph] | None:
        self.now_s = at_s
        return self.recovery.turn(self, round(at_s * S))  # type: ignore[arg-type]

    def open(self, error: Exception | None) -> None:
        """The attempt that runs comes to its end."""
        self.error = error
        self.may_open.set()
        assert self.attempt is not None and self.attempt.done.wait(WAIT_S)
        self.may_open.clear()


def test_engines_that_work_are_left_alone() -> None:
    engines = Engines()
    engines.down = None
    assert [engines.turn(second) for second in range(3)] == [None] * 3
    assert engines.begun == []


def test_pauses_double_up_to_half_a_minute_and_the_minute_that_is_given_is_kept() -> None:
    engines = Engines()
    ends: BaseException | None = None
    for tenth in range(100, 1000):
        if engines.attempt is not None and not engines.attempt.done.is_set():
            engines.open(EngineError("no memory"))
        try:
            assert engines.turn(tenth / 10) is None
        except EnginesLost as error:
            ends = error
            break
    assert [at_s for at_s, _ in engines.begun] == [10.0, 11.0, 13.0, 17.0, 25.0, 41.0, 73.0]
    assert engines.now_s == 73.1 and str(ends) == "engines cannot be opened for 60 s: no memory; ends"
    assert {on_cpu for _, on_cpu in engines.begun} == {False}, "without a fallback"


def test_the_longest_pause_is_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "GIVE_UP_NS", 10_000 * S)
    engines = Engines()
    for half in range(400):
        if engines.attempt is not None and not engines.attempt.done.is_set():
            engines.open(EngineError("no memory"))
        engines.turn(half / 2)
    assert [at_s for at_s, _ in engines.begun] == [0, 1, 3, 7, 15, 31, 63, 95, 127, 159, 191]


def test_one_attempt_runs_at_a_time_and_one_that_hangs_for_a_minute_ends_it() -> None:
    engines = Engines()
    assert [engines.turn(second) for second in range(60)] == [None] * 60
    assert len(engines.begun) == 1
    with pytest.raises(EnginesLost, match="engine: broken; not open again after 60 s; ends"):
        engines.turn(60)
    engines.open(None)


def test_the_cpu_steps_in_at_the_second_try_or_at_once_where_the_device_is_gone() -> None:
    engines = Engines(falls_back=True)
    engines.turn(0)
    engines.open(EngineError("no memory"))
    engines.turn(0.5)
    engines.turn(1)
    engines.open(None)
    assert engines.begun == [(0, False), (1, True)]
    lost = Engines(falls_back=True, device_lost=True)
    lost.turn(0)
    lost.open(None)
    assert lost.begun == [(0, True)]
    alone = Engines(device_lost=True)
    with pytest.raises(EnginesLost, match="engine: broken; ends, so that another process can open them"):
        alone.turn(0)
    assert alone.begun == []


def test_what_opened_is_handed_over_once_and_pauses_start_over_only_when_the_model_has_answered() -> None:
    engines = Engines()
    engines.answered = 7
    engines.turn(0)
    engines.open(EngineError("no memory"))
    failed = engines.attempt
    assert failed is not None
    engines.turn(0.5)
    failed._thread.join(WAIT_S)
    assert not failed._thread.is_alive(), "nobody waits for what failed"
    engines.turn(1)
    assert engines.turn(1.1) is None, "it still opens"
    engines.open(None)
    opened = engines.turn(1.2)
    assert opened is engines.attempt and opened is not None and opened.opened is GRAPH
    opened.accept()
    engines.down = None
    assert engines.turn(1.3) is None
    engines.down = "engine: broken again"  # before it ever answered: the pause of 2 s goes on from the last attempt
    assert [engines.turn(at_s) for at_s in (1.4, 2.9)] == [None, None]
    assert len(engines.begun) == 2
    engines.turn(3)
    assert len(engines.begun) == 3
    engines.open(None)
    opened = engines.turn(3.1)
    assert opened is not None
    opened.accept()
    engines.down, engines.answered = None, 8
    engines.turn(3.2)
    engines.down = "engine: broken once more"  # it had answered: at once
    engines.turn(3.3)
    assert len(engines.begun) == 4
    engines.open(EngineError("no memory"))
    engines.turn(3.4)
    engines.turn(4.2)
    assert len(engines.begun) == 4
    engines.turn(4.3)
    assert len(engines.begun) == 5, "one second after the one before: the pauses have started over"
    engines.open(EngineError("no memory"))
    assert engines.turn(61) is None, "the minute is counted from when they failed last"


def test_what_is_cancelled_is_abandoned_and_the_next_failure_starts_afresh() -> None:
    engines = Engines()
    engines.recovery.cancel()
    engines.turn(0)
    engines.open(EngineError("no memory"))
    engines.turn(0.5)
    engines.turn(1)
    engines.recovery.cancel()
    engines.open(None)
    assert engines.attempt is not None
    engines.attempt._thread.join(WAIT_S)
    assert engines.gone == ["abandoned"]
    assert engines.turn(1.1) is None
    assert engines.begun == [(0, False), (1, False), (1.1, False)]
    engines.open(EngineError("no memory"))
    assert engines.turn(61) is None, "the minute starts over too"
    assert engines.turn(61) is None
    assert [at_s for at_s, _ in engines.begun] == [0, 1, 1.1, 61]
    engines.open(None)


class LostError(EngineError):
    @property
    def device_lost(self) -> bool:
        return True


class Sabotage:
    """Makes engines fail, and hold their opening, on demand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.failure: EngineError | None = None
        self.refusal: Exception | None = None
        self.may_open = threading.Event()
        self.may_open.set()
        self.opening = threading.Event()
        self.opened_by: list[int] = []
        self.run_by: list[int] = []
        self.closed_by: list[int] = []
        run, opened, close = StageGraph.run, StageGraph.open, StageGraph.close

        def fails(graph: StageGraph, aligned: Any) -> Any:
            self.run_by.append(threading.get_ident())
            failure, self.failure = self.failure, None
            if failure is not None:
                raise failure
            return run(graph, aligned)

        def opens(graph: StageGraph, on_cpu: bool = False) -> None:
            self.opening.set()
            assert self.may_open.wait(WAIT_S)
            if self.refusal is not None:
                raise self.refusal
            self.opened_by.append(threading.get_ident())
            opened(graph, on_cpu)

        def closes(graph: StageGraph) -> None:
            if graph._engines:
                self.closed_by.append(threading.get_ident())
            close(graph)

        patch.setattr(StageGraph, "run", fails)
        patch.setattr(StageGraph, "open", opens)
        patch.setattr(StageGraph, "close", closes)


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    monkeypatch.setattr(recovery, "FIRST_PAUSE_NS", 10_000_000)
    return Sabotage(monkeypatch)


def test_safe_decisions_go_on_while_engines_open_slowly_and_nothing_is_forgotten(
    sabotage: Sabotage, tmp_path: Path
) -> None:
    bundle = tiny.write_bundle(tmp_path / "patient", streams=PATIENT)
    with driving(tiny_config(bundle)) as (runtime, vehicle):
        vehicle.sample(a=9.0)
        assert vehicle.answer(20, "f0").label == "high"
        sabotage.opening.clear()
        sabotage.may_open.clear()
        sabotage.failure = EngineError("engine vision: out of order")
        failed = vehicle.answer(20, "f1")
        assert (failed.source, failed.reason) == ("safe", "engine: engine vision: out of order")
        assert sabotage.opening.wait(WAIT_S)
        for number in range(30):
            safe = vehicle.answer(20, f"during{number}")
            assert (safe.source, safe.reason) == ("safe", "engine: engine vision: out of order")
        sabotage.may_open.set()
        while (answer := vehicle.answer(20, f"after{vehicle.frames}")).source == "safe":
            pass
        assert answer.label == "high", "the samples from before are remembered"
        assert vehicle.subscriber.lost == 0
        runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
        assert vehicle.statuses[-1].engine_restarts == 1 and vehicle.statuses[-1].conserved
        assert "reload" not in vehicle.statuses[-1].streams["camera"].dropped
    assert sabotage.run_by[-1] == sabotage.opened_by[-1] != sabotage.opened_by[0], "engines belong to who opened them"
    assert len(sabotage.closed_by) == 2 and sabotage.closed_by[-1] == sabotage.opened_by[-1]


@contextmanager
def ending(bundle: Path, engine: EngineConfig) -> Iterator[tuple[Runtime, Vehicle, list[BaseException]]]:
    """A runtime that is expected to end by itself, and with what."""
    runtime = Runtime(msgspec.structs.replace(tiny_config(bundle), engine=engine))
    thread, errors = run_beside(runtime)
    try:
        vehicle = Vehicle(runtime)
        yield runtime, vehicle, errors
        thread.join(WAIT_S)
        assert not thread.is_alive()
        vehicle.close()
    finally:
        runtime.stop()
        thread.join()


NO_FALLBACK = EngineConfig(backend="onnxruntime", fallback=False)


def test_a_lost_device_ends_it_after_a_safe_decision(sabotage: Sabotage, tiny_bundle_path: Path) -> None:
    with ending(tiny_bundle_path, NO_FALLBACK) as (_, vehicle, errors):
        assert vehicle.answer(240, "f0").source == "model"
        sabotage.failure = LostError("the GPU has fallen off the bus")
        assert vehicle.answer(240, "f1").source == "safe"
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
        assert vehicle.decisions[-1].source == "safe"
    assert isinstance(errors[0], EnginesLost) and "fallen off the bus" in str(errors[0])


def test_with_a_fallback_a_lost_device_is_left_for_the_cpu(
    sabotage: Sabotage, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    open_graph = Pipeline.open_graph

    def noting(pipeline: Pipeline, on_cpu: bool = False) -> StageGraph:
        asked.append(on_cpu)
        return open_graph(pipeline, on_cpu)

    monkeypatch.setattr(Pipeline, "open_graph", noting)
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        vehicle.answer(240, "f0")
        sabotage.failure = LostError("gone")
        vehicle.answer(240, "f1")
        while vehicle.answer(240, f"g{vehicle.frames}").source == "safe":
            pass
    assert asked == [False, True]


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "never opens"])
def test_engines_that_cannot_be_opened_for_a_minute_end_it(
    hangs: bool, sabotage: Sabotage, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "GIVE_UP_NS", 300_000_000)
    with ending(tiny_bundle_path, NO_FALLBACK) as (_, vehicle, errors):
        vehicle.answer(240, "f0")
        if hangs:
            sabotage.may_open.clear()
        sabotage.refusal = EngineError("no memory")
        sabotage.failure = EngineError("broken")
        reasons = set()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
        reasons = {one.reason for one in vehicle.decisions[1:] if one.captured_ns > vehicle.decisions[0].captured_ns}
        assert vehicle.decisions[-1].source == "safe" and "engine: broken" in reasons
    sabotage.may_open.set()
    assert isinstance(errors[0], EnginesLost)


def test_pauses_grow_and_start_over_once_the_model_has_answered(
    sabotage: Sabotage, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driving(tiny_config(tiny_bundle_path)) as (runtime, vehicle):
        vehicle.answer(240, "f0")
        sabotage.refusal = EngineError("not yet")
        sabotage.failure = EngineError("broken")
        vehicle.answer(240, "f1")
        wait_for(lambda: runtime._recovery._pause_ns >= 80_000_000, "four attempts")
        sabotage.refusal = None
        while vehicle.answer(240, f"g{vehicle.frames}").source == "safe":
            pass
        wait_for(lambda: runtime._recovery._pause_ns == 0, "the pauses to start over")


def test_a_reload_while_engines_are_down_brings_new_ones(sabotage: Sabotage, tmp_path: Path) -> None:
    # A reload collects garbage over all that the tests before have left in this process: frames wait for that.
    good = tiny_config(tiny.write_bundle(tmp_path / "patient", streams=PATIENT))
    with driving(good) as (runtime, vehicle):
        vehicle.answer(240, "f0")
        sabotage.refusal = EngineError("not yet")
        sabotage.failure = EngineError("broken")
        vehicle.answer(240, "f1")
        wait_for(lambda: runtime._recovery._pause_ns >= 20_000_000, "an attempt")
        sabotage.refusal = None
        runtime.reload(lambda: good)
        deadline = time.monotonic() + WAIT_S
        while True:  # a frame that comes in the moment of the change is dropped, and counted as `reload`
            vehicle.frame(240, f"g{vehicle.frames}")
            message = vehicle.read()
            if isinstance(message, DecisionMessage) and message.source == "model" and message.latency_ms.queue > 0:
                break
            assert time.monotonic() < deadline, "the new engines never answer"
