"""What Prometheus reads, on a page fetched from the running sink, and what neighbours can do to it."""

from __future__ import annotations

import errno
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_runtime.config import Config
from edge_runtime.config import MetricsSink as MetricsRow
from edge_runtime.errors import ConfigError
from edge_runtime.patient_server import NO_ROOM_S
from edge_runtime.publish.metrics import MetricsSink
from edge_runtime.publish.sink import published
from edge_runtime.runtime import Runtime
from edge_runtime.wire import InputState, Latency, SinkHealth, StreamHealth
from tests.conftest import WAIT_S, running, tiny_config, wait_for
from tests.publish.test_sinks import decision, status
from tests.test_runtime import Vehicle

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def sink() -> Iterator[MetricsSink]:
    sink = MetricsSink("tcp://127.0.0.1:*")
    yield sink
    sink.close()


def read(endpoint: str) -> Samples:
    """Every sample of the page, by name and labels."""
    with urllib.request.urlopen(endpoint, timeout=WAIT_S) as answer:
        assert answer.headers.get_content_type() == "text/plain"
        families = text_string_to_metric_families(answer.read().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def at(samples: Samples, name: str, /, **labels: str) -> float:
    return samples["edge_runtime_" + name, frozenset(labels.items())]


def test_decisions_are_counted_and_their_times_put_into_buckets(sink: MetricsSink) -> None:
    times = Latency(4.0, 0.1, 0.2, {"vision": 2.5, "text": 0.0}, 0.1)
    inputs = {"camera": InputState(True, 12.0, 1), "text": InputState(False, None, None, None, "missing")}
    sink.publish(published(decision(0, label="go", latency_ms=times, inputs=inputs)))
    sink.publish(published(decision(1, label="go", latency_ms=msgspec.structs.replace(times, capture_to_publish=40.0))))
    heartbeat = msgspec.structs.replace(times, queue=0.0)
    sink.publish(published(decision(2, label="wait", source="safe", latency_ms=heartbeat, inputs=inputs)))
    page = read(sink.endpoint)
    assert at(page, "decisions_total", source="model", label="go") == 2
    assert at(page, "decisions_total", source="safe", label="wait") == 1
    assert at(page, "latency_seconds_count") == 2
    assert at(page, "latency_seconds_sum") == pytest.approx(0.044)
    assert at(page, "latency_seconds_bucket", le="0.003") == 0
    assert at(page, "latency_seconds_bucket", le="0.005") == 1
    assert at(page, "latency_seconds_bucket", le="+Inf") == 2
    assert at(page, "stage_seconds_count", stage="vision") == 2
    assert ("edge_runtime_stage_seconds_count", frozenset({("stage", "text")})) not in page
    assert at(page, "input_age_seconds_sum", stream="camera") == pytest.approx(0.024)
    assert ("edge_runtime_input_age_seconds_count", frozenset({("stream", "text")})) not in page


def test_the_newest_status_is_told(sink: MetricsSink) -> None:
    assert "edge_runtime_ready" not in {name for name, _ in read(sink.endpoint)}
    camera = StreamHealth(100, 60, {"replaced": 30, "stale": 5}, 5, 29.5, 30.0, True)
    told = msgspec.structs.replace(
        status(1), streams={"camera": camera}, unrouted={"no_stream": 7}, engine_restarts=2, uptime_s=9.0
    )
    sink.publish(published(msgspec.structs.replace(told, uptime_s=8.0)))
    sink.publish(published(told))
    page = read(sink.endpoint)
    assert at(page, "ready") == 1 and at(page, "conserved") == 1
    assert at(page, "uptime_seconds") == 9.0
    assert at(page, "resident_memory_bytes") == 1 << 20
    assert at(page, "bundle_info", name="tiny", version="1", digest="00") == 1
    assert at(page, "captured_total", stream="camera") == 100
    assert at(page, "considered_total", stream="camera") == 60
    assert at(page, "in_flight", stream="camera") == 5
    assert at(page, "rate_hertz", stream="camera") == 29.5
    assert at(page, "dropped_total", stream="camera", reason="replaced") == 30
    assert at(page, "dropped_total", stream="camera", reason="stale") == 5
    assert at(page, "dropped_total", stream="", reason="no_stream") == 7
    assert at(page, "engine_restarts_total") == 2
    sink.publish(published(msgspec.structs.replace(told, state="degraded", reason="camera is silent")))
    assert at(read(sink.endpoint), "ready") == 0


def test_visitors_that_say_nothing_or_nonsense_keep_nobody_out(sink: MetricsSink) -> None:
    address = (urlsplit(sink.endpoint).hostname, urlsplit(sink.endpoint).port)
    with closing(socket.create_connection(address)), closing(socket.create_connection(address)) as rude:
        rude.sendall(b"\xff\x00" * 1000)
        assert at(read(sink.endpoint), "latency_seconds_count") == 0


def test_a_closed_sink_frees_its_address_and_closes_again(sink: MetricsSink) -> None:
    bind = f"tcp://127.0.0.1:{urlsplit(sink.endpoint).port}"
    with pytest.raises(OSError):
        MetricsSink(bind)
    read(sink.endpoint)
    sink.close()
    sink.close()
    again = MetricsSink(bind)
    assert at(read(again.endpoint), "latency_seconds_count") == 0
    again.close()


def test_it_binds_to_version_6_too() -> None:
    sink = MetricsSink("tcp://[::1]:*")
    assert at(read(sink.endpoint), "latency_seconds_count") == 0
    sink.close()


def test_a_running_runtime_serves_it(tiny_bundle_path: Path) -> None:
    configuration = msgspec.structs.replace(tiny_config(tiny_bundle_path), metrics=MetricsRow("tcp://127.0.0.1:*"))
    with running(Runtime(configuration)) as runtime:
        vehicle = Vehicle(runtime)
        try:
            for number in range(5):
                vehicle.answer(200, f"f{number}")
            sink = next(outlet.sink for outlet in runtime._outlets if isinstance(outlet.sink, MetricsSink))
            wait_for(lambda: at(read(sink.endpoint), "latency_seconds_count") >= 5, "the decisions on the page")
            assert sum(v for (name, _), v in read(sink.endpoint).items() if name == "edge_runtime_decisions_total") >= 5
        finally:
            vehicle.close()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[metrics]\nbind = "ipc:///tmp/m"', "expected tcp://ADDRESS:PORT"),
        ('[metrics]\nbind = "tcp://0.0.0.0:9464"', "open to the network"),
        ("[metrics]\nport = 3", "valid keys are bind"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "car.toml"
    path.write_text(f'name = "car"\nbundle = "shipped:vehicle"\n{table}\n[[source]]\nkind = "zmq"\n')
    with pytest.raises(ConfigError, match=message):
        Config.load(path)


def test_the_table_is_short_for_a_sink_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    head = 'name = "car"\nbundle = "shipped:vehicle"\n[[source]]\nkind = "zmq"\n'
    path.write_text(head + '[metrics]\nbind = "tcp://127.0.0.1:9000"')
    short = Config.load(path).sinks
    path.write_text(head + '[[sink]]\nkind = "metrics"\nbind = "tcp://127.0.0.1:9000"')
    assert set(short) == set(Config.load(path).sinks)


def test_every_name_of_the_documentation_is_on_the_page_and_no_other(sink: MetricsSink) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"^\| `(edge_runtime_\w+)`", text, re.MULTILINE))
    inputs = {"camera": InputState(True, 12.0, 1)}
    sink.publish(published(decision(0, inputs=inputs)))
    camera = StreamHealth(1, 0, {"stale": 1}, 0, 1.0, 1.0, True)
    health = SinkHealth("open", 1, 0, 0, None)
    told = msgspec.structs.replace(status(1), streams={"camera": camera}, sinks={"1 zmq": health}, temperature_c=40.0)
    sink.publish(published(told))
    found = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in read(sink.endpoint)}
    assert {name for name in found if not name.endswith("_created")} == named


def test_without_a_file_descriptor_left_it_waits_and_does_not_spin(
    sink: MetricsSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, real = [], socket.socket.accept

    def accept(listening: socket.socket) -> tuple[socket.socket, object]:
        tries.append(listening)
        if len(tries) < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(listening)

    pauses: list[float] = []
    monkeypatch.setattr("edge_runtime.patient_server.time.sleep", pauses.append)
    monkeypatch.setattr(socket.socket, "accept", accept)
    assert read(sink.endpoint)
    assert pauses.count(NO_ROOM_S) >= 3
