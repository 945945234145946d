"""The live loop over real sockets, threads and processes."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import msgspec
import pytest
import zmq

from edge_runtime import Subscriber, config, schema
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage, StatusMessage
from tests import tiny
from tests.capture.test_sources import write_images, write_video
from tests.conftest import WAIT_S, jpeg, noise, running, tiny_config, wait_for


class Vehicle:
    """Sends inputs to a runtime and reads what it says."""

    def __init__(self, runtime: Runtime) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.connect(runtime.input_endpoints[0])
        self.subscriber = Subscriber(runtime.decisions_endpoint, timeout_s=WAIT_S)
        self.frames = 0
        self.statuses: list[StatusMessage] = []
        self.decisions: list[DecisionMessage] = []

    def frame(self, brightness: int, id: str | None = None) -> None:
        header = self._stamped("camera") | {"id": id}
        self.socket.send_multipart([json.dumps(header).encode(), jpeg(noise(brightness, self.frames))])
        self.frames += 1

    def text(self, text: str) -> None:
        self.socket.send_json(self._stamped("text") | {"text": text})

    def sample(self, **values: float) -> None:
        self.socket.send_json(self._stamped("sensors") | {"values": values})

    @staticmethod
    def _stamped(stream: str) -> dict[str, object]:
        # Without a stamp arrival would count, which is later than the capture of the frame sent right after.
        return {"schema": 1, "stream": stream, "captured_ns": time.monotonic_ns()}

    def read(self) -> DecisionMessage | StatusMessage:
        message = self.subscriber.receive(WAIT_S)
        assert message is not None
        if isinstance(message, DecisionMessage):
            self.decisions.append(message)
        else:
            self.statuses.append(message)
        return message

    def decision(self, **wanted: object) -> DecisionMessage:
        """The next decision with these values."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.read()
            if isinstance(message, DecisionMessage) and all(
                getattr(message, field) == value for field, value in wanted.items()
            ):
                return message
        raise AssertionError(f"no decision with {wanted}; the last was {self.decisions[-1:]}")

    def answer(self, brightness: int, id: str) -> DecisionMessage:
        """The decision on a frame with that id."""
        self.frame(brightness, id)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.read()
            if isinstance(message, DecisionMessage) and message.inputs["camera"].id == id:
                return message
        raise AssertionError(f"no decision on {id}")

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()
        self.subscriber.close()


@contextmanager
def driving(configuration: config.Config) -> Iterator[tuple[Runtime, Vehicle]]:
    with running(Runtime(configuration)) as runtime:
        vehicle = Vehicle(runtime)
        try:
            yield runtime, vehicle
        finally:
            vehicle.close()


def test_frames_sensors_and_text_become_decisions(tiny_bundle_path: Path) -> None:
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        bright = vehicle.answer(240, "f1")
        assert (bright.label, bright.source, bright.reason) == ("bright", "model", None)
        assert vehicle.answer(20, "f2").label == "dark"
        vehicle.sample(a=9.0)
        assert vehicle.answer(20, "f3").label == "high"
        vehicle.text("please stop now")
        stop = vehicle.answer(20, "f4")
        assert stop.label == "stop"
        assert stop.inputs["text"].present and stop.inputs["sensors"].present
        assert stop.latency_ms.capture_to_publish >= stop.latency_ms.queue > 0
        assert sum(stop.probabilities.values()) == pytest.approx(1)


def test_status_and_the_log_at_the_end_tell_where_the_time_went(
    tiny_bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latencies = []
    with caplog.at_level("INFO", "edge_runtime"), driving(tiny_config(tiny_bundle_path)) as (runtime, vehicle):
        for number in range(20):
            latencies.append(vehicle.answer(240, f"f{number}").latency_ms.capture_to_publish)
        runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
    told = vehicle.statuses[-1].timings
    assert told is not None
    found = told.since_start["latency"]
    assert found.count == len(latencies) and found == told.last_minute["latency"]
    assert found.max == pytest.approx(max(latencies), rel=0.01)
    assert found.p50 == pytest.approx(sorted(latencies)[9], rel=0.01)
    assert told.since_start["stage vision"].count > 0 and told.since_start["age camera"].count >= 20
    assert told.deadline_misses == sum(item > told.deadline_ms for item in latencies)
    last = [line for line in caplog.messages if "ms p50/p99/max: " in line]
    assert len(last) == 1 and f"latency {found.p50:.2f}/{found.p99:.2f}/{found.max:.2f}" in last[0]


def test_collections_while_it_runs_look_at_little(tiny_bundle_path: Path) -> None:
    before = gc.get_freeze_count()
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        vehicle.answer(200, "f1")
        assert not gc.isenabled()
        assert len(gc.get_objects()) < gc.get_freeze_count() / 4, "what stood at the start is looked at again"
    assert gc.isenabled() and gc.get_freeze_count() == before


def test_every_message_meets_the_shipped_schema_and_every_account_balances(tiny_bundle_path: Path) -> None:
    validators = {
        kind: jsonschema.Draft202012Validator(json.loads(schema.path(kind).read_text()))
        for kind in ("decision", "status")
    }
    with driving(tiny_config(tiny_bundle_path)) as (runtime, vehicle):
        for number in range(40):
            vehicle.sample(a=float(number))
            vehicle.sample(a=float("1e9"))
            if number % 10 == 0:
                vehicle.text("go on then")
            vehicle.answer(100, f"f{number}")
        runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
    for decision in vehicle.decisions:
        validators["decision"].validate(msgspec.to_builtins(decision))
    for status in vehicle.statuses:
        validators["status"].validate(msgspec.to_builtins(status))
        assert status.conserved
    last = vehicle.statuses[-1]
    assert {name: stream.captured for name, stream in last.streams.items()} == {
        "camera": 40,
        "sensors": 80,
        "text": 4,
    }
    assert last.streams["sensors"].dropped["out_of_range"] == 40
    assert sum(decision.dropped.get("out_of_range", 0) for decision in vehicle.decisions) <= 40
    assert last.streams["camera"].in_flight == 0
    assert vehicle.subscriber.lost == 0


def test_a_camera_that_falls_silent_makes_the_decision_safe(tiny_bundle_path: Path) -> None:
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        assert vehicle.answer(240, "f1").source == "model"
        safe = vehicle.decision(source="safe", reason="camera stale")
        assert safe.label == "stop"
        assert not safe.inputs["camera"].present
        wait_for(lambda: vehicle.read() is not None and bool(vehicle.statuses), "a status")
        while vehicle.statuses[-1].state != "degraded":
            vehicle.read()
        assert vehicle.statuses[-1].reason == "camera is silent"
        assert vehicle.answer(240, "f2").source == "model"


def test_expired_text_no_longer_counts(tmp_path: Path) -> None:
    streams = tiny.STREAMS | {"text": msgspec.structs.replace(tiny.STREAMS["text"], max_age_ms=150)}
    bundle = tiny.write_bundle(tmp_path / "b", streams=streams)
    with driving(tiny_config(bundle)) as (_, vehicle):
        vehicle.text("stop")
        assert vehicle.answer(240, "f1").label == "stop"
        time.sleep(0.2)
        late = vehicle.answer(240, "f2")
        assert (late.label, late.inputs["text"].reason) == ("bright", "expired")


def test_a_burst_of_frames_is_answered_by_the_newest_and_accounted_for(tiny_bundle_path: Path) -> None:
    with driving(tiny_config(tiny_bundle_path)) as (runtime, vehicle):
        for number in range(300):
            vehicle.frame(100, f"f{number}")
        while not (vehicle.decisions and vehicle.decisions[-1].inputs["camera"].id == "f299"):
            vehicle.read()
        runtime.stop()
        while not (vehicle.statuses and vehicle.statuses[-1].state == "stopped"):
            vehicle.read()
        camera = vehicle.statuses[-1].streams["camera"]
        assert camera.captured == 300
        assert camera.decided + sum(camera.dropped.values()) == 300
        assert set(camera.dropped) <= {"replaced", "superseded"}


def test_garbage_changes_nothing_but_a_counter(tiny_bundle_path: Path) -> None:
    with driving(tiny_config(tiny_bundle_path)) as (_, vehicle):
        for junk in (b"", b"\xff" * 1000, b"{}", b"[" * 5000):
            vehicle.socket.send(junk)
        assert vehicle.answer(240, "f1").source == "model"
        seen = len(vehicle.statuses)
        while len(vehicle.statuses) < seen + 2:
            vehicle.read()
        assert vehicle.statuses[-1].unrouted == {"malformed": 4}


def test_an_engine_that_gives_no_numbers_makes_decisions_safe_and_the_status_degraded(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", scale=float("nan"))
    with driving(tiny_config(bundle)) as (_, vehicle):
        decision = vehicle.answer(240, "f1")
        assert decision.source == "safe" and decision.reason is not None and "not finite" in decision.reason
        while not (vehicle.statuses and vehicle.statuses[-1].engine_restarts > 0):
            vehicle.answer(240, f"g{vehicle.frames}")
        assert vehicle.statuses[-1].state == "degraded"


def test_files_played_to_their_end_end_the_run_where_so_configured(tmp_path: Path, tiny_bundle_path: Path) -> None:
    rows = "\n".join(f"{0.01 * row:.2f},{row}" for row in range(50))
    (tmp_path / "s.csv").write_text("t_s,a\n" + rows + "\n")
    source = config.FileSource("sensors", str(tmp_path / "s.csv"))
    runtime = Runtime(tiny_config(tiny_bundle_path, source, stop_at_end=True))
    with running(runtime):
        with Subscriber(runtime.decisions_endpoint) as subscriber:
            while subscriber.status is None or subscriber.status.state != "stopped":
                assert subscriber.receive(WAIT_S) is not None
        sensors = subscriber.status.streams["sensors"]
    assert sensors.captured == 50
    assert sensors.balanced and sensors.in_flight == 0


def test_reload_takes_a_new_bundle_and_keeps_the_old_on_a_bad_one(tmp_path: Path, tiny_bundle_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "b", version="2.0.0")
    bad = tiny.write_bundle(tmp_path / "bad")
    (bad / "tokenizer.model").write_bytes(b"tampered")
    first = tiny_config(tiny_bundle_path)
    with driving(first) as (runtime, vehicle):
        assert vehicle.answer(240, "f1").bundle.version == "1.0.0"
        fixed = config.ZmqSource(runtime.input_endpoints[0])
        runtime.reload(lambda: msgspec.structs.replace(first, bundle=str(bad), source=(fixed,)))
        assert vehicle.answer(240, "f2").bundle.version == "1.0.0"
        runtime.reload(lambda: msgspec.structs.replace(first, bundle=str(other), source=(fixed,)))
        while not (vehicle.decisions and vehicle.decisions[-1].bundle.version == "2.0.0"):
            vehicle.read()
        assert vehicle.answer(240, "f3").source == "model"
        assert vehicle.subscriber.restarts == 0

        def raises() -> config.Config:
            raise ConfigError("config x: cannot be read")

        runtime.reload(raises)
        assert vehicle.answer(240, "f4").bundle.version == "2.0.0"


def test_a_bundle_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"), running(Runtime(tiny_config(tmp_path / "none"))):
        pass


CONFIG = """
name = "svc"
bundle = "{bundle}"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "zmq"
bind = "ipc://{folder}/in"
"""


class Manager:
    """The service manager's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(WAIT_S)
        self.heard: list[str] = []

    def drain(self) -> None:
        """Read what waits: the kernel keeps a few datagrams only."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(4096)

    def wait(self, word: str) -> None:
        while word not in self.heard:
            self.heard.extend(self.socket.recv(4096).decode().splitlines())


def test_as_a_service_it_says_ready_feeds_the_watchdog_reloads_and_ends_in_time(
    tmp_path: Path, tiny_bundle_path: Path
) -> None:
    path = tmp_path / "svc.toml"
    path.write_text(CONFIG.format(bundle=tiny_bundle_path, folder=tmp_path))
    manager = Manager(tmp_path / "notify")
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    environment["RUNTIME_DIRECTORY"] = str(tmp_path)
    command = [sys.executable, "-m", "edge_runtime", "run", str(path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
        manager.wait("STATUS=degraded: camera is silent")
        path.write_text("nonsense = ")
        manager.heard.clear()
        process.send_signal(signal.SIGHUP)
        manager.wait("RELOADING=1")
        manager.wait("READY=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.heard)
        manager.heard.clear()
        manager.wait("WATCHDOG=1")
        ask = [sys.executable, "-m", "edge_runtime", "reload", str(process.pid)]
        refused = subprocess.run(ask, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (refused.returncode, "is not TOML" in refused.stderr) == (2, True), refused.stderr
        path.write_text(CONFIG.format(bundle=tiny_bundle_path, folder=tmp_path))
        done = subprocess.run(ask, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        manager.drain()
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
        assert time.monotonic() - start < 10  # two seconds are promised; this machine may be busy
        manager.wait("STOPPING=1")
        assert "reload refused, the old configuration goes on" in log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.wait()
        manager.socket.close()


FILES_CONFIG = """
name = "files"
bundle = "{bundle}"
allow_unsigned = true
stop_at_end = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
[[source]]
kind = "{kind}"
stream = "camera"
path = "{path}"
{more}
"""


@pytest.mark.parametrize("kind", ["video", "images"])
def test_a_video_or_a_folder_of_pictures_is_a_camera_by_configuration_alone(
    kind: str, tmp_path: Path, tiny_bundle_path: Path
) -> None:
    if kind == "video":
        path, count, more = write_video(tmp_path / "v.mp4", 30), 30, "speed = 2.0"
    else:
        path, count, more = write_images(tmp_path / "pictures", 20), 20, "rate_hz = 50.0"
    config_file = tmp_path / "files.toml"
    config_file.write_text(
        FILES_CONFIG.format(bundle=tiny_bundle_path, folder=tmp_path, kind=kind, path=path.name, more=more)
    )
    runtime = Runtime(config.load_config(config_file))
    labels = set()
    with running(runtime), Subscriber(runtime.decisions_endpoint) as subscriber:
        while subscriber.status is None or subscriber.status.state != "stopped":
            message = subscriber.receive(WAIT_S)
            assert message is not None
            if isinstance(message, DecisionMessage) and message.source == "model":
                labels.add(message.label)
    camera = subscriber.status.streams["camera"]
    assert camera.captured == count
    assert camera.balanced and camera.decided > 0
    assert labels <= {"bright", "dark"}
