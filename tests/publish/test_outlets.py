"""Whatever a sink does, the loop and the other sinks go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from edge_runtime.config import Config, RecordingSink, ZmqSink, load_config
from edge_runtime.errors import ConfigError
from edge_runtime.publish import outlet as outlets
from edge_runtime.publish.outlet import DirectOutlet, Outlet, QueuedOutlet
from edge_runtime.publish.sink import Published, Sink, published
from edge_runtime.wire import BundleId
from tests.conftest import WAIT_S, tiny_config, wait_for
from tests.publish.test_sinks import BUNDLE, decision
from tests.test_runtime import driving


class Memory(Sink):
    """Keeps what it is given; fails or blocks when told to."""

    opened: ClassVar[int] = 0

    def __init__(self) -> None:
        if self.refuse_to_open:
            raise OSError("not there yet")
        Memory.opened += 1

    refuse_to_open: ClassVar[bool] = False
    broken: ClassVar[bool] = False
    gate: ClassVar[threading.Event] = threading.Event()
    got: ClassVar[list[int]] = []

    def publish(self, item: Published) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.gate.wait()
        self.got.append(item.message.seq)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outlets, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outlets, "BLOCKED_AFTER_S", 0.01)
    Memory.opened, Memory.refuse_to_open, Memory.broken = 0, False, False
    Memory.got, Memory.gate = [], threading.Event()
    Memory.gate.set()
    yield
    Memory.gate.set()


@pytest.mark.parametrize("kind", [DirectOutlet, QueuedOutlet])
def test_one_that_raises_is_opened_again_and_what_it_missed_is_counted(kind: type[Outlet]) -> None:
    Memory.broken = True
    outlet = kind("1 memory", Memory)
    outlet.publish(published(decision(0)))
    wait_for(lambda: outlet.health().failures > 0, "the failure")
    assert outlet.health().dropped == 1
    assert outlet.health().reason == "RuntimeError: broken"
    Memory.broken = False

    def again() -> bool:
        outlet.serve()
        return outlet.health().state == "open"

    wait_for(again, "the sink to be open again")
    outlet.publish(published(decision(1)))
    wait_for(lambda: Memory.got == [1], "the decision")
    assert (outlet.health().published, outlet.health().reason, Memory.opened) == (1, None, 2)
    outlet.close()


def test_one_with_a_queue_is_served_however_much_it_is_given() -> None:
    class Served(Memory):
        times: ClassVar[int] = 0

        def serve(self) -> None:
            Served.times += 1

    outlet = QueuedOutlet("1 served", Served)
    outlet.publish(published(decision(0)))
    ended = threading.Event()

    def give() -> None:
        while not ended.wait(0.0005):
            outlet._hand(lambda sink: time.sleep(0.001))  # the queue is never empty

    giver = threading.Thread(target=give)
    giver.start()
    try:
        wait_for(outlet._calls.full, "a full queue")
        before = Served.times
        wait_for(lambda: Served.times > before + 3, "its turns")
    finally:
        ended.set()
        giver.join()
        outlet.close()


@pytest.mark.parametrize("kind", [DirectOutlet, QueuedOutlet])
def test_one_that_does_not_open_is_tried_again(kind: type[Outlet]) -> None:
    Memory.refuse_to_open = True
    outlet = kind("1 memory", Memory)

    def failures(count: int) -> bool:
        outlet.serve()
        return outlet.health().failures >= count

    wait_for(lambda: failures(2), "two attempts")
    assert outlet.health().state == "retrying" and "not there yet" in str(outlet.health().reason)
    Memory.refuse_to_open = False
    wait_for(lambda: failures(2) and outlet.health().state == "open", "it to open")
    outlet.close()


@pytest.mark.parametrize("kind", [DirectOutlet, QueuedOutlet])
def test_one_that_does_not_take_the_session_is_closed_and_tried_again(
    kind: type[Outlet], tiny_bundle_path: Path
) -> None:
    class Picky(Memory):
        refuses: ClassVar[bool] = True
        sessions: ClassVar[int] = 0
        closed: ClassVar[int] = 0

        def session(self, config: Config, bundle: BundleId, streams: object) -> None:
            if Picky.refuses:
                raise ConfigError("no secret")
            Picky.sessions += 1

        def close(self) -> None:
            Picky.closed += 1

    outlet = kind("1 picky", Picky)
    outlet.session(tiny_config(tiny_bundle_path), BUNDLE, {})

    def failures(count: int) -> bool:
        outlet.serve()
        return outlet.health().failures >= count

    wait_for(lambda: failures(3), "three attempts")
    assert (outlet.health().state, outlet.health().reason) == ("retrying", "no secret")
    Picky.refuses = False
    wait_for(lambda: failures(3) and outlet.health().state == "open", "it to open")
    wait_for(lambda: Picky.closed == Memory.opened - 1, "all but the last to be closed")
    outlet.publish(published(decision(1)))
    wait_for(lambda: Memory.got == [1], "the decision")
    assert Picky.sessions == 1
    outlet.close()


def test_what_opens_after_its_outlet_was_closed_is_closed() -> None:
    may_open, opening = threading.Event(), threading.Event()
    closed: list[bool] = []

    class Slow(Memory):
        def __init__(self) -> None:
            if not opening.is_set():  # the first time, on the outlet's own thread
                opening.set()
                raise OSError("not yet")
            assert may_open.wait(WAIT_S)
            super().__init__()

        def close(self) -> None:
            closed.append(True)

    outlet = DirectOutlet("1 slow", Slow)

    def begun() -> bool:
        outlet.serve()
        return outlet._opening is not None

    wait_for(begun, "the second attempt")
    outlet.close()
    may_open.set()
    wait_for(lambda: closed == [True], "what was opened to be closed")


def test_one_that_blocks_fills_its_own_queue_and_holds_nobody_up() -> None:
    Memory.gate.clear()
    outlet = QueuedOutlet("1 memory", Memory)
    total = outlets.QUEUE_LENGTH + 100
    for seq in range(total):
        outlet.publish(published(decision(seq)))
    wait_for(lambda: outlet.health().state == "blocked", "the state")
    assert outlet.health().dropped >= 99
    Memory.gate.set()
    wait_for(lambda: len(Memory.got) + outlet.health().dropped == total, "the rest")
    assert Memory.got == sorted(set(Memory.got)), "in order, and none twice"
    outlet.close()


def test_a_recording_that_cannot_be_written_and_an_address_in_use_stop_no_decision(
    tmp_path: Path, tiny_bundle_path: Path
) -> None:
    plain = tiny_config(tiny_bundle_path)
    with driving(plain) as (other, _):
        rows = (*plain.sink, ZmqSink(other.decisions_endpoint), RecordingSink(str(tmp_path / "none" / "a.mcap")))
        with driving(msgspec.structs.replace(plain, sink=rows)) as (_, vehicle):
            assert vehicle.answer(240, "f1").source == "model"
            while not vehicle.statuses:
                vehicle.read()
            sinks = vehicle.statuses[-1].sinks
            assert [health.state for health in sinks.values()] == ["open", "retrying", "retrying"]
            assert "is another runtime running" in str(sinks["2 zmq"].reason)
            assert "cannot be written" in str(sinks["3 recording"].reason)
            (tmp_path / "none").mkdir()
            deadline = time.monotonic() + WAIT_S
            while vehicle.statuses[-1].recording is None:
                vehicle.answer(240, f"g{vehicle.frames}")
                assert time.monotonic() < deadline
    from edge_runtime.recording.reader import Recording

    assert len(list(Recording(tmp_path / "none" / "a.mcap").events())) > 1


PLUGIN = """
from msgspec import Struct
from edge_runtime.capture.source import Source
from edge_runtime.publish.sink import Sink

class Lines(Sink):
    class Settings(Struct, frozen=True, forbid_unknown_fields=True):
        path: str

    def __init__(self, settings):
        self._file = open(settings.path, "a")

    def publish(self, item):
        self._file.write(item.payload.decode() + "\\n")
        self._file.flush()

    def close(self):
        self._file.close()

class Ramp(Source):
    ends = True

    class Settings(Struct, frozen=True, forbid_unknown_fields=True):
        stream: str
        count: int

    def __init__(self, settings, intake, streams):
        super().__init__("ramp", intake)
        self._given = settings

    def _run(self):
        for number in range(self._given.count):
            self._intake.sample(self._given.stream, {"a": float(number)})
"""
CONFIG = """
name = "own"
bundle = "{bundle}"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "tcp://127.0.0.1:*"
[[sink]]
kind = "lines"
path = "said.jsonl"
[[source]]
kind = "ramp"
stream = "sensors"
count = 9
[[source]]
kind = "zmq"
bind = "tcp://127.0.0.1:*"
"""


def test_kinds_that_another_package_brings_run_and_are_checked_as_strictly(
    tmp_path: Path, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "own-1.dist-info").mkdir(parents=True)
    (site / "own_kinds_for_a_test.py").write_text(PLUGIN)
    (site / "own-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1\n")
    (site / "own-1.dist-info" / "entry_points.txt").write_text(
        "[edge_runtime.sources]\nramp = own_kinds_for_a_test:Ramp\n"
        "[edge_runtime.sinks]\nlines = own_kinds_for_a_test:Lines\n"
    )
    monkeypatch.syspath_prepend(str(site))
    file = tmp_path / "c.toml"
    text = CONFIG.format(bundle=tiny_bundle_path)
    for old, new, message in (
        ("count = 9", "cuont = 5", "source: item 1: unknown key 'cuont'; valid keys are count, stream"),
        ("count = 9", 'count = "x"', "source: item 1: .*count"),
        (
            '"lines"',
            '"lnes"',
            "sink: item 2: kind is 'lnes'; there are zmq, unix, recording, metrics, mqtt, dashboard, foxglove, lines",
        ),
        ('"sensors"', '"none"', "no fitting stream 'none'"),
    ):
        file.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message), driving(load_config(file)):
            pass
    file.write_text(text)
    with driving(load_config(file)) as (runtime, vehicle):
        wait_for(lambda: runtime.captured("sensors") == 9, "the other package's samples")
        answer = vehicle.answer(20, "f1")
        assert (answer.label, answer.inputs["sensors"].seq) == ("high", 8)
    said = [msgspec.json.decode(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert "f1" in [item["inputs"]["camera"]["id"] for item in said if "inputs" in item]
