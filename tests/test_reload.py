"""A reload: what fails changes nothing at all, what succeeds pauses nothing and loses nothing without a count."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge_runtime import Subscriber, config
from edge_runtime.config import Config, load_config
from edge_runtime.errors import ConfigError, EngineError
from edge_runtime.pipeline import Pipeline
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage, StatusMessage
from tests import tiny
from tests.conftest import WAIT_S, running, tiny_config, wait_for
from tests.test_runtime import Vehicle

Load = Callable[[], Config]
PATIENT = {
    name: msgspec.structs.replace(spec, max_age_ms=60_000.0, **({"frozen_after": 0} if name == "camera" else {}))
    for name, spec in tiny.STREAMS.items()
}


class Reloading:
    """A runtime in this process, what it reloads from, and what it answered."""

    def __init__(self, configuration: Config) -> None:
        self.answers: list[str | None] = []
        self.runtime = Runtime(configuration, answer=self.answers.append)

    def reload(self, load: Load) -> str | None:
        """Reload and wait for the answer."""
        before = len(self.answers)
        self.runtime.reload(load)
        wait_for(lambda: len(self.answers) > before, "the answer to a reload")
        return self.answers[-1]


@contextmanager
def reloading(configuration: Config) -> Iterator[tuple[Reloading, Vehicle]]:
    both = Reloading(configuration)
    with running(both.runtime):
        vehicle = Vehicle(both.runtime)
        try:
            yield both, vehicle
        finally:
            vehicle.close()


def status(vehicle: Vehicle) -> StatusMessage:
    """A status that was made after this call."""
    asked_ns = time.monotonic_ns()
    while not (vehicle.statuses and vehicle.statuses[-1].published_ns > asked_ns):
        vehicle.read()
    return vehicle.statuses[-1]


def broken(folder: Path, good: Config, port: int) -> dict[str, Load]:
    """A reload of every sort that must be refused."""

    def bundle(name: str, spoil: Callable[[Path], object]) -> Load:
        path = tiny.write_bundle(folder / name, streams=PATIENT)
        spoil(path)
        return lambda: msgspec.structs.replace(good, bundle=str(path))

    def pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def text(name: str, content: str | None) -> Load:
        path = folder / f"{name}.toml"
        if content is None:
            os.mkfifo(path)
        else:
            path.write_text(content)
        return lambda: load_config(path)

    def raises(error: BaseException) -> Load:
        def load() -> Config:
            raise error

        return load

    def source(*rows: config.SourceConfig) -> Load:
        return lambda: msgspec.structs.replace(good, source=(*good.source, *rows))

    fusion = "stages/fusion.fp32.onnx"
    return {
        "missing bundle": lambda: msgspec.structs.replace(good, bundle=str(folder / "none")),
        "missing file": bundle("missing", lambda path: (path / fusion).unlink()),
        "half copied": bundle("half", lambda path: (path / fusion).write_bytes((path / fusion).read_bytes()[:99])),
        "pipe in the bundle": bundle("pipe", lambda path: pipe(path / fusion)),
        "pipe as manifest": bundle("pipe2", lambda path: pipe(path / "manifest.json")),
        "no manifest": bundle("empty", lambda path: (path / "manifest.json").write_bytes(b"{")),
        "not signed": lambda: msgspec.structs.replace(good, allow_unsigned=False),
        "no TOML": text("words", "nonsense = "),
        "deep TOML": text("deep", "a = " + "[" * 100_000),
        "huge TOML": text("huge", "#" * (2 << 20)),
        "pipe as TOML": text("fifo", None),
        "busy port": source(config.ZmqSource(f"tcp://127.0.0.1:{port}")),
        "missing source file": source(config.FileSource("sensors", str(folder / "none.csv"))),
        "wrong stream": source(config.CameraSource("sensors", 99)),
        "other name": lambda: msgspec.structs.replace(good, name="other"),
        "engine": raises(EngineError("engine vision: out of memory")),
        "memory": raises(MemoryError()),
        "bug": raises(RuntimeError("a bug")),
        "exit": raises(SystemExit(3)),
    }


def disturb(both: Reloading, sorts: dict[str, Load], refused: list[tuple[str, str | None]]) -> None:
    """Try every sort twice, in any order, at random moments."""
    order = list(sorts) * 2
    random.shuffle(order)
    for name in order:
        refused.append((name, both.reload(sorts[name])))
        time.sleep(random.uniform(0, 0.02))


def drive(vehicle: Vehicle, steps: int) -> list[tuple[object, ...]]:
    """Play a drive; all that was decided on its frames, but for times."""
    rng = random.Random(7)
    decided: list[tuple[object, ...]] = []
    for step in range(steps):
        if step % 3 == 0:
            vehicle.sample(a=rng.uniform(-5, 9), b=rng.uniform(-1, 9))
        if step % 10 == 5:
            vehicle.text(rng.choice(tiny.SENTENCES))
        answer = vehicle.answer(rng.randrange(20, 240), f"f{step}")
        inputs = {name: (part.present, part.seq, part.id) for name, part in answer.inputs.items()}
        decided.append((answer.label, answer.probabilities, answer.source, answer.reason, inputs, answer.bundle))
    return decided


def test_broken_reloads_at_any_moment_change_no_decision_and_no_account(tmp_path: Path) -> None:
    policy = tiny.DecisionPolicy("stop", heartbeat_ms=200)
    path = tiny.write_bundle(tmp_path / "good", streams=PATIENT, policy=policy)
    rows = tmp_path / "b.csv"
    rows.write_text("t_s,b\n" + "\n".join(f"{0.01 * row:.2f},{row % 10}" for row in range(300)) + "\n")
    outcomes = []
    for disturbed in (False, True):
        good = tiny_config(path)
        with reloading(good) as (both, vehicle), socket.create_server(("127.0.0.1", 0)) as held:
            sorts = broken(tmp_path / str(disturbed), good, held.getsockname()[1]) if disturbed else {}
            refused: list[tuple[str, str | None]] = []
            thread = threading.Thread(target=disturb, args=(both, sorts, refused))
            thread.start()
            decided = drive(vehicle, 120)
            while thread.is_alive():
                vehicle.read()
            thread.join()
            last = status(vehicle)
            accounts = {name: stream.captured for name, stream in last.streams.items()}
            outcomes.append((decided, accounts, last.conserved, last.unrouted, vehicle.subscriber.lost))
            if disturbed:
                assert {name for name, reason in refused if reason is not None} == set(sorts)
                assert all(reason is not None for _, reason in refused), refused
                assert last.reload is not None
                assert (last.reload.succeeded, last.reload.refused) == (0, 2 * len(sorts))
                assert last.reload.reason == refused[-1][1]
    assert outcomes[0] == outcomes[1]


def test_a_file_stays_at_its_place_through_reloads_that_fail_and_that_succeed(
    tmp_path: Path, tiny_bundle_path: Path
) -> None:
    (tmp_path / "s.csv").write_text("t_s,a\n" + "\n".join(f"{0.01 * row:.2f},{row % 90}" for row in range(200)) + "\n")
    # It ends by itself, so it must last longer than all reloads on a machine that does much else.
    source = config.FileSource("sensors", str(tmp_path / "s.csv"), speed=0.2)
    good = tiny_config(tiny_bundle_path, source, stop_at_end=True)
    both = Reloading(good)
    with running(both.runtime), Subscriber(both.runtime.decisions_endpoint) as subscriber:
        for _ in range(3):
            assert both.reload(lambda: msgspec.structs.replace(good, bundle="none")) is not None
            assert both.reload(lambda: good) is None
        while subscriber.status is None or subscriber.status.state != "stopped":
            assert subscriber.receive(WAIT_S) is not None
        sensors = subscriber.status.streams["sensors"]
    assert sensors.captured == 200
    assert sensors.balanced and sensors.in_flight == 0


def test_hundreds_of_reloads_lose_no_message_without_a_count(tiny_bundle_path: Path) -> None:
    """In a process of its own: each reload collects garbage, here over all that the tests before have left."""
    code = (
        "import sys, pathlib; from tests.test_reload import reload_hundreds; reload_hundreds(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle_path)], cwd=Path(__file__).parents[1], check=True)


def reload_hundreds(bundle: Path) -> None:
    reloads, sent = 300, 0
    good = tiny_config(bundle)
    with reloading(good) as (both, vehicle):
        endpoint = both.runtime.input_endpoints
        for _ in range(reloads):
            vehicle.frame(100)
            vehicle.sample(a=1.0)
            sent += 1
            assert both.reload(lambda: good) is None
        assert both.runtime.input_endpoints == endpoint, "the socket was opened again"
        vehicle.answer(240, "last")
        both.runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
    last = vehicle.statuses[-1]
    assert last.streams["camera"].captured == sent + 1
    assert last.streams["sensors"].captured == sent
    assert last.conserved and all(item.conserved for item in vehicle.statuses)
    assert last.reload is not None and last.reload.succeeded == reloads
    assert vehicle.subscriber.lost == 0 and vehicle.subscriber.restarts == 0
    assert threading.active_count() < 20


def test_decisions_go_on_while_engines_open_slowly(tmp_path: Path, tiny_bundle_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "b", version="2.0.0")
    good = tiny_config(tiny_bundle_path)
    opening, may_open = threading.Event(), threading.Event()
    threads: list[int] = []
    original = Pipeline.__init__

    def slow(self: Pipeline, *arguments: object, **named: object) -> None:
        opening.set()
        assert may_open.wait(WAIT_S)
        threads.append(threading.get_ident())
        original(self, *arguments, **named)  # type: ignore[arg-type]

    with reloading(good) as (both, vehicle), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "__init__", slow)
        both.runtime.reload(lambda: msgspec.structs.replace(good, bundle=str(other)))
        assert opening.wait(WAIT_S)
        for number in range(20):
            answer = vehicle.answer(240, f"during{number}")
            assert (answer.bundle.version, answer.source) == ("1.0.0", "model")
        assert status(vehicle).reload == msgspec.structs.replace(status(vehicle).reload, opening=True)  # type: ignore[type-var]
        decide = Pipeline.decide

        def noting(self: Pipeline, *arguments: object, **named: object) -> object:
            threads.append(threading.get_ident())
            return decide(self, *arguments, **named)  # type: ignore[arg-type]

        may_open.set()
        wait_for(lambda: both.answers == [None], "the reload")
        patch.setattr(Pipeline, "decide", noting)
        while vehicle.answer(240, f"after{vehicle.frames}").bundle.version != "2.0.0":
            pass
        assert len(set(threads)) == 1, "engines belong to the thread that opened them"


def test_a_runtime_is_stopped_while_a_reload_never_ends(tiny_bundle_path: Path) -> None:
    never = threading.Event()

    def load() -> Config:
        never.wait()
        raise ConfigError("late")

    with reloading(tiny_config(tiny_bundle_path)) as (both, vehicle):
        both.runtime.reload(load)
        assert vehicle.answer(240, "f").source == "model"
    assert both.answers == []
    never.set()
    wait_for(lambda: both.answers == ["late"], "the end of the reload")


def test_a_message_in_another_thread_s_hands_during_the_change_is_counted(tiny_bundle_path: Path) -> None:
    with reloading(good := tiny_config(tiny_bundle_path)) as (both, vehicle):
        vehicle.answer(240, "f1")
        old = both.runtime._session.intake
        assert both.reload(lambda: good) is None
        old.sample("sensors", {"a": 1.0})
        wait_for(lambda: both.runtime.captured("sensors") == 1, "the count")
        account = status(vehicle).streams["sensors"]
        assert (account.captured, account.dropped) == (1, {"reload": 1})


def test_decisions_are_numbered_on_through_a_change(tiny_bundle_path: Path) -> None:
    with reloading(good := tiny_config(tiny_bundle_path)) as (both, vehicle):
        vehicle.answer(240, "f1")
        assert both.reload(lambda: good) is None
        vehicle.answer(240, "f2")
        numbers = [message.seq for message in vehicle.decisions]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert all(isinstance(message, DecisionMessage) for message in vehicle.decisions)
