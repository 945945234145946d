"""Figures for Prometheus: a sink that counts what is published, and a page that tells it (`[metrics]`).

The sink has a thread of its own, so that counting costs the loop nothing but a queue. The page has another, which
serves one visitor at a time and gives each at most VISIT_S: nobody who is slow or floods it costs more than the page.
Names, types and units (seconds, bytes) follow Prometheus' own conventions.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_runtime.patient_server import PatientServer
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.wire import DecisionMessage, StatusMessage

log = logging.getLogger("edge_runtime.publish")

VISIT_S = 2.0
POLL_S = 0.1
LATENCY_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
AGE_S = (0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Figures(Collector):
    """What has been published, as Prometheus reads it. `count` on the sink's thread, `collect` on the page's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._status: StatusMessage | None = None
        self._status_at = 0.0
        self._latency = self._histogram("latency", "From capture to publish.", LATENCY_S)
        self._stage = self._histogram("stage", "A stage's inference, where it ran.", LATENCY_S, "stage")
        self._age = self._histogram("input_age", "Age of an input at the moment of decision.", AGE_S, "stream")
        self._decisions = Counter(
            "edge_runtime_decisions", "Decisions, heartbeats included.", ("source", "label"), registry=self.registry
        )
        self.registry.register(self)

    def count(self, message: DecisionMessage | StatusMessage) -> None:
        """Take one message in."""
        if isinstance(message, StatusMessage):
            self._status, self._status_at = message, time.monotonic()
            return
        self._decisions.labels(message.source, message.label).inc()
        for stream, state in message.inputs.items():
            if state.present and state.age_ms is not None:
                self._age.labels(stream).observe(state.age_ms / 1e3)
        if message.latency_ms.queue > 0:  # a heartbeat answers no message
            self._latency.observe(message.latency_ms.capture_to_publish / 1e3)
            for stage, milliseconds in message.latency_ms.infer.items():
                if milliseconds > 0:
                    self._stage.labels(stage).observe(milliseconds / 1e3)

    def collect(self) -> Iterator[Metric]:
        """What the newest status tells."""
        status = self._status
        if status is None:
            return
        bundle = {"name": status.bundle.name, "version": status.bundle.version, "digest": status.bundle.digest}
        yield InfoMetricFamily("edge_runtime_bundle", "The bundle that decides.", bundle)
        for name, text, value in (
            ("ready", "1 while the model decides.", status.state == "ready"),
            ("conserved", "1 while every stream's account balances.", status.conserved),
            ("status_age_seconds", "Since the newest status.", time.monotonic() - self._status_at),
            ("uptime_seconds", "Since the start.", status.uptime_s),
            ("resident_memory_bytes", "Resident memory.", status.memory_mb * (1 << 20)),
            ("temperature_celsius", "Of the hottest zone.", status.temperature_c),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"edge_runtime_{name}", text, float(value))
        for name, text, total in (
            ("engine_restarts", "Engines opened again.", status.engine_restarts),
            ("wall_clock_jumps", "Jumps of the wall clock.", status.wall_clock_jumps),
            (
                "deadline_misses",
                "Latencies beyond one period.",
                status.timings.deadline_misses if status.timings else 0,
            ),
        ):
            yield CounterMetricFamily(f"edge_runtime_{name}", text, float(total))
        yield from self._streams(status)
        yield _by_row("sink", CounterMetricFamily, "sink_dropped", "Messages that a sink could not take.", [
            (name, sink.dropped) for name, sink in status.sinks.items()
        ])  # fmt: skip

    @staticmethod
    def _streams(status: StatusMessage) -> Iterator[Metric]:
        streams = status.streams.items()
        counter, gauge = CounterMetricFamily, GaugeMetricFamily
        yield _by_row("stream", counter, "captured", "Messages taken in.", [(n, s.captured) for n, s in streams])
        yield _by_row("stream", counter, "considered", "Messages decided on.", [(n, s.decided) for n, s in streams])
        yield _by_row(
            "stream", gauge, "in_flight", "Messages not yet decided on.", [(n, s.in_flight) for n, s in streams]
        )
        yield _by_row("stream", gauge, "alive", "1 while it is seen in time.", [(n, s.alive) for n, s in streams])
        yield _by_row("stream", gauge, "rate_hertz", "Messages a second.", [(n, s.rate_hz) for n, s in streams])
        dropped = counter("edge_runtime_dropped", "Messages not decided on.", labels=("stream", "reason"))
        for name, stream in streams:
            for reason, count in stream.dropped.items():
                dropped.add_metric((name, reason), count)
        for reason, count in status.unrouted.items():
            dropped.add_metric(("", reason), count)
        yield dropped

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(
            f"edge_runtime_{name}_seconds", text, labels, buckets=(*buckets, float("inf")), registry=self.registry
        )


def _by_row(
    label: str,
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    rows: list[tuple[str, float]],
) -> Metric:
    metric = family(f"edge_runtime_{name}", text, labels=(label,))
    for row, value in rows:
        metric.add_metric((row,), float(value))
    return metric


class _Visit(WSGIRequestHandler):
    timeout = VISIT_S

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not logged."""


class _Server(PatientServer, WSGIServer):
    """One visitor at a time."""

    request_queue_size = 16

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Visit)

    def server_bind(self) -> None:
        # The base class asks the resolver for this host's name, which may take many seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A visitor that goes or says nothing is nobody's trouble."""


class MetricsSink(Sink):
    """Counts, and the page at `bind`."""

    def __init__(self, bind: str) -> None:
        """`bind` is `tcp://ADDRESS:PORT`; port `*` is chosen by the system. Raises OSError if it cannot be had."""
        host, _, port = bind.removeprefix("tcp://").rpartition(":")
        self._figures = Figures()
        self._server = _Server(host.strip("[]"), 0 if port == "*" else int(port))
        self._server.set_app(make_wsgi_app(self._figures.registry))
        self.endpoint = f"http://{host}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics: %s", self.endpoint)

    def publish(self, item: Published) -> None:
        self._figures.count(item.message)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
